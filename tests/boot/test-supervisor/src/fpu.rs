//! Floating point state of two tasks on one core: never seen by the other, whole after every
//! preemption, initial after a restart, and closed to the tasks that did not ask for it.

use boot_common::faults::ALL;
use boot_common::orders::{FAULT_AT, FPU_HOLD, FPU_LOAD, FPU_LOOK};
use cloister_rt::abi::fault::TaskState;
use cloister_rt::{Duration, clock};

use crate::faults;
use crate::report::Report;
use crate::ward;
use crate::ward::{PATIENCE, Ward};

/// How long states are held.
const HOLD: Duration = Duration::from_millis(200);

/// Runs everything.
pub fn run(report: &mut Report) {
    let first = ward!("first", 0);
    let second = ward!("second", 0);
    let plain = ward!("near", 0);
    let ticks = clock().ticks(HOLD);
    report.case("a life begins with initial state", |check| {
        for ward in [&first, &second] {
            check.holds("it answers", ward.ask(FPU_LOOK, &[0]));
            check.equal("bytes that are not initial", ward.result(0), 0);
        }
    });
    report.case("two tasks preempt each other and keep their state", |check| {
        first.order(FPU_HOLD, &[0x1111, ticks]);
        second.order(FPU_HOLD, &[0x2222, ticks]);
        // The third task runs in between, without state.
        while !(first.is_done() && second.is_done()) {
            check.holds("the third task runs", plain.is_alive());
            if check.has_failed() {
                return;
            }
        }
        for ward in [&first, &second] {
            check.within("how often it looked", ward.result(0), 100, u64::MAX);
            check.equal("wrong bytes", ward.result(1), 0);
            check.within("how often it was away", ward.result(2), 10, u64::MAX);
        }
    });
    report.case("state stays over a sleep", |check| {
        check.holds("it answers", first.ask(FPU_LOAD, &[0x3333]));
        check.holds("it answers", second.ask(FPU_LOAD, &[0x4444]));
        check.holds("it answers", plain.is_alive());
        check.holds("it answers", first.ask(FPU_LOOK, &[0x3333]));
        check.equal("wrong bytes", first.result(0), 0);
        check.holds("it answers", second.ask(FPU_LOOK, &[0x4444]));
        check.equal("wrong bytes", second.result(0), 0);
    });
    for (index, case) in ALL.iter().enumerate() {
        if matches!(case.name, "movaps" | "x87" | "avx" | "xsave") {
            // Directly after a task with state, whose registers must be out of reach.
            report.case("a task with state runs", |check| {
                check.holds("it answers", first.ask(FPU_LOAD, &[0x5555]));
            });
            faults::one(report, &plain, &[&first, &second], index);
        }
    }
    shut_out(report, &first, &plain);
    lives(report, &first, &second, ticks);
}

/// XSAVE in a task without state, directly after a task with state.
fn shut_out(report: &mut Report, first: &Ward, plain: &Ward) {
    report.case("a task without state sees nobody's registers", |check| {
        // On a CPU this faults; QEMU executes XSAVE, and it must find the initial state.
        check.holds("it answers", first.ask(FPU_LOAD, &[0x5555]));
        plain.order(FPU_LOOK, &[0]);
        plain.until(PATIENCE, || plain.is_done() || plain.state() == TaskState::Faulted);
        if plain.is_done() {
            check.equal("bytes that are not initial", plain.result(0), 0);
        } else {
            check.equal("vector", plain.fault().vector.into(), 7);
            plain.parked();
            plain.revive(check);
        }
    });
}

/// State over restarts and stops.
fn lives(report: &mut Report, first: &Ward, second: &Ward, ticks: u64) {
    report.case("a restarted task begins with initial state", |check| {
        for round in 0..50 {
            check.holds("it answers", first.ask(FPU_LOAD, &[0x6666 + round]));
            first.order(FAULT_AT, &[0]);
            check.holds("the fault is signalled", first.parked());
            // The new life looks before it does anything else; `revive` reads what it found.
            first.revive(check);
            check.holds("the other one's state", second.ask(FPU_LOOK, &[0x4444]));
            check.equal("wrong bytes", second.result(0), 0);
        }
    });
    report.case("a stopped and resumed task keeps its state", |check| {
        first.order(FPU_HOLD, &[0x7777, ticks / 4]);
        for _ in 0..10 {
            first.stop(check);
            check.holds("it answers", second.ask(FPU_LOOK, &[0x4444]));
            check.equal("wrong bytes of the other", second.result(0), 0);
            check.holds("resume is allowed", first.task.control.resume().is_ok());
            crate::ward::pause(Duration::from_micros(500));
        }
        check.holds("it ends", first.until(PATIENCE, || first.is_done()));
        check.equal("wrong bytes", first.result(1), 0);
    });
}
