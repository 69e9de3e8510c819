//! Micro-guest: how late its timer interrupts are, beside a guest that never waits.
//!
//! The other guest is more urgent and never gives its core back, so this one waits as long as the
//! other's budget lasts, and no longer: [`BOUND`] is that budget (images/test-guest-spin) and what
//! kernel and monitors take themselves.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::time::Duration;

use cloister_guest_rt::{clock, cpu, power, println, timer};

cloister_guest_rt::entry!(main);

/// Timer interrupts, and the time between them: no divisor of the other's period, so that they
/// meet it at every moment.
const TICKS: u32 = 200;
const PERIOD: Duration = Duration::from_micros(7100);
/// Budget of the other guest, 4 ms, and a millisecond.
const BOUND: Duration = Duration::from_millis(5);
/// Lateness that shows that the other guest ran at all.
const SEEN: Duration = Duration::from_millis(1);

fn main() {
    let mut latest = Duration::ZERO;
    let mut deadline = cpu::tsc();
    for _ in 0..TICKS {
        deadline += clock::ticks(PERIOD);
        timer::wait_until(deadline, || false);
        latest = latest.max(clock::duration(cpu::tsc().saturating_sub(deadline)));
    }
    println!("latest of {TICKS} timer interrupts: {} us", latest.as_micros());
    if latest > BOUND || latest < SEEN {
        println!("FAILED latency: not between {SEEN:?} and {BOUND:?}");
        power::panic(2);
    }
    println!("ok latency is within the other guest's budget");
}
