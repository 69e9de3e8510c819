//! A stream of bytes each way through a mailbox's region, for consoles.
//!
//! [`Stream`] is one side. Unlike a [`crate::Ring`] it has no handshake: what one side has written
//! and the other has not read yet stays readable when either of them is restarted, so the last
//! words of a guest reach the person who has to read them.
//!
//! ```text
//! words 0..8     the client's: life, written, taken, zeros
//! words 8..16    the server's: the same
//! from word 16   bytes of the client, then as many of the server; a power of two of each
//! ```
//! Counters count bytes from the first life on and wrap. Each side keeps its own two counters as
//! copies that nobody else can change; a new life adopts them from the memory. The peer may be
//! wrong, hostile, dead or restarted: its words are read once, and a counter that cannot be true
//! costs bytes of this stream, never more ([`Stream::read`], [`Stream::write`]).
//!
//! Neighbours: [`crate::layout`] has the other protocol of such a region; docs/notes/0004 tells
//! both. Invariant: every index is masked by the capacity, so no access leaves the region. After a
//! call that moved bytes the caller signals the peer; that is all that keeps either from sleeping.

use crate::layout::{Side, TooSmall};
use crate::sync::{AtomicU64, Ordering};

/// Words that a side has for itself.
const SIDE_WORDS: usize = 8;
/// Words before the bytes.
const HEAD_WORDS: usize = 2 * SIDE_WORDS;
/// Bytes of a word.
const WORD: usize = 8;

/// What a side publishes of itself.
#[derive(Clone, Copy)]
enum Field {
    /// The generation of its task, counted from 1; 0 if it was never there.
    Life = 0,
    /// Bytes written since ever.
    Written = 1,
    /// Bytes taken since ever.
    Taken = 2,
}

/// One side of a stream.
#[derive(Debug)]
pub struct Stream<'a> {
    words: &'a [AtomicU64],
    side: Side,
    /// Bytes that fit in one direction: a power of two.
    capacity: usize,
    written: u64,
    taken: u64,
    /// The peer's life, as far as it was seen.
    peer_life: u64,
}

impl<'a> Stream<'a> {
    /// One side of the stream in `words`. `generation` says how often this task was restarted.
    pub fn new(words: &'a [AtomicU64], side: Side, generation: u64) -> Result<Self, TooSmall> {
        let half = words.len().saturating_sub(HEAD_WORDS) / 2;
        let Some(bits) = half.checked_ilog2() else {
            return Err(TooSmall { words: words.len() });
        };
        let capacity = WORD << bits;
        let mut stream = Stream { words, side, capacity, written: 0, taken: 0, peer_life: 0 };
        stream.written = stream.load(side, Field::Written);
        stream.taken = stream.load(side, Field::Taken);
        stream.peer_life = stream.load(side.peer(), Field::Life);
        // Whoever left a counter that cannot be true did not read or write anything either.
        if stream.unread(stream.load(side.peer(), Field::Taken)).is_none() {
            stream.written = stream.load(side.peer(), Field::Taken);
            stream.store(Field::Written, stream.written);
        }
        stream.store(Field::Life, generation.wrapping_add(1).max(1));
        Ok(stream)
    }

    /// Bytes that fit in one direction.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes [`Stream::write`] would take now. None while the peer's counter cannot be
    /// true: a peer that reads sets it right.
    pub fn room(&self) -> usize {
        let unread = self.unread(self.load(self.side.peer(), Field::Taken));
        unread.map_or(0, |unread| self.capacity - unread)
    }

    /// How many bytes [`Stream::read`] would give now, or drop because the peer's counter cannot be
    /// true.
    pub fn pending(&self) -> usize {
        let written = self.load(self.side.peer(), Field::Written);
        self.untaken(written).unwrap_or(self.capacity)
    }

