//! The ACPI power management timer: a 32-bit counter at 3.579545 MHz (ACPI specification, "Power
//! Management Timer").
//!
//! [`PmTimer`] belongs to thread 0. It has no state but its start; it raises no interrupt, because
//! the platform has no system control interrupt to raise.

use crate::num::low32;
use crate::scale::Scale;

/// Its frequency.
const HZ: u64 = 3_579_545;

/// The timer of a virtual machine.
#[derive(Clone, Copy, Debug)]
pub struct PmTimer {
    to_timer: Scale,
    start: u64,
}

impl PmTimer {
    /// A timer that is 0 now, in host ticks.
    pub fn new(tsc_hz: u64, now: u64) -> PmTimer {
        PmTimer { to_timer: Scale::new(tsc_hz, HZ), start: now }
    }

    /// The counter.
    pub fn read(&self, now: u64) -> u32 {
        low32(self.to_timer.down(now.saturating_sub(self.start)))
    }
}
