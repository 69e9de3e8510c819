//! The log ring: one writer that never waits, readers that see what was lost.
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

/// End of the newest frame.
const HEAD: usize = 0;
/// Start of the oldest frame.
const TAIL: usize = 1;
/// Number of the next frame.
const SEQ: usize = 2;
/// Frames that were cut short.
const CUT: usize = 3;
/// Words of a frame before its bytes.
const FRAME_HEAD: u64 = 2;
/// How often a reader tries again when the writer overtakes it. Then it says "nothing": whoever
/// reads comes back anyway.
const TRIES: u32 = 4;

/// The two halves of a ring. Loads outside of it give zero and stores nothing, so that no index,
/// whatever a peer wrote, can panic.
#[derive(Clone, Copy)]
struct Ring<'a> {
    head: &'a [AtomicU64],
    data: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    fn new(words: &'a [AtomicU64]) -> Ring<'a> {
        let (head, data) = words.split_at_checked(HEAD_WORDS).unwrap_or((words, &[]));
        Ring { head, data: data.get(..DATA_MAX).unwrap_or(data) }
    }

    fn capacity(&self) -> u64 {
        self.data.len() as u64
    }

    fn load(&self, field: usize, order: Ordering) -> u64 {
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

    fn get(&self, position: u64) -> u64 {
        self.word(position).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn put(&self, position: u64, value: u64) {
        if let Some(word) = self.word(position) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Words of a frame with this first word.
fn frame_words(first: u64) -> u64 {
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
        let bytes = match bytes.get(..most) {
            Some(cut) if cut.len() < bytes.len() => {
                let count = self.ring.load(CUT, Ordering::Relaxed).wrapping_add(1);
                self.ring.store(CUT, count, Ordering::Relaxed);
                cut
            }
            _ => bytes,
        };
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

/// A frame that was read; its bytes are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// [`KIND_DEFMT`] and so on.
    pub kind: u8,
    /// The core that wrote it.
    pub core: u8,
    /// The task that wrote it.
    pub source: u16,
    /// Time stamp counter when it was written.
    pub tsc: u64,
    /// Bytes in the buffer.
    pub len: usize,
    /// Its number; the ring's first frame has 0.
    pub seq: u64,
    /// Frames that were lost directly before it.
    pub lost: u64,
}

/// A reader of a ring. It writes nothing, so a ring may have several.
pub struct Reader<'a> {
    ring: Ring<'a>,
    at: u64,
    seq: u64,
}

impl<'a> Reader<'a> {
    /// Begins with the oldest frame; what was overwritten before counts as lost.
    pub fn new(words: &'a [AtomicU64]) -> Reader<'a> {
        Reader { ring: Ring::new(words), at: 0, seq: 0 }
    }

    /// The next frame, its bytes in `buf` (a buffer below [`FRAME_MAX`] bytes may cut them).
    /// `None`: nothing new, or the writer was too fast for now.
    pub fn next(&mut self, buf: &mut [u8]) -> Option<Frame> {
        for _ in 0..TRIES {
            let head = self.ring.load(HEAD, Ordering::Acquire);
            if self.at == head {
                return None;
            }
            let tail = self.ring.load(TAIL, Ordering::Relaxed);
            if self.at < tail || self.at > head {
                self.at = tail;
            }
            // A tail beyond this head: the writer went on meanwhile.
            let Some(ahead) = head.checked_sub(self.at) else {
                continue;
            };
            let copied = self.copy(ahead, buf);
            // After the copy, and ordered after it: was everything from `at` on still whole?
            fence(Ordering::Acquire);
            if self.at < self.ring.load(TAIL, Ordering::Relaxed) {
                continue;
            }
            let Some((frame, words)) = copied else {
                // The writer is at fault: skip to what it publishes next.
                self.at = head;
                continue;
            };
            self.at = self.at.wrapping_add(words);
            self.seq = frame.seq.wrapping_add(1);
            return Some(frame);
        }
        None
    }

    /// Copies the frame at `at`, which ends within the next `ahead` words, and says how many it
    /// has. `None` if no such frame can be there.
    fn copy(&self, ahead: u64, buf: &mut [u8]) -> Option<(Frame, u64)> {
        let first = self.ring.get(self.at);
        let (words, bytes) = (frame_words(first), (first & 0xffff) as usize);
        if words > ahead || ahead > self.ring.capacity() || bytes > FRAME_MAX {
            return None;
        }
        let len = bytes.min(buf.len());
        let mut at = self.at.wrapping_add(FRAME_HEAD);
        for chunk in buf.get_mut(..len).unwrap_or_default().chunks_mut(8) {
            let word = self.ring.get(at).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
            at = at.wrapping_add(1);
        }
        // The whole number is the newest one with these low bits.
        let newest = self.ring.load(SEQ, Ordering::Relaxed).wrapping_sub(1);
        let behind = (newest as u16).wrapping_sub((first >> 48) as u16);
        let seq = newest.wrapping_sub(u64::from(behind));
        let frame = Frame {
            kind: (first >> 40) as u8,
            core: (first >> 32) as u8,
            source: (first >> 16) as u16,
            tsc: self.ring.get(self.at.wrapping_add(1)),
            len,
            seq,
            lost: seq.saturating_sub(self.seq),
        };
        Some((frame, words))
    }

    /// Frames that the writer has cut short.
    pub fn truncated(&self) -> u64 {
        self.ring.load(CUT, Ordering::Relaxed)
    }
}
