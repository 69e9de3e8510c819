//! Guest-physical addresses: [`GuestPhys`] is one, [`Range`] a piece of memory.
//!
//! Invariant: a `Range` has an end, `start + len` is a number. Whether there is RAM is another
//! question, which [`crate::Ram`] answers.

/// A guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPhys(u64);

impl GuestPhys {
    /// The address of that number.
    pub const fn new(address: u64) -> GuestPhys {
        GuestPhys(address)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address that many bytes further on; `None` where addresses end.
    pub const fn checked_add(self, bytes: u64) -> Option<GuestPhys> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(GuestPhys(address)),
            None => None,
        }
    }

    /// Whether it is a multiple of `unit`.
    pub const fn is_aligned(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }
}

/// A piece of guest-physical memory, possibly empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    start: GuestPhys,
    len: u64,
}

impl Range {
    /// No bytes.
    pub const EMPTY: Range = Range { start: GuestPhys(0), len: 0 };

    /// The `len` bytes from `start`; `None` if they would go beyond the last address.
    pub const fn new(start: GuestPhys, len: u64) -> Option<Range> {
        match start.checked_add(len) {
            Some(_) => Some(Range { start, len }),
            None => None,
        }
    }

    /// The first address.
    pub const fn start(self) -> GuestPhys {
        self.start
    }

    /// Bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The address behind its last byte.
    pub const fn end(self) -> GuestPhys {
        // Saturates nothing: `new` made sure that the sum is a number.
        GuestPhys(self.start.0.saturating_add(self.len))
    }

    /// The piece of it from `offset` on, at most `len` bytes; `None` if it ends before `offset`.
    pub const fn part(self, offset: u64, len: u64) -> Option<Range> {
        let Some(rest) = self.len.checked_sub(offset) else {
            return None;
        };
        let len = if len < rest { len } else { rest };
        Some(Range { start: GuestPhys(self.start.0.saturating_add(offset)), len })
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestPhys, Range};
    use proptest::prelude::*;

    #[test]
    fn a_range_that_wraps_does_not_exist() {
        assert!(Range::new(GuestPhys::new(u64::MAX), 0).is_some());
        assert!(Range::new(GuestPhys::new(u64::MAX), 1).is_none());
        assert!(Range::new(GuestPhys::new(1), u64::MAX).is_none());
        assert!(Range::new(GuestPhys::new(0), u64::MAX).is_some());
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(start: u64, len: u64, offset: u64, want: u64) {
            let Some(range) = Range::new(GuestPhys::new(start), len) else {
                prop_assert!(start.checked_add(len).is_none());
                return Ok(());
            };
            match range.part(offset, want) {
                Some(part) => {
                    prop_assert_eq!(part.start().get(), start + offset);
                    prop_assert!(part.end() <= range.end());
                    prop_assert_eq!(part.len(), want.min(len - offset));
                }
                None => prop_assert!(offset > len),
            }
        }
    }
}
