//! Waiting for a controller: [`Pause`], the time that a driver's core is given, and [`wait_for`].
//!
//! Cores know no clock of their own, so that host tests wait in no time. Invariant: a wait looks once
//! at least, and ends.

/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;
/// The first sleep and the longest one.
const PAUSE_MIN_NS: u64 = 2_000;
const PAUSE_MAX_NS: u64 = NS_PER_MS;

/// Time for a driver that has to wait.
pub trait Pause {
    /// Nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;

    /// Sleeps for so many nanoseconds.
    fn sleep(&self, ns: u64);
}

/// Milliseconds in nanoseconds.
pub const fn ms(ms: u64) -> u64 {
    ms.saturating_mul(NS_PER_MS)
}

/// Sleeps until `look` finds something, for at most `ns`. The sleeps grow, so that a quick answer
/// is seen soon and a slow one costs little.
pub fn wait_for<T>(pause: &impl Pause, ns: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
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
