//! Every log ring of the system, and whose turn it is.
//!
//! Rings take turns, one frame each, so that a task that logs without end delays the others by one
//! frame per round and no more. A frame is attributed to the ring that it came from, never to the
//! task that it names: a hostile task writes what it likes into its own ring.

use cloister_abi::layout::{MAX_CORES, MAX_TASKS};
use cloister_ring::log::Reader;

use crate::wire::Head;

/// Most rings: one of each task, one of each core.
pub const RINGS_MAX: usize = MAX_TASKS + MAX_CORES;

struct Source<'a> {
    number: u16,
    reader: Reader<'a>,
}

/// The rings.
pub struct Rings<'a> {
    sources: [Option<Source<'a>>; RINGS_MAX],
    count: usize,
    turn: usize,
}

impl<'a> Default for Rings<'a> {
    fn default() -> Self {
        Rings { sources: [const { None }; RINGS_MAX], count: 0, turn: 0 }
    }
}

impl<'a> Rings<'a> {
    /// Adds a ring whose frames belong to that source. `false`: there is no room for another one.
    pub fn add(&mut self, number: u16, reader: Reader<'a>) -> bool {
        let Some(place) = self.sources.get_mut(self.count) else {
            return false;
        };
        *place = Some(Source { number, reader });
        self.count += 1;
        true
    }

    /// The next frame in turn: its head, and how many bytes of `buffer` are its payload. `None`:
    /// no ring has anything new.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<(Head, usize)> {
        for _ in 0..self.count {
            let turn = self.turn;
            self.turn = if turn + 1 < self.count { turn + 1 } else { 0 };
            let Some(Some(source)) = self.sources.get_mut(turn) else {
                continue;
            };
            let Some(frame) = source.reader.next(buffer) else {
                continue;
            };
            let head = Head {
                source: source.number,
                core: frame.core,
                kind: frame.kind,
                seq: frame.seq as u16,
                lost: u32::try_from(frame.lost).unwrap_or(u32::MAX),
                tsc: frame.tsc,
            };
            return Some((head, frame.len));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{RINGS_MAX, Rings};
    use cloister_abi::log::{FRAME_MAX, KIND_TEXT, Writer};
    use cloister_ring::log::Reader;
    use core::sync::atomic::AtomicU64;

    fn ring() -> Vec<AtomicU64> {
        (0..512).map(|_| AtomicU64::new(0)).collect()
    }

    fn sources(rings: &mut Rings<'_>) -> Vec<u16> {
        let mut buffer = [0; FRAME_MAX];
        core::iter::from_fn(|| rings.next(&mut buffer).map(|(head, _)| head.source)).collect()
    }

    #[test]
    fn a_ring_that_is_never_empty_does_not_keep_the_others_waiting() {
        let words = [ring(), ring(), ring()];
        let mut rings = Rings::default();
        for (number, words) in (0..).zip(&words) {
            assert!(rings.add(number, Reader::new(words)));
        }
        for _ in 0..5 {
            Writer::adopt(&words[0], 0).push(KIND_TEXT, 0, 0, b"again");
        }
        Writer::adopt(&words[1], 1).push(KIND_TEXT, 0, 0, b"once");
        Writer::adopt(&words[2], 2).push(KIND_TEXT, 0, 0, b"once");
        assert_eq!(sources(&mut rings), [0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(sources(&mut rings), []);
    }

    #[test]
    fn a_frame_belongs_to_its_ring_whatever_it_says() {
        let words = ring();
        let mut rings = Rings::default();
        assert!(rings.add(7, Reader::new(&words)));
        Writer::adopt(&words, 3).push(KIND_TEXT, 0, 0, b"I am task 3");
        assert_eq!(sources(&mut rings), [7]);
    }

    #[test]
    fn losses_are_told_with_the_next_frame() {
        let words = ring();
        let mut rings = Rings::default();
        assert!(rings.add(1, Reader::new(&words)));
        let mut writer = Writer::adopt(&words, 1);
        for number in 0..1000u64 {
            writer.push(KIND_TEXT, 0, number, &[b'x'; 100]);
        }
        let mut buffer = [0; FRAME_MAX];
        let (head, len) = rings.next(&mut buffer).unwrap();
        assert_eq!((u64::from(head.lost), len), (head.tsc, 100));
        assert!(head.lost > 900);
    }

    #[test]
    fn more_rings_than_a_system_can_have_are_refused() {
        let words = ring();
        let mut rings = Rings::default();
        for number in 0..RINGS_MAX {
            assert!(rings.add(number as u16, Reader::new(&words)));
        }
        assert!(!rings.add(0, Reader::new(&words)));
    }
}