    /// Writes as many of the bytes as there is room for, and says how many. If any, signal the
    /// peer.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        for (nth, byte) in (0..).zip(bytes.iter().take(count)) {
            self.put(self.written.wrapping_add(nth), *byte);
        }
        self.written = self.written.wrapping_add(count as u64);
        // Even if nothing was written: an earlier life of the peer may have written over it.
        self.store(Field::Written, self.written);
        count
    }

    /// Reads as many bytes as there are and `to` has place for, and says how many. If any, signal
    /// the peer, which may wait for room.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let count = self.peek(to);
        self.take(count);
        count
    }

    /// As [`Stream::read`], and leaves the bytes where they are. Where the peer claims more than
    /// fits, everything up to its claim is dropped: the stream goes on from there.
    pub fn peek(&mut self, to: &mut [u8]) -> usize {
        let written = self.load(self.side.peer(), Field::Written);
        let Some(untaken) = self.untaken(written) else {
            self.taken = written;
            self.store(Field::Taken, written);
            return 0;
        };
        let count = to.len().min(untaken);
        for (nth, place) in (0..).zip(to.iter_mut().take(count)) {
            *place = self.get(self.taken.wrapping_add(nth));
        }
        count
    }

    /// Makes room of bytes that [`Stream::peek`] has shown. If any, signal the peer.
    pub fn take(&mut self, count: usize) {
        self.taken = self.taken.wrapping_add(count.min(self.pending()) as u64);
        // Even if nothing was taken, as for `write`.
        self.store(Field::Taken, self.taken);
    }

    /// Drops what the peer has written until now: a new life that must not see what was meant for
    /// the last one.
    pub fn discard(&mut self) {
        self.taken = self.load(self.side.peer(), Field::Written);
        self.store(Field::Taken, self.taken);
    }

    /// Whether the peer has begun a new life since the last call; its first one does not count.
    /// What the last life wrote comes before it can be told apart, so read first, then ask.
    pub fn is_peer_new(&mut self) -> bool {
        let life = self.load(self.side.peer(), Field::Life);
        let before = core::mem::replace(&mut self.peer_life, life);
        life != before && before != 0
    }

    /// Own bytes that the peer has not taken, if its counter can be true.
    fn unread(&self, taken: u64) -> Option<usize> {
        self.checked(self.written.wrapping_sub(taken))
    }

    /// The peer's bytes that this side has not taken, if its counter can be true.
    fn untaken(&self, written: u64) -> Option<usize> {
        self.checked(written.wrapping_sub(self.taken))
    }

    fn checked(&self, count: u64) -> Option<usize> {
        usize::try_from(count).ok().filter(|count| *count <= self.capacity)
    }

    fn load(&self, side: Side, field: Field) -> u64 {
        let word = self.words.get(side.index() * SIDE_WORDS + field as usize);
        // Acquire: bytes that a counter covers are seen once the counter is.
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, field: Field, value: u64) {
        if let Some(word) = self.words.get(self.side.index() * SIDE_WORDS + field as usize) {
            // Release: the bytes were written, or read, before the counter says so.
            word.store(value, Ordering::Release);
        }
    }

    /// The word that holds the byte with this number, and the byte's place in it.
    fn place(&self, sender: Side, at: u64) -> Option<(&'a AtomicU64, u32)> {
        let byte = at as usize & (self.capacity - 1);
        let start = HEAD_WORDS + sender.index() * (self.capacity / WORD);
        let shift = (byte % WORD) as u32 * u8::BITS;
        self.words.get(start + byte / WORD).map(|word| (word, shift))
    }

    fn put(&self, at: u64, byte: u8) {
        if let Some((word, shift)) = self.place(self.side, at) {
            // Nobody else writes this word: a load and a store lose nothing of an honest peer's.
            let rest = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(rest | u64::from(byte) << shift, Ordering::Relaxed);
        }
    }

    fn get(&self, at: u64) -> u8 {
        let Some((word, shift)) = self.place(self.side.peer(), at) else {
            return 0;
        };
        (word.load(Ordering::Relaxed) >> shift) as u8
    }
}
