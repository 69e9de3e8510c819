//! The end of the system: first the logs leave the machine, then it powers off or reboots.
//!
//! The console is asked to ship them. It may be dead, hostile or not wired at all, so each step has
//! a deadline.

use cloister_ring::orders::Order;
use cloister_rt::{Duration, Instant};

use crate::console::Console;

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

/// Whether the end has begun, and how far it is.
#[derive(Default)]
pub struct Ending {
    how: Option<How>,
    deadline: Option<Instant>,
    is_asked: bool,
    is_flushed: bool,
}

impl Ending {
    /// Begins the end; the first reason decides.
    pub fn begin(&mut self, how: How, console: &Console) {
        if self.how.is_some() {
            return;
        }
        match how {
            How::PowerOff => defmt::info!("all is done; the machine powers off"),
            How::Reboot => defmt::warn!("the machine reboots"),
        }
        self.how = Some(how);
        let patience = if console.is_wired() { PATIENCE } else { PAUSE };
        self.deadline = Some(Instant::now() + patience);
    }

    /// Until when the console may answer.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The console says that everything was shipped.
    pub fn flushed(&mut self) {
        self.is_flushed = self.is_asked;
    }

    /// The console's next life has not heard the order.
    pub fn console_is_new(&mut self) {
        self.is_asked = false;
    }

    /// Asks the console, if it was not asked yet. What the machine shall do now, once the time has
    /// come.
    pub fn is_due(&mut self, console: &mut Console) -> Option<How> {
        let how = self.how?;
        self.is_asked = self.is_asked || console.say(Order::Flush);
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        (self.is_flushed || is_late).then_some(how)
    }
}
