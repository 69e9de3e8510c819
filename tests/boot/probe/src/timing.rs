//! Threads that use the CPU up, and threads that measure how long they are kept from it.

use boot_common::page::BEAT;
use cloister_rt::{Instant, sleep_until};

use crate::Boss;

/// See `orders::GAPS`.
pub fn gaps(boss: &Boss, ticks: u64, threshold: u64, apart: u64) {
    let start = Instant::now().tsc();
    let (mut last, mut longest, mut window, mut count) = (start, 0, 0, 0_u64);
    // Of the delay that is going on: when it began, what it took, when its last gap ended.
    let (mut began, mut taken, mut ended) = (start, 0, start);
    while last - start < ticks {
        let now = Instant::now().tsc();
        let gap = now - last;
        if gap > threshold {
            if last - ended >= apart {
                (began, taken) = (last, 0);
            }
            (taken, ended) = (taken + gap, now);
            count += 1;
            if taken > longest {
                (longest, window) = (taken, now - began);
            }
        }
        last = now;
    }
    for (index, value) in [longest, window, count].into_iter().enumerate() {
        boss.result(index, value);
    }
}

/// See `orders::LATENESS`.
pub fn lateness(boss: &Boss, ticks: u64, count: u64) {
    let (mut latest, mut sum) = (0, 0);
    let mut at = Instant::now().tsc();
    for _ in 0..count {
        // A fixed grid, so that being late once does not move the moments that follow.
        while at <= Instant::now().tsc() {
            at += ticks;
        }
        sleep_until(Instant::from_tsc(at));
        let late = Instant::now().tsc() - at;
        latest = late.max(latest);
        sum += late;
    }
    boss.result(0, latest);
    boss.result(1, sum);
}

/// See `orders::HOG`.
pub fn hog(boss: &Boss, run: u64, sleep: u64, first: u64) -> ! {
    let mut at = Instant::now().tsc() + first;
    loop {
        sleep_until(Instant::from_tsc(at));
        let end = at.saturating_add(run);
        while Instant::now().tsc() < end {
            boss.page.add(BEAT, 1);
        }
        at = end.saturating_add(sleep);
    }
}
