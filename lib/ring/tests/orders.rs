//! Messages between supervisor and console, there and back.

#![cfg(not(loom))]

use cloister_ring::Message;
use cloister_ring::orders::{FLUSH, FLUSHED, Name, Operation, Order, Report, VmState};
use proptest::prelude::*;

const OPERATIONS: [Operation; 5] =
    [Operation::Pause, Operation::Resume, Operation::Reset, Operation::Stop, Operation::Start];
const STATES: [VmState; 7] = [
    VmState::Running,
    VmState::Stopping,
    VmState::Paused,
    VmState::Waiting,
    VmState::PoweredOff,
    VmState::Stopped,
    VmState::GivenUp,
];

fn name() -> Name {
    core::array::from_fn(|at| at as u8 + 1)
}

#[test]
fn every_message_is_read_as_what_was_written() {
    assert_eq!(Order::of(&Order::Flush.message()), Some(Order::Flush));
    for state in STATES {
        let order = Order::State(name(), state);
        assert_eq!(Order::of(&order.message()), Some(order));
        for operation in OPERATIONS {
            let order = Order::Refused(name(), operation, state);
            assert_eq!(Order::of(&order.message()), Some(order));
        }
    }
    for report in [Report::Flushed, Report::PowerOff] {
        assert_eq!(Report::of(&report.message()), Some(report));
    }
    for operation in OPERATIONS {
        let report = Report::Command(name(), operation);
        assert_eq!(Report::of(&report.message()), Some(report));
    }
}

#[test]
fn the_first_two_kinds_are_what_they_always_were() {
    assert_eq!(Order::Flush.message(), Message([FLUSH, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(Report::Flushed.message(), Message([FLUSHED, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn what_one_side_says_the_other_does_not() {
    for kind in [0, 2, 3, 6, 7, u64::MAX] {
        assert_eq!(Order::of(&Message([kind, 0, 0, 0, 0, 0, 0, 0])), None);
    }
    for kind in [0, 1, 4, 5, 7, u64::MAX] {
        assert_eq!(Report::of(&Message([kind, 0, 0, 0, 0, 0, 0, 0])), None);
    }
    // An operation and a state that do not exist.
    assert_eq!(Report::of(&Message([3, 5, 0, 0, 0, 0, 0, 0])), None);
    assert_eq!(Order::of(&Message([4, 7, 0, 0, 0, 0, 0, 0])), None);
    assert_eq!(Order::of(&Message([5, 0, 0, 0, 0, 0, 7, 0])), None);
}

proptest! {
    #[test]
    fn any_words_are_read_or_refused(words: [u64; 8]) {
        let message = Message(words);
        if let Some(order) = Order::of(&message) {
            prop_assert_eq!(Order::of(&order.message()), Some(order));
        }
        if let Some(report) = Report::of(&message) {
            prop_assert_eq!(Report::of(&report.message()), Some(report));
        }
    }
}
