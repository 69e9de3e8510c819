//! A reader of the log rings of `cloister_abi::log`: sees what was lost, and trusts nothing.
//!
//! [`Reader`] gives one [`Frame`] after the other. It bounds every length that it reads; where a
//! writer is at fault, it goes on with what that writer publishes next. Neighbour: the console,
//! which ships frames. Invariant: a frame was whole when it was copied, or it is not given out.

use crate::sync::{AtomicU64, Ordering, fence};
use cloister_abi::log::{CUT, FRAME_HEAD, FRAME_MAX, HEAD, Ring, SEQ, TAIL, frame_words};

/// How often a reader tries again when the writer overtakes it. Then it says "nothing": whoever
/// reads comes back anyway.
const TRIES: u32 = 4;

/// A frame that was read; its bytes are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `KIND_DEFMT` and so on.
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
