//! Micro-guest: registers that others use too stay this guest's own.
//!
//! Two virtual machines of different memory size run it on one core at once: the pattern follows
//! from the size, so a register of the other one is seen. Each round leaves the guest many times;
//! in between the core runs the other guest, monitors, drivers and the kernel. The program is
//! soft-float, so nothing but [`vectors`] touches vector registers.

#![no_std]
#![no_main]

mod plain;
mod vectors;

use core::time::Duration;

use cloister_guest_rt::{cpu, memory, port, println, timer};
use guest_common::{Cases, Outcome, registers};

cloister_guest_rt::entry!(main);

/// Exits of the last case; of the long form, which guests with this much memory run.
const EXITS: u64 = 150_000;
const LONG_EXITS: u64 = 1_000_000;
const LONG_MIB: u64 = 32;
/// How many of them lie between two looks at the registers.
const BETWEEN: u64 = 500;
/// A port that no device has.
const ABSENT: u16 = 0x5000;

fn main() {
    let mut cases = Cases::default();
    let seed = memory::size() >> 20;
    registers::enable_sse();
    let wide = vectors::enable_wide();
    println!("seed {seed}, {} vectors", if wide { "256-bit" } else { "128-bit" });
    cases.run("vector registers begin empty", || vectors::are_initial(wide));
    cases.run("debug registers begin empty", plain::are_initial);
    cases.run("vector registers survive exits", || vectors_over_exits(seed, wide));
    cases.run("debug and system registers survive exits", || plain::over_exits(seed));
    cases.run("all of them survive sleep", || over_sleep(seed, wide));
    let exits = if seed >= LONG_MIB { LONG_EXITS } else { EXITS };
    cases.run("all of them survive many exits", || over_many(seed, wide, exits));
    cases.finish()
}

/// Leaves the guest once; different exits take different ways through kernel and monitor.
pub fn leave(number: u64) {
    match number % 8 {
        0 => {
            port::read8(ABSENT);
        }
        1 => {
            // An MSR that only the monitor knows.
            let _ = cpu::msr(0x1b);
        }
        2 => {
            // One that does not exist: an exception comes back.
            let _ = cpu::msr(0x1234_5678);
        }
        _ => {
            cpu::cpuid(0, 0);
        }
    }
}

fn vectors_over_exits(seed: u64, wide: bool) -> Outcome {
    for number in 0..1000 {
        vectors::fill(seed + number, wide);
        leave(number);
        vectors::check(seed + number, wide)?;
    }
    Ok(())
}

fn over_sleep(seed: u64, wide: bool) -> Outcome {
    for round in 0..50 {
        vectors::fill(seed + round, wide);
        plain::fill(seed + round);
        timer::wait(Duration::from_millis(2));
        vectors::check(seed + round, wide)?;
        plain::check(seed + round)?;
    }
    Ok(())
}

fn over_many(seed: u64, wide: bool, exits: u64) -> Outcome {
    for round in 0..exits / BETWEEN {
        vectors::fill(seed ^ round, wide);
        plain::fill(seed ^ round);
        for number in 0..BETWEEN {
            leave(number);
        }
        vectors::check(seed ^ round, wide)?;
        plain::check(seed ^ round)?;
    }
    println!("{exits} exits");
    Ok(())
}
