//! Where things lie in a mailbox's region.
//!
//! ```text
//! words 0..8     the client's: state, produced, consumed, zeros
//! words 8..16    the server's: the same
//! from word 16   slots for requests, then as many slots for replies
//! ```
//! Each side writes its own eight words (a cache line) and the slots of its own direction.
//! Invariant: [`View`] never leaves the slice, whatever index it is given.

use crate::sync::{AtomicU64, Ordering};

/// Words of a message.
pub const MESSAGE_WORDS: usize = 8;
/// Words that a side has for itself.
const SIDE_WORDS: usize = 8;
/// Words before the slots.
const HEAD_WORDS: usize = 2 * SIDE_WORDS;

/// A message; what its words mean is between client and server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message(pub [u64; MESSAGE_WORDS]);

/// Which end of the mailbox this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sends requests, receives replies.
    Client,
    /// Receives requests, sends replies.
    Server,
}

impl Side {
    pub(crate) fn peer(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Side::Client => 0,
            Side::Server => 1,
        }
    }
}

/// The region cannot hold one message in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Words that it has.
    pub words: usize,
}

/// What a side publishes of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Own epoch in the high half, the peer's epoch that this side has accepted in the low half.
    State = 0,
    /// Messages sent since the handshake.
    Produced = 1,
    /// Messages taken since the handshake.
    Consumed = 2,
}

/// The region, divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    words: &'a [AtomicU64],
    capacity: u64,
}

impl<'a> View<'a> {
    pub(crate) fn new(words: &'a [AtomicU64]) -> Result<View<'a>, TooSmall> {
        let slots = words.len().saturating_sub(HEAD_WORDS) / (2 * MESSAGE_WORDS);
        // A power of two, so that a counter becomes a place with one `and`.
        match slots.checked_ilog2() {
            Some(bits) => Ok(View { words, capacity: 1 << bits }),
            None => Err(TooSmall { words: words.len() }),
        }
    }

    /// Messages that fit in one direction.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn load(&self, side: Side, field: Field) -> u64 {
        let word = self.words.get(side.index() * SIDE_WORDS + field as usize);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub(crate) fn store(&self, side: Side, field: Field, value: u64) {
        if let Some(word) = self.words.get(side.index() * SIDE_WORDS + field as usize) {
            word.store(value, Ordering::Release);
        }
    }

    /// The slot of the message that `sender` sends as number `count`.
    fn slot(&self, sender: Side, count: u64) -> &'a [AtomicU64] {
        let place = (count & (self.capacity - 1)) + sender.index() as u64 * self.capacity;
        let start = HEAD_WORDS + place as usize * MESSAGE_WORDS;
        self.words.get(start..start + MESSAGE_WORDS).unwrap_or_default()
    }

    pub(crate) fn put(&self, sender: Side, count: u64, message: &Message) {
        for (word, value) in self.slot(sender, count).iter().zip(message.0) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, sender: Side, count: u64) -> Message {
        let mut message = Message::default();
        for (value, word) in message.0.iter_mut().zip(self.slot(sender, count)) {
            *value = word.load(Ordering::Relaxed);
        }
        message
    }

    /// Leaves zeros where a message was. Only for a slot that its sender has filled and that is not
    /// given back yet: until then nobody else writes it.
    pub(crate) fn wipe(&self, sender: Side, count: u64) {
        self.put(sender, count, &Message::default());
    }
}
