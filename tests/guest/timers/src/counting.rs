//! The timer that counts down: once and periodically.

use core::time::Duration;

use cloister_guest_rt::{apic, clock, cpu, timer};
use guest_common::{Cases, Failed, Outcome, ensure, equal, let_in, log};

use crate::{VECTOR, quiet, wait_for, write};

/// Codes of the dividers from 1 to 128.
const DIVIDERS: [(u32, u32); 8] = [
    (1, 0b1011),
    (2, 0b0000),
    (4, 0b0001),
    (8, 0b0010),
    (16, 0b0011),
    (32, 0b1000),
    (64, 0b1001),
    (128, 0b1010),
];

/// Tries of a case that a busy machine can spoil.
const TRIES: u64 = 100;

pub fn run(cases: &mut Cases) {
    cases.run("one-shot fires once and not early", once);
    cases.run("the divider divides", dividers);
    cases.run("the count goes down to zero", count);
    cases.run("the same initial count starts anew", same_value);
    cases.run("zero stops the timer", stopped);
    cases.run("a masked timer counts but does not fire", masked);
    cases.run("periodic keeps its rate", periodic);
    cases.run("periodic catches up without a storm", catch_up);
}

/// Starts the timer; the TSC just before. Nothing of the timer before is left.
fn start(mode: u32, divider: u32, initial: u32) -> u64 {
    write(apic::INITIAL, 0);
    let_in();
    log::clear();
    write(apic::TIMER, mode | u32::from(VECTOR));
    write(apic::DIVIDER, divider);
    let now = cpu::tsc();
    write(apic::INITIAL, initial);
    now
}

/// Ticks of the TSC in so many ticks of the timer, rounded down, less one microsecond: the two
/// clocks are read one after the other.
fn at_least(ticks: u64) -> u64 {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(timer::frequency());
    let time = Duration::from_nanos(nanos as u64).saturating_sub(Duration::from_micros(1));
    clock::ticks(time)
}

fn once() -> Outcome {
    for initial in [1, 1000, 100_000, 5_000_000] {
        let begin = start(0, 0b1011, initial);
        let end = wait_for(1)?;
        ensure("the time it took", end - begin >= at_least(initial.into()), end - begin)?;
        equal("what is left", apic::read(apic::CURRENT).into(), 0)?;
        quiet("it fires again")?;
    }
    Ok(())
}

fn dividers() -> Outcome {
    for (divider, code) in DIVIDERS {
        let begin = start(0, code, 50_000);
        equal("the divider", apic::read(apic::DIVIDER).into(), code.into())?;
        let end = wait_for(1)?;
        let least = at_least(50_000 * u64::from(divider));
        ensure("the time it took", end - begin >= least, divider.into())?;
    }
    Ok(())
}

fn count() -> Outcome {
    start(timer::MASKED, 0b1011, 4_000_000);
    let mut before = 4_000_000;
    equal("the initial count", apic::read(apic::INITIAL).into(), 4_000_000)?;
    loop {
        let left = apic::read(apic::CURRENT);
        ensure("the count goes up", left <= before, left.into())?;
        before = left;
        if left == 0 {
            return quiet("a masked timer fires");
        }
    }
}

fn same_value() -> Outcome {
    for _ in 0..3 {
        start(0, 0b1011, 20_000);
        wait_for(1)?;
    }
    // Without a stop in between the second write counts as well.
    let again = in_time(3_000_000, || {
        let begin = start(0, 0b1011, 3_000_000);
        while cpu::tsc() < begin + at_least(1_500_000) {
            core::hint::spin_loop();
        }
        let again = cpu::tsc();
        write(apic::INITIAL, 3_000_000);
        (begin, again)
    })?;
    let end = wait_for(1)?;
    ensure("the time after the second start", end - again >= at_least(3_000_000), end - again)?;
    quiet("it fires again")
}

/// Does something that is to be done before a timer of so many ticks fires, again if the machine
/// was too busy. The function gives the times of the start and of its own end.
fn in_time(ticks: u64, mut attempt: impl FnMut() -> (u64, u64)) -> Result<u64, Failed> {
    for _ in 0..TRIES {
        let (begin, end) = attempt();
        if cpu::tsc() - begin < at_least(ticks) {
            return Ok(end);
        }
    }
    Err(Failed::Other("too busy a machine; tries", TRIES))
}

fn stopped() -> Outcome {
    in_time(2_000_000, || {
        let begin = start(0, 0b1011, 2_000_000);
        write(apic::INITIAL, 0);
        (begin, begin)
    })?;
    equal("what is left", apic::read(apic::CURRENT).into(), 0)?;
    quiet("it fires")?;
    start(timer::PERIODIC, 0b1011, 200_000);
    wait_for(3)?;
    write(apic::INITIAL, 0);
    // One may have been on its way.
    let_in();
    quiet("it fires")
}

fn masked() -> Outcome {
    start(timer::MASKED | timer::PERIODIC, 0b1011, 100_000);
    quiet("it fires")?;
    write(apic::TIMER, timer::PERIODIC | u32::from(VECTOR));
    wait_for(2)?;
    write(apic::INITIAL, 0);
    Ok(())
}

fn periodic() -> Outcome {
    const PERIOD: u32 = 1_000_000;
    const COUNT: usize = 20;
    let begin = start(timer::PERIODIC, 0b1011, PERIOD);
    let end = wait_for(COUNT)?;
    write(apic::INITIAL, 0);
    let least = at_least(u64::from(PERIOD) * COUNT as u64);
    ensure("the time of twenty periods", end - begin >= least, end - begin)
}

/// Periods that pass while interrupts are off are one interrupt: a vector waits or does not.
fn catch_up() -> Outcome {
    const PERIOD: u32 = 1_000_000;
    let begin = start(timer::PERIODIC, 0b1011, PERIOD);
    let late = begin + at_least(u64::from(PERIOD) * 10);
    while cpu::tsc() < late {
        core::hint::spin_loop();
    }
    let opened = cpu::tsc();
    cpu::enable_interrupts();
    while cpu::tsc() < opened + at_least(u64::from(PERIOD) * 3) {
        core::hint::spin_loop();
    }
    wait_for(2)?;
    let took = cpu::tsc() - opened;
    write(apic::INITIAL, 0);
    // One that waited, one for each period since, one on an edge.
    let most = took / at_least(PERIOD.into()).max(1) + 2;
    ensure("interrupts behind ten missed ones", (log::len() as u64) <= most, log::len() as u64)
}
