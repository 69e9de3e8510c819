//! Fault records as the CPU writes them, and what is said of them.

use cloister_abi::fault::{FaultKind, LeaveReason};
use cloister_abi::layout::{IMAGE, STACK_TOP};
use cloister_proto::stopped::{STOPPED_PANIC, Stopped};
use cloister_supervisor_core::{Access, Cause, Ended, Stop};

const STOP: Stop = Stop {
    kind: FaultKind::Exception,
    vector: 14,
    address: 0,
    error: 4,
    rsp: STACK_TOP - 64,
    reason: 0,
    detail: 0,
};

#[test]
fn page_faults_are_told_apart_by_address_and_access() {
    let page = |address, error| Cause::of(&Stop { address, error, ..STOP });
    assert_eq!(page(0, 4), Cause::NullPointer { access: Access::Read, address: 0 });
    assert_eq!(page(0x18, 6), Cause::NullPointer { access: Access::Write, address: 0x18 });
    assert_eq!(page(0, 0x14), Cause::NullPointer { access: Access::Fetch, address: 0 });
    let text = Cause::Forbidden { access: Access::Write, address: IMAGE };
    assert_eq!(page(IMAGE, 7), text);
    let stack = Cause::Forbidden { access: Access::Fetch, address: STACK_TOP - 8 };
    assert_eq!(page(STACK_TOP - 8, 0x15), stack);
    let wild = Cause::NotMapped { access: Access::Read, address: 1 << 29 };
    assert_eq!(page(1 << 29, 4), wild);
}

#[test]
fn a_guard_below_a_stack_is_a_stack_overflow() {
    let first = STACK_TOP - 0x5000 - 8;
    let cause = Cause::of(&Stop { address: first, error: 6, rsp: first + 8, ..STOP });
    assert_eq!(cause, Cause::StackOverflow { address: first });
    // A further thread's stack lies among the grants.
    let bottom = 0x51_2000;
    let cause = Cause::of(&Stop { address: bottom - 4096, error: 6, rsp: bottom - 32, ..STOP });
    assert_eq!(cause, Cause::StackOverflow { address: bottom - 4096 });
    let far = bottom - 0x10_0000;
    let cause = Cause::of(&Stop { address: far, error: 6, rsp: bottom + 32, ..STOP });
    assert_eq!(cause, Cause::NotMapped { access: Access::Write, address: far });
}

#[test]
fn exceptions_have_names_that_a_person_understands() {
    let words = |vector| match Cause::of(&Stop { vector, ..STOP }) {
        Cause::Named(words) => words,
        other => panic!("vector {vector} is {other:?}"),
    };
    assert!(words(0).starts_with("divided by zero"));
    assert!(words(7).starts_with("used floating point without permission"));
    assert!(words(6).contains("invalid instruction"));
    assert_eq!(
        Cause::of(&Stop { vector: 29, error: 3, ..STOP }),
        Cause::Exception { vector: 29, error: 3 }
    );
}

#[test]
fn leaving_is_success_only_with_status_zero() {
    let left = |reason, detail| Cause::of(&Stop { kind: FaultKind::Leave, reason, detail, ..STOP });
    let (exit, panic) = (LeaveReason::Exit as u64, LeaveReason::Panic as u64);
    assert_eq!(left(exit, 0).ended(false), Ended::Done);
    assert_eq!(left(exit, 3), Cause::Left { status: 3 });
    assert_eq!(left(panic, 0), Cause::Panicked { line: 0 });
    assert_eq!(left(exit, 3).ended(true), Ended::Failed);
    assert_eq!(left(panic, 0).ended(true), Ended::Failed);
    assert_eq!(left(77, 0), Cause::LeftOddly { reason: 77 });
}

#[test]
fn a_monitor_says_what_became_of_its_guest() {
    let left = |reason: LeaveReason, detail| {
        let reason = reason as u64;
        Cause::of(&Stop { kind: FaultKind::Leave, reason, detail, ..STOP })
    };
    let reset = left(LeaveReason::Reset, 0);
    assert_eq!(reset, Cause::GuestReset);
    assert_eq!((reset.ended(true), reset.ended(false)), (Ended::Reset, Ended::Failed));
    let stopped = Stopped { code: STOPPED_PANIC, byte: 7, rip: 0xffff_ffff_8100_0000 };
    let cause = left(LeaveReason::Stopped, stopped.detail());
    assert_eq!((cause, cause.ended(true)), (Cause::VmStopped(stopped), Ended::Failed));
}

#[test]
fn the_other_kinds_carry_their_number() {
    let of = |kind| Cause::of(&Stop { kind, address: 9, ..STOP });
    assert_eq!(of(FaultKind::BadCall), Cause::BadCall { number: 9 });
    assert_eq!(of(FaultKind::InterruptStorm), Cause::InterruptStorm { interrupt: 9 });
    assert!(matches!(of(FaultKind::DmaStorm), Cause::DmaStorm { address: 9, .. }));
    assert_eq!(of(FaultKind::None), Cause::Unknown);
}
