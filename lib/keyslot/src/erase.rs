//! Erasing while the system runs: the vault's order, and what the driver answers.
//!
//! Both are messages of the mailbox that keys come through. The vault gives an order without being
//! asked, and until it is answered it releases no key; docs/notes/0012-keys.md has the rules. Words
//! are hostile on both sides.
//!
//! ```text
//! order    0 what (3), version · 1 number of the order · zeros
//! answer   0 what (3 erased, 4 not erased), version · 1 the order's number · zeros
//! ```

use crate::release::{VERSION, Words};

const ERASE: u64 = VERSION | 3;
const ERASED: u64 = VERSION | 3;
const NOT_ERASED: u64 = VERSION | 4;

/// The vault wants the volume erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Comes back in the answer.
    pub number: u64,
}

/// What the driver says when it has tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The order's.
    pub number: u64,
    /// The disk keeps a header without slots. If not, the old one may still be there.
    pub is_erased: bool,
}

impl Order {
    /// As a message.
    pub fn to_words(self) -> Words {
        [ERASE, self.number, 0, 0, 0, 0, 0, 0]
    }

    /// From a message; `None` if it is no order.
    pub fn from_words(words: &Words) -> Option<Order> {
        match *words {
            [ERASE, number, 0, 0, 0, 0, 0, 0] => Some(Order { number }),
            _ => None,
        }
    }
}

impl Outcome {
    /// As a message.
    pub fn to_words(self) -> Words {
        let what = if self.is_erased { ERASED } else { NOT_ERASED };
        [what, self.number, 0, 0, 0, 0, 0, 0]
    }

    /// From a message; `None` if it is none.
    pub fn from_words(words: &Words) -> Option<Outcome> {
        let [what, number, 0, 0, 0, 0, 0, 0] = *words else { return None };
        match what {
            ERASED => Some(Outcome { number, is_erased: true }),
            NOT_ERASED => Some(Outcome { number, is_erased: false }),
            _ => None,
        }
    }
}
