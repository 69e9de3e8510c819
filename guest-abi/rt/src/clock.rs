//! Time since the guest started, from the time stamp counter.
//!
//! The TSC counts at one constant rate from 0 at the start of the virtual machine on all its vCPUs
//! (docs/guest-abi.md).

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::cpu;

static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
const NANOS_PER_MILLI: u128 = 1_000_000;

/// Takes the frequency; a platform that tells none counts nanoseconds.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn start(tsc_khz: u64) {
    TSC_KHZ.store(if tsc_khz == 0 { 1_000_000 } else { tsc_khz }, Ordering::Relaxed);
}

/// Ticks of the TSC in a millisecond.
pub fn tsc_khz() -> u64 {
    TSC_KHZ.load(Ordering::Relaxed)
}

/// Time since the start.
pub fn now() -> Duration {
    duration(cpu::tsc())
}

/// How long so many ticks take.
pub fn duration(ticks: u64) -> Duration {
    let nanos = u128::from(ticks) * NANOS_PER_MILLI / u128::from(tsc_khz().max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many ticks this takes.
pub fn ticks(time: Duration) -> u64 {
    let ticks = time.as_nanos() * u128::from(tsc_khz()) / NANOS_PER_MILLI;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
