//! The conversation between a driver and the vault, in messages of a mailbox.
//!
//! The driver sends a [`Request`] for the kind of slot that it read from the disk; the vault sends
//! one [`Reply`]. docs/notes/0012-keys.md has the rules. This module only turns both into the words
//! of a message and back; words are hostile on both sides.
//!
//! ```text
//! request   0 what (1 ask, 2 wrong key), version · 1 nonce · 2 kind, passes · 3 memory in KiB
//!           4..8 salt
//! reply     0 what (1 key, 2 refused), version · 1 nonce · 2..6 key, or 2 the reason · zeros
//! ```

use zeroize::Zeroizing;

use crate::key::WrappingKey;
use crate::passphrase::Cost;
use crate::slot::{Kind, SALT};

/// Words of a message.
pub type Words = [u64; 8];

pub(crate) const VERSION: u64 = 1 << 32;
const ASK: u64 = VERSION | 1;
const WRONG: u64 = VERSION | 2;
const KEY: u64 = VERSION | 1;
const REFUSED: u64 = VERSION | 2;
const SEALED: u64 = 1;
const PASSPHRASE: u64 = 2;

/// What a driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// It wants the wrapping key for a slot of this kind.
    Ask {
        /// Comes back in the reply.
        nonce: u64,
        /// What the slot says.
        kind: Kind,
    },
    /// The key that it got opens no slot, and it wants another one: the passphrase was mistyped.
    Wrong {
        /// Comes back in the reply.
        nonce: u64,
        /// What the slot says.
        kind: Kind,
    },
}

/// What the vault says.
#[derive(Debug)]
pub enum Reply {
    /// The wrapping key.
    Key {
        /// The request's.
        nonce: u64,
        /// The key; the receiver wipes the message that it came in.
        key: WrappingKey,
    },
    /// There will be no key.
    Refused {
        /// The request's.
        nonce: u64,
        /// Why not.
        reason: Reason,
    },
}

/// Why the vault releases no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This life of the driver had its key.
    Already,
    /// The manifest seals no such key, or nobody can type one.
    NoSuchKey,
    /// Nobody typed a passphrase.
    Cancelled,
    /// The message was none of this protocol.
    Unknown,
}

impl Request {
    /// As a message.
    pub fn to_words(&self) -> Words {
        let (what, nonce, kind) = match *self {
            Request::Ask { nonce, kind } => (ASK, nonce, kind),
            Request::Wrong { nonce, kind } => (WRONG, nonce, kind),
        };
        match kind {
            Kind::Sealed => [what, nonce, SEALED, 0, 0, 0, 0, 0],
            Kind::Passphrase { cost, salt } => {
                let [a, b, c, d] = to_words(&salt);
                let passes = u64::from(cost.passes()) << 32;
                [what, nonce, PASSPHRASE | passes, u64::from(cost.memory_kib()), a, b, c, d]
            }
        }
    }

    /// From a message; `None` if it is no request.
    pub fn from_words(words: &Words) -> Option<Request> {
        let [what, nonce, kind, memory, a, b, c, d] = *words;
        let passes = u32::try_from(kind >> 32).ok()?;
        let kind = match kind & u64::from(u32::MAX) {
            SEALED if [u64::from(passes), memory, a, b, c, d] == [0; 6] => Kind::Sealed,
            PASSPHRASE => Kind::Passphrase {
                cost: Cost::new(u32::try_from(memory).ok()?, passes)?,
                salt: from_words([a, b, c, d]),
            },
            _ => return None,
        };
        match what {
            ASK => Some(Request::Ask { nonce, kind }),
            WRONG => Some(Request::Wrong { nonce, kind }),
            _ => None,
        }
    }
}

impl Reply {
    /// As a message. The words wipe themselves; whoever copies them sees to the copy.
    pub fn to_words(&self) -> Zeroizing<Words> {
        Zeroizing::new(match self {
            Reply::Key { nonce, key } => {
                let [a, b, c, d] = to_words(key.bytes());
                [KEY, *nonce, a, b, c, d, 0, 0]
            }
            Reply::Refused { nonce, reason } => [REFUSED, *nonce, reason.code(), 0, 0, 0, 0, 0],
        })
    }

    /// From a message that answers the request with this nonce; `None` if it does not.
    pub fn from_words(words: &Words, expected: u64) -> Option<Reply> {
        let [what, nonce, a, b, c, d, 0, 0] = *words else { return None };
        match (what, [b, c, d]) {
            _ if nonce != expected => None,
            (KEY, _) => Some(Reply::Key { nonce, key: WrappingKey::new(from_words([a, b, c, d])) }),
            (REFUSED, [0, 0, 0]) => Some(Reply::Refused { nonce, reason: Reason::of(a)? }),
            _ => None,
        }
    }
}

impl Reason {
    const ALL: [Reason; 4] =
        [Reason::Already, Reason::NoSuchKey, Reason::Cancelled, Reason::Unknown];

    /// In words for a log.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Already => "this life of the driver had its key",
            Reason::NoSuchKey => "the vault has no key of that kind",
            Reason::Cancelled => "nobody typed a passphrase",
            Reason::Unknown => "the request was none",
        }
    }

    fn code(self) -> u64 {
        match self {
            Reason::Already => 1,
            Reason::NoSuchKey => 2,
            Reason::Cancelled => 3,
            Reason::Unknown => 4,
        }
    }

    fn of(code: u64) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

fn to_words(bytes: &[u8; SALT]) -> [u64; 4] {
    let mut words = [0; 4];
    let (parts, _) = bytes.as_chunks::<8>();
    for (word, part) in words.iter_mut().zip(parts) {
        *word = u64::from_le_bytes(*part);
    }
    words
}

fn from_words(words: [u64; 4]) -> [u8; SALT] {
    let mut bytes = [0; SALT];
    let (parts, _) = bytes.as_chunks_mut::<8>();
    for (part, word) in parts.iter_mut().zip(words) {
        *part = word.to_le_bytes();
    }
    bytes
}
