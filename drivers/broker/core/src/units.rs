//! The payload of a window: [`Units`], pieces of it that requests take and give back.
//!
//! At most 64 units of whole blocks, so that a set of them is a word. A request takes units that
//! lie side by side, a [`Run`]. Invariant: a unit belongs to one run from [`Units::take`] to
//! [`Units::give`].

use cloister_guest_abi::disk::BLOCK;

/// Most units of a window.
const UNITS_MAX: u64 = 64;
/// Most bytes of a run; what is longer is cut into several. No unit is larger, so a window of more
/// than 8 MiB has bytes that nothing uses.
const RUN_MAX: u64 = 128 << 10;

/// Units side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first byte.
    pub at: u64,
    /// The units, a bit each.
    units: u64,
}

impl Run {
    /// No units.
    pub const NONE: Run = Run { at: 0, units: 0 };
}

/// The units of a window.
#[derive(Debug)]
pub struct Units {
    base: u64,
    /// Bytes of a unit.
    unit: u64,
    /// All units there are, and those that nobody has.
    all: u64,
    free: u64,
    run_max: u64,
}

impl Units {
    /// Units of the memory from `base` up to `end`; `None` if there is not even a block.
    pub fn new(base: u64, end: u64) -> Option<Units> {
        let blocks = end.checked_sub(base)?.checked_div(BLOCK)?;
        let each = blocks.div_ceil(UNITS_MAX).clamp(1, RUN_MAX / BLOCK);
        let count = blocks.checked_div(each)?.min(UNITS_MAX);
        let all = lowest(count)?;
        // No run is more than a half, so that one can be filled while another is read.
        let unit = each.checked_mul(BLOCK)?;
        let most = count.div_ceil(2).min(RUN_MAX.checked_div(unit)?);
        Some(Units { base, unit, all, free: all, run_max: unit.checked_mul(most)? })
    }

    /// The most bytes that one run has: whole blocks.
    pub fn run_max(&self) -> u64 {
        self.run_max
    }

    /// Takes a run for so many bytes, if there is one.
    pub fn take(&mut self, bytes: u64) -> Option<Run> {
        let count = bytes.div_ceil(self.unit);
        let run = lowest(count)?;
        // The places from which on as many units are free as `have` says.
        let (mut places, mut have) = (self.free, 1u64);
        while have < count {
            let more = have.min(count.saturating_sub(have));
            places &= places.unbounded_shr(u32::try_from(more).ok()?);
            have = have.saturating_add(more);
        }
        let first = places.trailing_zeros();
        if places == 0 {
            return None;
        }
        let units = run.unbounded_shl(first);
        self.free &= !units;
        let at = self.unit.checked_mul(first.into())?.checked_add(self.base)?;
        Some(Run { at, units })
    }

    /// Gives a run back.
    pub fn give(&mut self, run: Run) {
        self.free |= run.units & self.all;
    }

    /// Takes back all runs.
    pub fn clear(&mut self) {
        self.free = self.all;
    }
}

/// The lowest bits of a word, so many of them; `None` for none and for more than it has.
fn lowest(count: u64) -> Option<u64> {
    let above = u64::BITS.checked_sub(u32::try_from(count).ok().filter(|count| *count != 0)?)?;
    Some(u64::MAX.unbounded_shr(above))
}

#[cfg(test)]
mod tests {
    use super::{Run, Units};

    const KIB: u64 = 1 << 10;

    #[test]
    fn a_run_lies_in_the_window_and_in_no_other() {
        for kib in [12, 16, 64, 256, 264, 268, 1024, 16384] {
            let mut units = Units::new(8 * KIB, kib * KIB).unwrap();
            let mut taken: Vec<(u64, u64, Run)> = Vec::new();
            let mut seed = kib;
            for turn in 0..2000 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let blocks = (seed >> 33) % (units.run_max() / 4096) + 1;
                if let Some(run) = units.take(blocks * 4096).filter(|_| turn % 3 != 2) {
                    let (start, end) = (run.at, run.at + blocks * 4096);
                    assert!(start >= 8 * KIB && end <= kib * KIB, "{start:#x} in {kib} KiB");
                    assert!(start.is_multiple_of(4096));
                    assert!(taken.iter().all(|(from, to, _)| end <= *from || start >= *to));
                    taken.push((start, end, run));
                } else if !taken.is_empty() {
                    let (_, _, run) = taken.swap_remove(seed as usize % taken.len());
                    units.give(run);
                }
                if turn % 3 == 2 {
                    // What the filter above dropped was taken all the same.
                    units.clear();
                    taken.clear();
                }
            }
        }
    }

    #[test]
    fn all_of_a_window_can_be_had_and_no_more() {
        let mut units = Units::new(8 * KIB, 256 * KIB).unwrap();
        assert_eq!(units.run_max(), 124 * KIB);
        let runs: Vec<Run> = (0..62).map(|_| units.take(4096).unwrap()).collect();
        assert_eq!(units.take(1), None);
        units.give(runs[3]);
        units.give(runs[5]);
        assert_eq!(units.take(8192), None, "two that are not side by side");
        units.give(runs[4]);
        assert_eq!(units.take(3 * 4096).map(|run| run.at), Some(20 * KIB));
        assert_eq!(units.take(0), None);
        assert_eq!(units.take(u64::MAX), None);
    }

    #[test]
    fn a_window_without_a_block_is_none() {
        assert!(Units::new(8192, 8192 + 4095).is_none());
        assert!(Units::new(8192, 4096).is_none());
        assert_eq!(Units::new(8192, 12288).unwrap().run_max(), 4096);
        assert_eq!(Units::new(8192, 16 << 20).unwrap().run_max(), 128 * KIB);
    }
}
