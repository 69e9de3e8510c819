//! The timer that fires at a value of the TSC.

use core::time::Duration;

use cloister_guest_rt::timer::{AT_DEADLINE, DEADLINE};
use cloister_guest_rt::{apic, clock, cpu};
use guest_common::{Cases, Failed, Outcome, attempt, ensure, equal, let_in, log, ran};

use crate::{VECTOR, quiet, wait_for, write};

/// Tries of a case that a busy machine can spoil.
const TRIES: u64 = 100;

pub fn run(cases: &mut Cases) {
    cases.run("a deadline fires once and not early", fires);
    cases.run("a deadline that has passed fires at once", passed);
    cases.run("a new deadline replaces the old one", replaced);
    cases.run("zero takes the deadline away", taken_away);
    cases.run("leaving the mode takes the deadline away", mode_left);
    cases.run("a deadline in another mode is nothing", other_mode);
    cases.run("the initial count is nothing in deadline mode", no_count);
}

fn set(deadline: u64) -> Outcome {
    let written = attempt!(
        "wrmsr";
        in("rcx") u64::from(DEADLINE),
        in("rax") deadline & 0xffff_ffff,
        in("rdx") deadline >> 32
    );
    ran("WRMSR to the deadline", written)
}

fn get() -> Result<u64, Failed> {
    cpu::msr(DEADLINE).map_err(|fault| Failed::Fault("RDMSR of the deadline", Some(fault), None))
}

/// Deadline mode, and nothing of the deadline before is left.
fn begin() {
    write(apic::TIMER, AT_DEADLINE | u32::from(VECTOR));
    attempt!("wrmsr"; in("rcx") u64::from(DEADLINE), in("rax") 0, in("rdx") 0);
    let_in();
    log::clear();
    write(apic::TIMER, AT_DEADLINE | u32::from(VECTOR));
}

fn after(time: Duration) -> u64 {
    cpu::tsc() + clock::ticks(time)
}

/// Does something with a deadline that has not passed when it is done; again if the machine was
/// too busy.
fn in_time(mut attempt: impl FnMut(u64) -> Outcome) -> Outcome {
    for _ in 0..TRIES {
        begin();
        let near = after(Duration::from_millis(2));
        attempt(near)?;
        if cpu::tsc() < near {
            return Ok(());
        }
    }
    Err(Failed::Other("too busy a machine; tries", TRIES))
}

fn fires() -> Outcome {
    for micros in [1, 50, 1000, 5000] {
        begin();
        let deadline = after(Duration::from_micros(micros));
        set(deadline)?;
        let end = wait_for(1)?;
        ensure("the time it fired, before the deadline", end >= deadline, end)?;
        equal("the deadline afterwards", get()?, 0)?;
        quiet("it fires again")?;
    }
    Ok(())
}

fn passed() -> Outcome {
    begin();
    set(1)?;
    wait_for(1)?;
    equal("the deadline afterwards", get()?, 0)
}

fn replaced() -> Outcome {
    begin();
    let far = after(Duration::from_secs(100));
    set(far)?;
    equal("the deadline", get()?, far)?;
    let near = after(Duration::from_millis(1));
    set(near)?;
    let end = wait_for(1)?;
    ensure("the time it fired", (near..far).contains(&end), end)?;
    in_time(|near| {
        set(near)?;
        set(far)
    })?;
    quiet("the old deadline fires")?;
    set(0)
}

fn taken_away() -> Outcome {
    in_time(|near| {
        set(near)?;
        set(0)
    })?;
    equal("the deadline", get()?, 0)?;
    quiet("it fires")
}

fn mode_left() -> Outcome {
    in_time(|near| {
        set(near)?;
        write(apic::TIMER, u32::from(VECTOR));
        Ok(())
    })?;
    quiet("it fires")?;
    write(apic::TIMER, AT_DEADLINE | u32::from(VECTOR));
    equal("the deadline", get()?, 0)?;
    quiet("it fires")
}

fn other_mode() -> Outcome {
    begin();
    write(apic::TIMER, u32::from(VECTOR));
    set(after(Duration::from_micros(10)))?;
    equal("the deadline", get()?, 0)?;
    quiet("it fires")
}

fn no_count() -> Outcome {
    begin();
    write(apic::INITIAL, 1000);
    equal("what is left", apic::read(apic::CURRENT).into(), 0)?;
    quiet("it fires")
}
