//! Micro-guest: the APIC timer in its three modes (Intel SDM volume 3, "APIC Timer").
//!
//! Times are measured with the TSC. A timer must never be early; how late it may be is for the
//! load of the machine to say, so lateness fails only when it is more than [`PATIENCE`].

#![no_std]
#![no_main]

mod counting;
mod deadline;

use core::time::Duration;

use cloister_guest_rt::{apic, clock, cpu, interrupts, println, timer};
use guest_common::{Cases, Failed, Outcome, ensure, log};

cloister_guest_rt::entry!(main);

/// The vector of the timer in these cases.
pub const VECTOR: u8 = 0x61;
/// More than this is no lateness but a timer that does not fire.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    apic::start();
    interrupts::set(VECTOR, log::take);
    let mut cases = Cases::default();
    counting::run(&mut cases);
    if timer::has_deadline() {
        deadline::run(&mut cases);
    } else {
        println!("TSC deadline: this CPU does not have it");
    }
    cases.finish()
}

/// Writes a register of the APIC.
pub fn write(register: u32, value: u32) {
    // SAFETY: the timer's vectors have handlers.
    unsafe { apic::write(register, value) };
}

/// Waits for so many interrupts since the log was cleared; the ticks of the TSC at the last one.
pub fn wait_for(count: usize) -> Result<u64, Failed> {
    let limit = cpu::tsc() + clock::ticks(PATIENCE);
    cpu::enable_interrupts();
    while log::len() < count && cpu::tsc() < limit {
        core::hint::spin_loop();
    }
    let now = cpu::tsc();
    cpu::disable_interrupts();
    ensure("the timer does not fire; interrupts so far", log::len() >= count, log::len() as u64)?;
    Ok(now)
}

/// Nothing more comes for a while.
pub fn quiet(what: &'static str) -> Outcome {
    let (before, end) = (log::len(), cpu::tsc() + clock::ticks(Duration::from_millis(5)));
    cpu::enable_interrupts();
    while cpu::tsc() < end {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    ensure(what, log::len() == before, log::len() as u64)
}
