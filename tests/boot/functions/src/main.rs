//! Test task: what happens to an NVMe controller's functions between the lives of their drivers.
//!
//! [`resets`] resets a function, or must not; [`down`] takes a controller down with functions that
//! others use, if the manifest has the number `down`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod down;
mod resets;

use cloister_nvme_core::Pause;
use cloister_rt::{Duration, Instant, clock, grants, sleep_until};

cloister_rt::entry!(main);

/// What life 0 leaves with, so that there is another one.
const AGAIN: u32 = 7;

struct Registers(cloister_rt::Registers);

impl cloister_nvme_core::Registers for Registers {
    fn read(&self, offset: u64) -> Option<u32> {
        self.0.read(offset)
    }

    fn write(&self, offset: u64, value: u32) -> Option<()> {
        self.0.write(offset, value)
    }
}

struct Clock;

impl Pause for Clock {
    fn now(&self) -> u64 {
        clock().duration(Instant::now().tsc()).as_nanos()
    }

    fn sleep(&self, ns: u64) {
        sleep_until(Instant::now() + Duration::from_nanos(ns));
    }
}

fn main() -> u32 {
    if grants().number("down").is_ok() { down::run() } else { resets::run() }
}
