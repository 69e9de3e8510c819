//! A demonstration task: logs the time, ten times a second, for ever.
//!
//! It holds no grant at all. The wall clock is the one that `init` read at the seal, carried on by
//! the time stamp counter; each beat is scheduled from the one before, so the beats do not drift.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_rt::{Duration, Instant, generation, sleep_until, system};

cloister_rt::entry!(main);

const PERIOD: Duration = Duration::from_millis(100);

fn main() -> u32 {
    let sealed = Instant::from_tsc(system().tsc_sealed);
    defmt::info!("clock starts, life {=u64}", generation());
    let mut beat = Instant::now();
    let mut count = 0u64;
    loop {
        let since = sealed.elapsed();
        let unix_ms = system().unix_seconds.saturating_mul(1000).saturating_add(since.as_millis());
        defmt::info!(
            "beat {=u64}: {=u64} ms since the seal, unix time {=u64}.{=u64:03}",
            count,
            since.as_millis(),
            unix_ms / 1000,
            unix_ms % 1000
        );
        count = count.saturating_add(1);
        beat = beat + PERIOD;
        sleep_until(beat);
    }
}
