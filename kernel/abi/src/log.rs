//! The log ring: its layout and its one writer, which never waits.
//!
//! [`Ring`] is the layout and [`Writer`] the side that the kernel and each task have; the readers,
//! which see what was lost, are `cloister_ring::log`'s.
//!
//! A ring is an array of atomic 64-bit words: [`HEAD_WORDS`] words of head, then data words, as
//! many as there are (a ring that fills whole pages wastes none). Positions count data words and
//! only grow. The writer publishes whole frames; when it needs room it first gives up the oldest
//! frames (moves `tail`) and only then overwrites them, so a reader that copies a frame and then
//! still finds it above `tail` has copied it whole. Sequence numbers tell how many were lost.
//! Zeroed memory is an empty ring.
//!
//! Neither side trusts the other: a reader bounds every length it reads and resynchronises, and a
//! writer that finds its own head inconsistent starts over. A restart in the middle of a frame
//! needs nothing: what was not published is overwritten.
//!
//! Frame: word 0 = bytes (16 bits) | source (16) | core (8) | kind (8) | low 16 bits of the
//! sequence number; word 1 = TSC; then the bytes, padded with zeros to whole words.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of head: head, tail, frames published, frames cut short, then zeros.
pub const HEAD_WORDS: usize = 8;
/// Most bytes of one frame; longer ones are cut and counted.
pub const FRAME_MAX: usize = 255 * 8;
/// Most data words that a ring uses, so that it never holds 65,536 frames at once and 16 bits
/// tell their order.
pub const DATA_MAX: usize = 1 << 17;
/// A `defmt` frame.
pub const KIND_DEFMT: u8 = 0;
/// Plain text in UTF-8.
pub const KIND_TEXT: u8 = 1;
/// A boot record.
pub const KIND_BOOT: u8 = 2;

/// Word of the head: end of the newest frame.
pub const HEAD: usize = 0;
/// Word of the head: start of the oldest frame.
pub const TAIL: usize = 1;
/// Word of the head: number of the next frame.
pub const SEQ: usize = 2;
/// Word of the head: frames that were cut short.
pub const CUT: usize = 3;
/// Words of a frame before its bytes.
pub const FRAME_HEAD: u64 = 2;

/// The two halves of a ring. Loads outside of it give zero and stores nothing, so that no index,
/// whatever a peer wrote, can panic.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    head: &'a [AtomicU64],
    data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// The ring in these words.
    pub fn new(words: &'a [AtomicU64]) -> Ring<'a> {
        let (head, data) = words.split_at_checked(HEAD_WORDS).unwrap_or((words, &[]));
        Ring { head, data: data.get(..DATA_MAX).unwrap_or(data) }
    }

    /// How many data words there are.
    pub fn capacity(&self) -> u64 {
        self.data.len() as u64
    }

    /// A word of the head.
    pub fn load(&self, field: usize, order: Ordering) -> u64 {
        self.head.get(field).map_or(0, |word| word.load(order))
    }

    fn store(&self, field: usize, value: u64, order: Ordering) {
        if let Some(word) = self.head.get(field) {
            word.store(value, order);
        }
    }

    /// The word at a position. The slice may be empty, and then has no word.
    fn word(&self, position: u64) -> Option<&'a AtomicU64> {
        let index = position.checked_rem(self.capacity())?;
        self.data.get(index as usize)
    }

    /// The data word at a position.
    pub fn get(&self, position: u64) -> u64 {
        self.word(position).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn put(&self, position: u64, value: u64) {
        if let Some(word) = self.word(position) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Words of a frame with this first word.
pub fn frame_words(first: u64) -> u64 {
    FRAME_HEAD + (first & 0xffff).div_ceil(8)
}

/// The only writer of a ring.
pub struct Writer<'a> {
    ring: Ring<'a>,
    source: u16,
    head: u64,
    tail: u64,
    seq: u64,
}

impl<'a> Writer<'a> {
    /// Goes on where an earlier writer of this ring stopped, whatever it was doing; `source` is
    /// the task's index in the system table. A ring too small for any frame swallows everything.
    pub fn adopt(words: &'a [AtomicU64], source: u16) -> Writer<'a> {
        let ring = Ring::new(words);
        let seq = ring.load(SEQ, Ordering::Relaxed);
        let (head, tail) = (ring.load(HEAD, Ordering::Relaxed), ring.load(TAIL, Ordering::Relaxed));
        let sane = tail <= head && head - tail <= ring.capacity() && head < 1 << 62;
        let (head, tail) = if sane { (head, tail) } else { (0, 0) };
        if !sane {
            ring.store(TAIL, 0, Ordering::Relaxed);
            ring.store(HEAD, 0, Ordering::Relaxed);
        }
        // As in `make_room`: what the earlier writer gave up, this one overwrites.
        fence(Ordering::Release);
        Writer { ring, source, head, tail, seq }
    }

    /// Appends a frame; the oldest ones make room. Never waits.
    pub fn push(&mut self, kind: u8, core: u8, tsc: u64, bytes: &[u8]) {
        let Some(room) = self.ring.capacity().checked_sub(FRAME_HEAD) else {
            return;
        };
        let most = FRAME_MAX.min(room.saturating_mul(8) as usize);
        if bytes.len() > most {
            let count = self.ring.load(CUT, Ordering::Relaxed).wrapping_add(1);
            self.ring.store(CUT, count, Ordering::Relaxed);
        }
        let bytes = bytes.get(..most).unwrap_or(bytes);
        let first = bytes.len() as u64
            | u64::from(self.source) << 16
            | u64::from(core) << 32
            | u64::from(kind) << 40
            | self.seq << 48;
        let end = self.head + frame_words(first);
        self.make_room(end);
        let (mut at, mut rest) = (self.head + FRAME_HEAD, bytes);
        self.ring.put(self.head, first);
        self.ring.put(self.head + 1, tsc);
        while let Some((word, more)) = rest.split_first_chunk() {
            self.ring.put(at, u64::from_le_bytes(*word));
            (at, rest) = (at + 1, more);
        }
        if !rest.is_empty() {
            let last = rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            self.ring.put(at, last);
        }
        self.head = end;
        self.seq = self.seq.wrapping_add(1);
        // The number first: a reader that sees the frame can tell its whole number.
        self.ring.store(SEQ, self.seq, Ordering::Relaxed);
        self.ring.store(HEAD, end, Ordering::Release);
    }

    /// Gives up the oldest frames until everything below `end` fits.
    fn make_room(&mut self, end: u64) {
        let keep_from = end.saturating_sub(self.ring.capacity());
        if self.tail >= keep_from {
            return;
        }
        while self.tail < keep_from {
            self.tail += frame_words(self.ring.get(self.tail));
        }
        // Only a damaged length leads beyond the head; then nothing older can be told apart.
        self.tail = self.tail.min(self.head);
        self.ring.store(TAIL, self.tail, Ordering::Relaxed);
        // A reader that sees one of the stores that follow sees the new tail after its own fence.
        fence(Ordering::Release);
    }
}
