//! The wire to the console: the supervisor's export `flush` (see `cloister_ring::orders`).
//!
//! The console may be dead, hostile or not wired at all, so nothing here waits. Invariant: the
//! console is told the state of every virtual machine once for each of its lives and once for each
//! change, as soon as there is room; only the newest state matters.

use cloister_ring::orders::{Name, Operation, Order, Report, VmState};
use cloister_ring::{Link, Lost, Side, Unsent};
use cloister_rt::{Bits, Grants, Mailbox, generation};

use crate::wards::MAX;

/// The export's name.
const NAME: &str = "flush";
/// Most messages that one look takes: what a mailbox of a page holds.
const LOOK_MAX: usize = 16;

struct Wire {
    mailbox: Mailbox,
    link: Link<'static>,
}

/// The console, as the supervisor sees it.
pub struct Console {
    wire: Option<Wire>,
    told: [Option<VmState>; MAX],
}

/// What the console has said.
pub enum Said {
    /// Nothing.
    Nothing,
    /// Its latest life knows nothing of what was said before.
    IsNew,
    /// Something.
    Report(Report),
    /// Something that no supervisor of this version understands.
    Nonsense,
}

impl Console {
    /// Finds the console, if the manifest wires it.
    pub fn new(grants: Grants) -> Console {
        let wire = grants.served(NAME).ok().and_then(|mailbox| {
            let link = Link::new(mailbox.memory.words(), Side::Server, generation()).ok()?;
            Some(Wire { mailbox, link })
        });
        Console { wire, told: [None; MAX] }
    }

    /// Whether the manifest wires it.
    pub fn is_wired(&self) -> bool {
        self.wire.is_some()
    }

    /// What the console's signal sets.
    pub fn bits(&self) -> Bits {
        self.wire.as_ref().map_or(Bits::NONE, |wire| wire.mailbox.bits)
    }

    /// Says something. `false`: nobody hears it now.
    pub fn say(&mut self, order: Order) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        match wire.link.send(&order.message(), || wire.mailbox.peer.wake()) {
            Ok(()) => true,
            Err(Unsent::Lost(_)) => {
                self.told = [None; MAX];
                false
            }
            Err(Unsent::NoPeer | Unsent::Full) => false,
        }
    }

    /// Hears each thing that was said, up to as many as fit in a mailbox.
    pub fn hear(&mut self, mut each: impl FnMut(&mut Console, Said)) {
        for _ in 0..LOOK_MAX {
            match self.listen() {
                Said::Nothing => return,
                said => each(self, said),
            }
        }
    }

    fn listen(&mut self) -> Said {
        let Some(wire) = &mut self.wire else {
            return Said::Nothing;
        };
        match wire.link.receive(|| wire.mailbox.peer.wake()) {
            Ok(Some(message)) => match Report::of(&message) {
                Some(report) => Said::Report(report),
                None => {
                    let [kind, ..] = message.0;
                    defmt::warn!("the console says {=u64}, which means nothing", kind);
                    Said::Nonsense
                }
            },
            Ok(None) => Said::Nothing,
            Err(Lost::Gone | Lost::Retired(_)) => {
                self.told = [None; MAX];
                Said::IsNew
            }
        }
    }

    /// Tells the state of a virtual machine, unless the console knows it.
    pub fn tell(&mut self, index: usize, name: &Name, state: VmState) {
        let is_known = self.told.get(index).is_none_or(|told| *told == Some(state));
        if !is_known
            && self.say(Order::State(*name, state))
            && let Some(told) = self.told.get_mut(index)
        {
            *told = Some(state);
        }
    }

    /// Tells that a command was refused.
    pub fn refuse(&mut self, name: &Name, operation: Operation, state: VmState) {
        // A console that does not read has no person at it.
        self.say(Order::Refused(*name, operation, state));
    }
}
