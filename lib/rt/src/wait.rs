//! The signal word: [`Bits`] and the call that sleeps until some of them are set.

use core::ops::{BitAnd, BitOr, BitOrAssign};

use cloister_abi::call::{Call, Status};
use cloister_abi::fault::LeaveReason;

use crate::syscall::{call, leave};
use crate::time::{Deadline, Instant};

/// A set of bits of a thread's signal word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits(u64);

impl Bits {
    /// The empty set.
    pub const NONE: Bits = Bits(0);

    /// The set of one bit; empty for numbers that no signal word has.
    pub(crate) fn single(bit: u8) -> Bits {
        Bits(1u64.checked_shl(u32::from(bit)).unwrap_or(0))
    }

    /// The set with these bits of a signal word.
    pub(crate) fn from_word(word: u64) -> Bits {
        Bits(word)
    }

    /// The bits as a signal word.
    pub fn word(self) -> u64 {
        self.0
    }

    /// Whether the sets have a bit in common.
    pub fn intersects(self, other: Bits) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set has no bit.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Bits {
    type Output = Bits;
    fn bitor(self, other: Bits) -> Bits {
        Bits(self.0 | other.0)
    }
}

impl BitOrAssign for Bits {
    fn bitor_assign(&mut self, other: Bits) {
        self.0 |= other.0;
    }
}

impl BitAnd for Bits {
    type Output = Bits;
    fn bitand(self, other: Bits) -> Bits {
        Bits(self.0 & other.0)
    }
}

impl defmt::Format for Bits {
    fn format(&self, f: defmt::Formatter) {
        defmt::write!(f, "{=u64:#x}", self.0);
    }
}

/// Why [`wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// These bits were pending and have been taken.
    Bits(Bits),
    /// The deadline passed first.
    Deadline,
}

impl Woken {
    /// The bits that were taken, none after a deadline.
    pub fn bits(self) -> Bits {
        match self {
            Woken::Bits(bits) => bits,
            Woken::Deadline => Bits::NONE,
        }
    }
}

/// Sleeps until a bit of `mask` is pending or the deadline passes. Pending bits are returned at
/// once. A bit is a hint: look for work after each wake, whatever the bit promised.
pub fn wait(mask: Bits, deadline: Deadline) -> Woken {
    let reply = call(Call::Wait, mask.0, deadline.ticks(), 0);
    match Status::from_code(reply.status) {
        Some(Status::Ok) => Woken::Bits(Bits(reply.values[0])),
        Some(Status::Deadline) => Woken::Deadline,
        // `wait` takes no capability and every mask and deadline is valid.
        _ => leave(LeaveReason::Panic, u64::from(line!())),
    }
}

/// Sleeps until an instant; signals that arrive stay pending.
pub fn sleep_until(instant: Instant) {
    wait(Bits::NONE, Deadline::At(instant));
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn a_bit_that_no_word_has_is_the_empty_set() {
        assert_eq!(Bits::single(64), Bits::NONE);
        assert_eq!(Bits::single(255), Bits::NONE);
        assert!(!Bits::single(63).is_empty());
    }

    #[test]
    fn sets_intersect_in_common_bits_only() {
        let ab = Bits::single(1) | Bits::single(2);
        assert!(ab.intersects(Bits::single(2)));
        assert!(!ab.intersects(Bits::single(3)));
        assert_eq!(ab & Bits::single(1), Bits::single(1));
    }
}
