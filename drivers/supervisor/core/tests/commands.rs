//! What a person may tell a virtual machine in which state, resets, and a model of the agenda
//! under commands, ends and parks in any order.

use cloister_ring::orders::{Operation, VmState};
use cloister_supervisor_core::{Act, Agenda, Ended, Limits, Next, RESETS_MAX, Then};
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { tries: 3, within: 1000, delay: 10, delay_max: 35, then: Then::Stop };
const OPERATIONS: [Operation; 5] =
    [Operation::Pause, Operation::Resume, Operation::Reset, Operation::Stop, Operation::Start];

fn one() -> Agenda<1> {
    let mut agenda = Agenda::default();
    assert!(agenda.add(LIMITS, false));
    agenda
}

/// An agenda whose task is in a state.
fn in_state(state: VmState) -> Agenda<1> {
    let mut agenda = one();
    match state {
        VmState::Running => {}
        VmState::Stopping => {
            assert_eq!(agenda.command(0, 0, Operation::Pause), Ok(Act::Stop));
        }
        VmState::Paused | VmState::Stopped => {
            let operation =
                if state == VmState::Paused { Operation::Pause } else { Operation::Stop };
            assert_eq!(agenda.command(0, 0, operation), Ok(Act::Stop));
            agenda.parked(0, 0);
            agenda.stilled(0);
        }
        VmState::Waiting => drop(agenda.ended(0, 0, Ended::Failed)),
        VmState::PoweredOff => drop(agenda.ended(0, 0, Ended::Done)),
        VmState::GivenUp => agenda.give_up(0),
    }
    assert_eq!(agenda.state(0), Some(state));
    agenda
}

#[test]
fn each_state_allows_what_makes_sense_and_refuses_the_rest() {
    use Operation::{Pause, Reset, Resume, Start, Stop};
    use VmState::{GivenUp, Paused, PoweredOff, Running, Stopped, Stopping, Waiting};
    let table = [
        (Running, Pause, Some((Act::Stop, Stopping))),
        (Running, Resume, None),
        (Running, Reset, Some((Act::Stop, Stopping))),
        (Running, Stop, Some((Act::Stop, Stopping))),
        (Running, Start, None),
        (Stopping, Pause, None),
        (Stopping, Resume, None),
        (Stopping, Reset, Some((Act::Nothing, Stopping))),
        (Stopping, Stop, Some((Act::Nothing, Stopping))),
        (Stopping, Start, None),
        (Paused, Pause, None),
        (Paused, Resume, Some((Act::Resume, Running))),
        (Paused, Reset, Some((Act::Nothing, Waiting))),
        (Paused, Stop, Some((Act::Nothing, Stopping))),
        (Paused, Start, None),
        (Waiting, Pause, None),
        (Waiting, Resume, None),
        (Waiting, Reset, Some((Act::Nothing, Waiting))),
        (Waiting, Stop, Some((Act::Nothing, Stopping))),
        (Waiting, Start, Some((Act::Nothing, Waiting))),
    ];
    for (state, operation, expected) in table {
        let mut agenda = in_state(state);
        let found = agenda.command(0, 5, operation);
        match expected {
            Some((act, then)) => {
                assert_eq!((found, agenda.state(0)), (Ok(act), Some(then)), "{operation:?}");
            }
            None => {
                assert_eq!((found, agenda.state(0)), (Err(state), Some(state)), "{operation:?}");
            }
        }
    }
    for state in [PoweredOff, Stopped, GivenUp] {
        for operation in OPERATIONS {
            let mut agenda = in_state(state);
            let found = agenda.command(0, 5, operation);
            if matches!(operation, Start | Reset) {
                assert_eq!((found, agenda.take_due(5)), (Ok(Act::Nothing), Some(0)));
            } else {
                assert_eq!((found, agenda.take_due(5)), (Err(state), None));
            }
        }
    }
}

#[test]
fn a_task_that_does_not_exist_takes_no_command() {
    assert!(one().command(1, 0, Operation::Pause).is_err());
    assert_eq!(one().state(1), None);
}

