//! The registers of a device, as a driver's core sees them: [`Registers`], and [`Pause`] for one
//! that has to wait.

const NS_PER_MS: u64 = 1_000_000;
/// Sleeps between two looks grow from the first to the second.
const PAUSE_MIN_NS: u64 = 2_000;
const PAUSE_MAX_NS: u64 = NS_PER_MS;

/// What belongs to a PCI function: its configuration space, which is only read, and the registers
/// behind its BARs, of 8, 16 and 32 bits. `None` is what is not there or not mapped.
pub trait Registers {
    /// Reads 32 bits of configuration space.
    fn config(&self, register: u8) -> Option<u32>;

    /// Bytes behind a BAR that are mapped.
    fn bytes(&self, bar: u8) -> u64;

    /// Reads 8 bits.
    fn read8(&self, bar: u8, offset: u64) -> Option<u8>;

    /// Reads 16 bits.
    fn read16(&self, bar: u8, offset: u64) -> Option<u16>;

    /// Reads 32 bits.
    fn read32(&self, bar: u8, offset: u64) -> Option<u32>;

    /// Writes 8 bits.
    fn write8(&self, bar: u8, offset: u64, value: u8) -> Option<()>;

    /// Writes 16 bits.
    fn write16(&self, bar: u8, offset: u64, value: u16) -> Option<()>;

    /// Writes 32 bits.
    fn write32(&self, bar: u8, offset: u64, value: u32) -> Option<()>;
}

/// Time for a driver that has to wait.
pub trait Pause {
    /// Nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;

    /// Sleeps for so many nanoseconds.
    fn sleep(&self, ns: u64);
}

/// Milliseconds in nanoseconds.
pub(crate) const fn ms(ms: u64) -> u64 {
    ms.saturating_mul(NS_PER_MS)
}

/// Sleeps until `look` finds something, for at most `ns`. The sleeps grow, so that a quick answer
/// is seen soon and a slow one costs little.
pub(crate) fn wait_for<T>(
    pause: &impl Pause,
    ns: u64,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = pause.now().saturating_add(ns);
    let mut step = PAUSE_MIN_NS;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if pause.now() >= end {
            return None;
        }
        pause.sleep(step);
        step = step.saturating_mul(2).min(PAUSE_MAX_NS);
    }
}
