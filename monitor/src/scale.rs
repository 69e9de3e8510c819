//! Conversion between clocks: [`Scale`] turns ticks of one frequency into ticks of another.
//!
//! Every device that counts (`apic`, `pit`, `pm_timer`, `rtc`) is told the host's time stamp
//! counter and converts it. A conversion is one multiplication and one shift; the division happens
//! once, when the device is made. Nothing here reads a clock.
//!
//! Invariant: a result below 2^58 is at most one tick from the exact one, rounding up and back down
//! never loses a tick, and neither direction goes backwards.

/// A factor between two frequencies: result = ticks × factor / 2^shift.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scale {
    factor: u64,
    shift: u32,
}

impl Scale {
    /// From ticks at `from` Hz to ticks at `to` Hz. A frequency of 0 counts as 1.
    pub fn new(from: u64, to: u64) -> Scale {
        let (from, to) = (from.max(1), to.max(1));
        // The largest shift that leaves the factor below 2^63, whatever the frequencies are.
        let shift = from.ilog2().wrapping_add(62).wrapping_sub(to.ilog2());
        let product = u128::from(to).checked_shl(shift).unwrap_or(u128::MAX);
        // Rounded up, so that a whole number of ticks does not come out one too small.
        let factor = product.div_ceil(u128::from(from));
        Scale { factor: u64::try_from(factor).unwrap_or(u64::MAX), shift }
    }

    /// Converts and rounds down.
    pub fn down(self, ticks: u64) -> u64 {
        self.convert(ticks, 0)
    }

    /// Converts and rounds up.
    pub fn up(self, ticks: u64) -> u64 {
        self.convert(ticks, 1u128.wrapping_shl(self.shift).wrapping_sub(1))
    }

    /// What does not fit is the end of time.
    #[inline]
    fn convert(self, ticks: u64, rounding: u128) -> u64 {
        let product = u128::from(ticks).wrapping_mul(u128::from(self.factor));
        let whole = product.saturating_add(rounding).wrapping_shr(self.shift);
        u64::try_from(whole).unwrap_or(u64::MAX)
    }
}