#[test]
fn the_last_wish_of_a_stop_under_way_counts() {
    for (operation, expected) in
        [(Operation::Stop, VmState::Stopped), (Operation::Reset, VmState::Waiting)]
    {
        let mut agenda = in_state(VmState::Stopping);
        assert_eq!(agenda.command(0, 1, operation), Ok(Act::Nothing));
        agenda.parked(0, 2);
        agenda.stilled(0);
        assert_eq!(agenda.state(0), Some(expected));
        // A second signal of the same park changes nothing.
        agenda.parked(0, 3);
        assert_eq!(agenda.state(0), Some(expected));
    }
}

#[test]
fn who_ends_by_itself_while_it_is_being_stopped_is_not_restarted_against_the_wish() {
    let ended = |operation, how| {
        let mut agenda = one();
        agenda.command(0, 0, operation).unwrap();
        let next = agenda.ended(0, 1, how);
        agenda.stilled(0);
        (next, agenda.state(0).unwrap())
    };
    let stopped = (Next::Stopped, VmState::Stopped);
    assert_eq!(ended(Operation::Stop, Ended::Failed), stopped);
    assert_eq!(ended(Operation::Stop, Ended::Reset), stopped);
    assert_eq!(ended(Operation::Stop, Ended::Done), (Next::Done, VmState::PoweredOff));
    let again = (Next::Stopped, VmState::Waiting);
    assert_eq!(ended(Operation::Reset, Ended::Failed), again);
    assert_eq!(ended(Operation::Reset, Ended::Done), again);
    assert_eq!(ended(Operation::Pause, Ended::Done), (Next::Done, VmState::PoweredOff));
    let restart = Next::Restart { delay: 10, nth: 1 };
    assert_eq!(ended(Operation::Pause, Ended::Failed), (restart, VmState::Waiting));
}

#[test]
fn a_machine_has_stopped_when_its_devices_are_still() {
    for before in [VmState::Running, VmState::Paused, VmState::Waiting] {
        let mut agenda = in_state(before);
        agenda.stilled(0);
        assert_eq!(agenda.state(0), Some(before), "nobody wants it to stop");
        agenda.command(0, 1, Operation::Stop).unwrap();
        assert_eq!(agenda.is_stilling(0), before != VmState::Running, "it is parked first");
        agenda.parked(0, 2);
        assert!(agenda.is_stilling(0));
        assert_eq!(agenda.state(0), Some(VmState::Stopping));
        agenda.stilled(0);
        assert_eq!((agenda.is_stilling(0), agenda.state(0)), (false, Some(VmState::Stopped)));
    }
    // Its next life does not wait for that: its monitor does.
    let mut agenda = in_state(VmState::Paused);
    agenda.command(0, 1, Operation::Stop).unwrap();
    assert_eq!(agenda.command(0, 2, Operation::Reset), Ok(Act::Nothing));
    assert_eq!((agenda.is_stilling(0), agenda.take_due(2)), (false, Some(0)));
    agenda.stilled(0);
    assert_eq!(agenda.state(0), Some(VmState::Running));
}

#[test]
fn resets_are_no_faults_until_they_are_too_many() {
    let mut agenda = one();
    for nth in 1..=RESETS_MAX {
        assert_eq!(agenda.ended(0, 7, Ended::Reset), Next::Reset { nth });
        assert_eq!(agenda.take_due(7), Some(0));
    }
    assert_eq!(agenda.ended(0, 8, Ended::Reset), Next::Restart { delay: 10, nth: 1 });
    assert_eq!(agenda.take_due(18), Some(0));
    // The window is as long as that of the faults.
    assert!(matches!(agenda.ended(0, 1006, Ended::Reset), Next::Restart { nth: 2, .. }));
    assert_eq!(agenda.take_due(1100), Some(0));
    assert_eq!(agenda.ended(0, 1107, Ended::Reset), Next::Reset { nth: 1 });
}

#[test]
fn started_by_hand_it_has_all_its_tries_again() {
    let mut agenda = one();
    for nth in 1..=3 {
        assert!(
            matches!(agenda.ended(0, 0, Ended::Failed), Next::Restart { nth: n, .. } if n == nth)
        );
        assert_eq!(agenda.take_due(100), Some(0));
    }
    assert_eq!(agenda.ended(0, 0, Ended::Failed), Next::GiveUp(Then::Stop));
    assert_eq!(agenda.command(0, 0, Operation::Start), Ok(Act::Nothing));
    assert_eq!(agenda.take_due(0), Some(0));
    assert_eq!(agenda.ended(0, 1, Ended::Failed), Next::Restart { delay: 10, nth: 1 });
}

