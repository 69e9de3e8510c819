//! The end of the system: first the logs leave the machine, then it powers off or reboots.
//!
//! The console is asked through the supervisor's export `flush` (see `cloister_ring::orders`). It
//! may be dead, hostile or not wired at all, so each step has a deadline.

use cloister_ring::orders::{FLUSH, FLUSHED};
use cloister_ring::{Link, Message, Side};
use cloister_rt::{Bits, Duration, Grants, Instant, Mailbox, generation};

/// The export's name.
const NAME: &str = "flush";
/// How long the console may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait where no console can answer: the time of many of its periods.
const PAUSE: Duration = Duration::from_millis(200);

/// What the machine does in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It powers off.
    PowerOff,
    /// It reboots.
    Reboot,
}

struct Wire {
    mailbox: Mailbox,
    link: Link<'static>,
}

/// Whether the end has begun, and how far it is.
pub struct Ending {
    wire: Option<Wire>,
    how: Option<How>,
    deadline: Option<Instant>,
    is_asked: bool,
    is_flushed: bool,
}

impl Ending {
    /// Finds the console, if the manifest wires it.
    pub fn new(grants: Grants) -> Ending {
        let wire = grants.served(NAME).ok().and_then(|mailbox| {
            let link = Link::new(mailbox.memory.words(), Side::Server, generation()).ok()?;
            Some(Wire { mailbox, link })
        });
        Ending { wire, how: None, deadline: None, is_asked: false, is_flushed: false }
    }

    /// What the console's signal sets.
    pub fn bits(&self) -> Bits {
        self.wire.as_ref().map_or(Bits::NONE, |wire| wire.mailbox.bits)
    }

    /// Begins the end; the first reason decides.
    pub fn begin(&mut self, how: How) {
        if self.how.is_some() {
            return;
        }
        match how {
            How::PowerOff => defmt::info!("all is done; the machine powers off"),
            How::Reboot => defmt::warn!("the machine reboots"),
        }
        self.how = Some(how);
        let patience = if self.wire.is_some() { PATIENCE } else { PAUSE };
        self.deadline = Some(Instant::now() + patience);
    }

    /// Until when the console may answer.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Speaks with the console. What the machine shall do now, once the time has come.
    pub fn is_due(&mut self) -> Option<How> {
        self.step();
        let how = self.how?;
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        (self.is_flushed || is_late).then_some(how)
    }

    fn step(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let wake = || wire.mailbox.peer.wake();
        wire.link.meet(wake);
        if self.how.is_some() && !self.is_asked {
            let order = Message([FLUSH, 0, 0, 0, 0, 0, 0, 0]);
            self.is_asked = wire.link.send(&order, wake).is_ok();
        }
        match wire.link.receive(wake) {
            Ok(Some(message)) => self.is_flushed = self.is_asked && message.0[0] == FLUSHED,
            Ok(None) => {}
            // The console's next life has not heard the order.
            Err(_) => self.is_asked = false,
        }
    }
}
