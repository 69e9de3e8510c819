//! The wire to the supervisor: its order to ship everything, which comes before it powers the
//! machine off; how the virtual machines fare; and what a person wants of them.
//!
//! The wire is optional: without a grant `flush` there is nobody to take orders from.

use cloister_console_core::{Held, Mux, Notice};
use cloister_ring::orders::{NAME_BYTES, Name, Operation, Order, Report};
use cloister_ring::{Link, Lost, Side};
use cloister_rt::abi::name_str;
use cloister_rt::{Bits, Duration, Grants, Instant, Mailbox, generation};

/// The grant's name.
const NAME: &str = "flush";
/// Most messages that one look takes: what a mailbox of a page holds.
const LOOK_MAX: usize = 16;
/// How long what a person wants waits for a supervisor that has not come, or does not read.
const PATIENCE: Duration = Duration::from_secs(2);

struct Wire {
    mailbox: Mailbox,
    link: Link<'static>,
}

/// The supervisor, as the console sees it.
pub struct Supervisor {
    wire: Option<Wire>,
    held: Held<Report>,
    is_ordered: bool,
}

impl Supervisor {
    /// Looks for the supervisor, if the manifest grants that.
    pub fn new(grants: Grants) -> Supervisor {
        let Ok(mailbox) = grants.mailbox(NAME) else {
            return Supervisor { wire: None, held: Held::default(), is_ordered: false };
        };
        let words = mailbox.memory.words();
        let link = Link::new(words, Side::Client, generation());
        if let Err(small) = &link {
            defmt::error!("mailbox flush has {=usize} words, too few for a message", small.words);
        }
        let wire = link.ok().map(|link| Wire { mailbox, link });
        Supervisor { wire, held: Held::default(), is_ordered: false }
    }

    /// What the supervisor's signal sets.
    pub fn bits(&self) -> Bits {
        self.wire.as_ref().map_or(Bits::NONE, |wire| wire.mailbox.bits)
    }

    /// Hears what the supervisor says, and answers an order once everything was shipped. `true`: an
    /// order has just come, and rings and guests are to be looked at once more before it is
    /// answered, for what was said before it.
    pub fn step(&mut self, is_drained: bool, mux: &mut Mux<'_>) -> bool {
        if self.is_ordered && is_drained {
            self.is_ordered = false;
            // Without a peer the order is void; with a full mailbox the supervisor does not read.
            self.report(Report::Flushed);
        }
        if !self.held.is_empty() {
            let mut held = core::mem::take(&mut self.held);
            let given_up = held.offer(Instant::now().tsc(), |report| self.report(*report));
            self.held = held;
            if given_up > 0 {
                mux.notices.answer(Notice::NoSupervisor);
            }
        }
        for _ in 0..LOOK_MAX {
            match self.hear() {
                Some(Order::Flush) => {
                    self.is_ordered = true;
                    return true;
                }
                Some(Order::State(name, state)) => {
                    if let Some(vm) = mux.find(name_str(&name)) {
                        mux.set_state(vm, state);
                    }
                }
                Some(Order::Refused(name, operation, state)) => {
                    if let Some(vm) = mux.find(name_str(&name)) {
                        mux.notices.answer(Notice::Refused(vm, operation, state));
                    }
                }
                None => break,
            }
        }
        false
    }

    /// Passes on what a person wants of a virtual machine, or of a task, as soon as the supervisor
    /// takes it. `false`: there is none, or too much waits for it already.
    pub fn command(&mut self, name: &str, operation: Operation) -> bool {
        let mut padded: Name = [0; NAME_BYTES];
        padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        self.want(Report::Command(padded, operation))
    }

    /// Passes on that a person switches the machine off, as [`Supervisor::command`] does.
    pub fn power_off(&mut self) -> bool {
        self.want(Report::PowerOff)
    }

    fn want(&mut self, report: Report) -> bool {
        if self.held.is_empty() && self.report(report) {
            return true;
        }
        let until = (Instant::now() + PATIENCE).tsc();
        self.wire.is_some() && self.held.push(report, until)
    }

    fn report(&mut self, report: Report) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        wire.link.send(&report.message(), || wire.mailbox.peer.wake()).is_ok()
    }

    fn hear(&mut self) -> Option<Order> {
        let wire = self.wire.as_mut()?;
        match wire.link.receive(|| wire.mailbox.peer.wake()) {
            Ok(Some(message)) => {
                let order = Order::of(&message);
                if order.is_none() {
                    let [kind, ..] = message.0;
                    defmt::warn!("order {=u64} from the supervisor is unknown", kind);
                }
                order
            }
            Ok(None) => None,
            Err(Lost::Gone) => {
                self.is_ordered = false;
                None
            }
            Err(Lost::Retired(_)) => {
                defmt::error!("the supervisor's mailbox is damaged; orders are not taken any more");
                self.wire = None;
                None
            }
        }
    }
}
