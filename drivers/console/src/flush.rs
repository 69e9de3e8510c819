//! The supervisor's order to ship everything, which comes before it powers the machine off.
//!
//! The wire is optional: without a grant `flush` there is nobody to take orders from.

use cloister_ring::orders::{FLUSH, FLUSHED};
use cloister_ring::{Link, Lost, Message, Side};
use cloister_rt::{Bits, Grants, Mailbox, generation};

/// The grant's name.
const NAME: &str = "flush";

struct Wire {
    mailbox: Mailbox,
    link: Link<'static>,
}

/// Orders and their answers.
pub struct Flush {
    wire: Option<Wire>,
    is_ordered: bool,
}

impl Flush {
    /// Looks for the supervisor, if the manifest grants that.
    pub fn new(grants: Grants) -> Flush {
        let Ok(mailbox) = grants.mailbox(NAME) else {
            return Flush { wire: None, is_ordered: false };
        };
        let words = mailbox.memory.words();
        let link = Link::new(words, Side::Client, generation());
        if let Err(small) = &link {
            defmt::error!("mailbox flush has {=usize} words, too few for a message", small.words);
        }
        Flush { wire: link.ok().map(|link| Wire { mailbox, link }), is_ordered: false }
    }

    /// What the supervisor's signal sets.
    pub fn bits(&self) -> Bits {
        self.wire.as_ref().map_or(Bits::NONE, |wire| wire.mailbox.bits)
    }

    /// Takes an order, answers one. `true`: an order has just come, and the rings are to be looked
    /// at once more before it is answered, for what was logged before it.
    pub fn step(&mut self, is_drained: bool) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        let peer = &wire.mailbox.peer;
        let wake = || peer.wake();
        if self.is_ordered && is_drained {
            self.is_ordered = false;
            let answer = Message([FLUSHED, 0, 0, 0, 0, 0, 0, 0]);
            // Without a peer the order is void; with a full mailbox the supervisor does not read.
            let _ = wire.link.send(&answer, wake);
        }
        match wire.link.receive(wake) {
            Ok(Some(message)) if message.0[0] == FLUSH => {
                self.is_ordered = true;
                true
            }
            Ok(Some(message)) => {
                defmt::warn!("order {=u64} from the supervisor is unknown", message.0[0]);
                false
            }
            Ok(None) => false,
            Err(Lost::Gone) => {
                self.is_ordered = false;
                false
            }
            Err(Lost::Retired(_)) => {
                defmt::error!("the supervisor's mailbox is damaged; orders are not taken any more");
                self.wire = None;
                false
            }
        }
    }
}
