//! The registers of a controller and of its ports ("HBA Memory Registers"), as a driver's core sees
//! them: [`Registers`], and [`Pause`] for one that has to wait.

const NS_PER_MS: u64 = 1_000_000;
/// Sleeps between two looks grow from the first to the second.
const PAUSE_MIN_NS: u64 = 2_000;
const PAUSE_MAX_NS: u64 = NS_PER_MS;

/// What a device that is not there reads as.
pub(crate) const GONE: u32 = u32::MAX;

/// Capabilities, control, pending interrupts, ports that there are, more capabilities, handoff.
pub(crate) const CAP: u64 = 0x00;
pub(crate) const GHC: u64 = 0x04;
pub(crate) const IS: u64 = 0x08;
pub(crate) const PI: u64 = 0x0c;
pub(crate) const CAP2: u64 = 0x24;
pub(crate) const BOHC: u64 = 0x28;

/// Of a port, from its first register on.
pub(crate) mod port {
    pub(crate) const CLB: u64 = 0x00;
    pub(crate) const FB: u64 = 0x08;
    pub(crate) const IS: u64 = 0x10;
    pub(crate) const IE: u64 = 0x14;
    pub(crate) const CMD: u64 = 0x18;
    pub(crate) const TFD: u64 = 0x20;
    pub(crate) const SIG: u64 = 0x24;
    pub(crate) const SSTS: u64 = 0x28;
    pub(crate) const SCTL: u64 = 0x2c;
    pub(crate) const SERR: u64 = 0x30;
    pub(crate) const SACT: u64 = 0x34;
    pub(crate) const CI: u64 = 0x38;
}

/// The registers of a controller. `None` is an offset that they do not have.
pub trait Registers {
    /// Reads 32 bits.
    fn read(&self, offset: u64) -> Option<u32>;

    /// Writes 32 bits.
    fn write(&self, offset: u64, value: u32) -> Option<()>;
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