#[test]
fn a_guest_that_a_person_stopped_does_not_end_the_appliance() {
    let mut agenda = Agenda::<2>::default();
    assert!(agenda.add(LIMITS, true) && agenda.add(LIMITS, true));
    assert_eq!(agenda.ended(0, 0, Ended::Done), Next::Done);
    assert_eq!(agenda.command(1, 0, Operation::Stop), Ok(Act::Stop));
    agenda.parked(1, 0);
    agenda.stilled(1);
    assert!(!agenda.is_finished());
    assert_eq!(agenda.command(1, 0, Operation::Start), Ok(Act::Nothing));
    assert_eq!(agenda.take_due(0), Some(1));
    assert_eq!(agenda.ended(1, 0, Ended::Done), Next::Done);
    assert!(agenda.is_finished());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Command(usize, usize),
    End(usize, usize),
    Park(usize),
    Still(usize),
    Due,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..2, 0usize..5).prop_map(|(task, what)| Step::Command(task, what)),
        (0usize..2, 0usize..3).prop_map(|(task, how)| Step::End(task, how)),
        (0usize..2).prop_map(Step::Park),
        (0usize..2).prop_map(Step::Still),
        Just(Step::Due),
    ]
}

/// What the kernel would know: whether the task's threads are parked, and whether it may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Real {
    Running,
    Parking,
    Stopped,
    Faulted,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: the kernel is never asked for something that it would
    /// refuse, and what one task does changes nothing of the other one's state.
    #[test]
    fn the_kernel_is_asked_only_for_what_it_can_do(steps in prop::collection::vec(step(), 1..80)) {
        let mut agenda = Agenda::<2>::default();
        prop_assert!(agenda.add(LIMITS, false) && agenda.add(LIMITS, false));
        let mut real = [Real::Running; 2];
        for (now, step) in (0..).zip(steps) {
            let before = [agenda.state(0), agenda.state(1)];
            let at = match step {
                Step::Command(at, what) => {
                    match agenda.command(at, now, OPERATIONS[what]) {
                        Ok(Act::Stop) => {
                            prop_assert_eq!(real[at], Real::Running);
                            real[at] = Real::Parking;
                        }
                        Ok(Act::Resume) => {
                            prop_assert_eq!(real[at], Real::Stopped);
                            real[at] = Real::Running;
                        }
                        Ok(Act::Nothing) => {}
                        Err(state) => prop_assert_eq!(agenda.state(at), Some(state)),
                    }
                    at
                }
                Step::End(at, how) if matches!(real[at], Real::Running | Real::Parking) => {
                    real[at] = Real::Faulted;
                    let how = [Ended::Done, Ended::Reset, Ended::Failed][how];
                    prop_assert!(agenda.ended(at, now, how) != Next::Nothing);
                    at
                }
                Step::Park(at) if real[at] == Real::Parking => {
                    real[at] = Real::Stopped;
                    agenda.parked(at, now);
                    at
                }
                Step::Still(at) => {
                    agenda.stilled(at);
                    at
                }
                Step::Due => match agenda.take_due(now) {
                    Some(at) => {
                        prop_assert!(matches!(real[at], Real::Stopped | Real::Faulted));
                        real[at] = Real::Running;
                        at
                    }
                    None => continue,
                },
                _ => continue,
            };
            prop_assert_eq!(before[1 - at], agenda.state(1 - at));
            let is_running = agenda.state(at) == Some(VmState::Running);
            prop_assert_eq!(is_running, real[at] == Real::Running);
            let is_stopping = agenda.state(at) == Some(VmState::Stopping);
            prop_assert_eq!(is_stopping, real[at] == Real::Parking || agenda.is_stilling(at));
            let is_at_rest = matches!(real[at], Real::Stopped | Real::Faulted);
            prop_assert!(is_at_rest || !agenda.is_stilling(at));
        }
    }
}
