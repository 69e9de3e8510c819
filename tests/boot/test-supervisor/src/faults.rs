//! The table of faults: each is committed by a probe, and the record must say exactly what
//! happened; the others run on, and the probe's next life is whole.

use boot_common::faults::{ALL, Act, Case, EXECUTED_BY_QEMU, Kind, RETURNS};
use boot_common::orders::{FAULT, HARMLESS};
use boot_common::page::EXPECTED;
use cloister_rt::abi::fault::{FaultKind, LeaveReason, TaskState};
use cloister_rt::abi::layout::{IMAGE, PAGE, STACK_TOP};
use cloister_rt::{FaultReport, Instant};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::{PATIENCE, Ward};

/// Bytes of a probe's stack.
const STACK: u64 = 16 * 1024;
/// More than a probe's instructions take.
const TEXT_MAX: u64 = 1 << 20;
const PAGE_FAULT: u8 = 14;

/// Runs the table on the supervisor's core and, for what is not the same there, on another one.
pub fn run(report: &mut Report) {
    let near = ward!("near", 0);
    let far = ward!("far", 1);
    let bystander = ward!("bystander", 0);
    for index in 0..ALL.len() {
        one(report, &near, &[&bystander, &far], index);
    }
    harmless(report, &near);
    for (index, case) in ALL.iter().enumerate() {
        // Without any port the task has no bitmap at all.
        let port = matches!(case.act, Act::In(..) | Act::Out(..));
        if port
            || matches!(case.act, Act::Recursion | Act::Panic | Act::Instruction("ud2" | "step"))
        {
            one(report, &far, &[&bystander, &near], index);
        }
    }
}

/// One case.
pub fn one(report: &mut Report, ward: &Ward, neighbours: &[&Ward], index: usize) {
    let case = &ALL[index];
    report.case(case.name, |check| {
        let before = Instant::now().tsc();
        ward.order(FAULT + index as u64, &[]);
        if EXECUTED_BY_QEMU.contains(&case.name) {
            ward.until(PATIENCE, || ward.is_done() || ward.state() == TaskState::Faulted);
            if ward.is_done() {
                defmt::info!("case {=str}: this emulator executes it", case.name);
                return;
            }
        }
        check.holds("the fault is signalled", ward.parked());
        let found = ward.fault();
        check.within("time of the fault", found.tsc, before, Instant::now().tsc());
        compare(check, ward, case, &found);
        for other in neighbours {
            check.holds("the neighbours run on", other.is_alive());
        }
        ward.revive(check);
    });
}

fn compare(check: &mut Check, ward: &Ward, case: &Case, found: &FaultReport) {
    check.equal("state", found.state as u64, TaskState::Faulted as u64);
    let kind = match case.kind {
        Kind::Exception(..) => FaultKind::Exception,
        Kind::BadCall(_) => FaultKind::BadCall,
        Kind::Leave(..) | Kind::Panicked => FaultKind::Leave,
    };
    check.equal("kind", found.kind as u64, kind as u64);
    check.equal("thread", found.thread, 0);
    check.equal("generation", found.generation, ward.generation.get());
    check.equal("core", found.core, ward.core);
    let mut left = (0, 0);
    match case.kind {
        Kind::Exception(..) if RETURNS.contains(&case.name) && found.vector == PAGE_FAULT => {
            check.within("address", found.address, STACK_TOP - STACK, STACK_TOP);
            exact_rip(check, ward, case, found);
        }
        Kind::Exception(vector, other, error) => {
            if found.vector != other {
                check.equal("vector", found.vector.into(), vector.into());
            }
            // QEMU before 8 counts a gate of the interrupt table twice as large.
            let doubled = (error >> 3) << 4 | 2;
            if error & 2 == 0 || found.vector == PAGE_FAULT || found.error != doubled {
                check.equal("error code", found.error, error);
            }
            exact_rip(check, ward, case, found);
            fault_address(check, ward, case, found);
        }
        Kind::BadCall(number) => {
            check.equal("number of the call", found.address, number);
            check.equal("vector", found.vector.into(), 0);
            check.within("instruction pointer", found.rip, IMAGE, IMAGE + TEXT_MAX);
        }
        Kind::Leave(reason, detail) => left = (reason, detail),
        Kind::Panicked => {
            check.within("line of the panic", found.detail, 1, 600);
            left = (LeaveReason::Panic as u64, found.detail);
        }
    }
    check.equal("reason", found.reason, left.0);
    check.equal("detail", found.detail, left.1);
    stack(check, case, found);
}

/// The probe noted where the fault will be; some have a second place, on other CPUs.
fn exact_rip(check: &mut Check, ward: &Ward, case: &Case, found: &FaultReport) {
    if case.act == Act::Recursion {
        return check.within("instruction pointer", found.rip, IMAGE, IMAGE + TEXT_MAX);
    }
    let [first, second] = [0, 1].map(|word| ward.page.get(EXPECTED + word));
    check.holds("the probe noted an instruction", first != 0);
    let is_second = found.rip == second && (second != 0 || case.name == "jump-null");
    if !is_second {
        check.equal("instruction pointer", found.rip, first);
    }
}

fn fault_address(check: &mut Check, ward: &Ward, case: &Case, found: &FaultReport) {
    if case.act == Act::Recursion {
        let bottom = STACK_TOP - STACK;
        return check.within("address", found.address, bottom - PAGE, bottom - 1);
    }
    let noted = ward.page.get(EXPECTED + 2);
    let expected = if found.vector == PAGE_FAULT { noted } else { 0 };
    check.equal("address", found.address, expected);
}

/// Stack pointer and backtrace lead through the probe, unless the case destroyed them.
fn stack(check: &mut Check, case: &Case, found: &FaultReport) {
    let bottom = STACK_TOP - STACK;
    match case.name {
        "fault-with-bad-stack" => check.equal("stack pointer", found.rsp, 0x20_1800),
        "stack-overflow" => check.within("stack pointer", found.rsp, bottom - PAGE, bottom + 512),
        _ => check.within("stack pointer", found.rsp, bottom, STACK_TOP),
    }
    let callers = found.backtrace.iter().take_while(|address| **address != 0);
    let inside = |address: &&u64| (IMAGE..IMAGE + TEXT_MAX).contains(*address);
    let count = callers.clone().count() as u64;
    check.equal("callers inside the program", callers.filter(inside).count() as u64, count);
    let expected = match case.name {
        "fault-with-bad-frame" => 0..=0,
        "stack-overflow" => 16..=16,
        _ => 1..=15,
    };
    check.within("length of the backtrace", count, *expected.start(), *expected.end());
}

fn harmless(report: &mut Report, ward: &Ward) {
    report.case("harmless", |check| {
        check.holds("it answers", ward.ask(HARMLESS, &[]));
        check.equal("a misaligned load with AC set", ward.result(0), 1);
        check.equal("AC after a system call", ward.result(1), 1 << 18);
        check.equal("IF and IOPL after POPF", ward.result(2), 1 << 9);
        check.equal("DF after a system call", ward.result(3), 1 << 10);
        check.equal("status of a call with garbage above its number", ward.result(4), 2);
    });
}
