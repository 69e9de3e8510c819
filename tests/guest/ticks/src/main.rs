//! Micro-guest: asks to be woken again and again, and says how late that was at the worst.
//!
//! What delays it is for the appliance to arrange: others on its core, or machines beside it that
//! end all the time. Times are the TSC's, from when the timer was to fire to when the guest runs.

#![no_std]
#![no_main]

use core::time::Duration;

use cloister_guest_rt::{clock, cpu, power, println, timer};

cloister_guest_rt::entry!(main);

/// How often it is woken.
const TICKS: u32 = 500;
/// How long it sleeps.
const PERIOD: Duration = Duration::from_millis(2);

fn main() {
    let period = clock::ticks(PERIOD);
    let (mut latest, mut sum) = (0, 0);
    for _ in 0..TICKS {
        let end = cpu::tsc().saturating_add(period);
        timer::wait_until(end, || false);
        let late = cpu::tsc().saturating_sub(end);
        latest = late.max(latest);
        sum += late;
    }
    let [latest, mean] = [latest, sum / u64::from(TICKS)].map(|t| clock::duration(t).as_micros());
    println!("ticks: {TICKS}, the latest {latest} us late, {mean} us in the mean");
    power::off();
}
