//! Restart policies against a slow model, and the agenda under crash loops.

use cloister_supervisor_core::{Agenda, Ended, Limits, Next, Restarts, Then, Verdict};
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { tries: 3, within: 1000, delay: 10, delay_max: 35, then: Then::Reboot };

#[test]
fn delays_double_up_to_the_largest_and_the_tries_run_out() {
    let mut restarts = Restarts::new(LIMITS);
    let verdicts = [0, 50, 100, 150].map(|now| restarts.after_fault(now));
    let expected = [
        Verdict::RestartAfter(10),
        Verdict::RestartAfter(20),
        Verdict::RestartAfter(35),
        Verdict::GiveUp(Then::Reboot),
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn a_new_window_begins_with_all_tries_and_the_first_delay() {
    let mut restarts = Restarts::new(LIMITS);
    for now in [0, 1, 2] {
        assert!(matches!(restarts.after_fault(now), Verdict::RestartAfter(_)));
    }
    assert_eq!(restarts.after_fault(999), Verdict::GiveUp(Then::Reboot));
    assert_eq!(restarts.after_fault(1000), Verdict::RestartAfter(10));
}

#[test]
fn no_tries_means_no_restart() {
    let mut restarts = Restarts::new(Limits { tries: 0, then: Then::Stop, ..LIMITS });
    assert_eq!(restarts.after_fault(0), Verdict::GiveUp(Then::Stop));
    assert_eq!(restarts.after_fault(5000), Verdict::GiveUp(Then::Stop));
}

#[test]
fn a_thousand_tries_do_not_overflow_the_delay() {
    let mut restarts =
        Restarts::new(Limits { tries: 1000, delay_max: u64::MAX, within: u64::MAX, ..LIMITS });
    let delays: Vec<_> = (0..1000).map(|now| restarts.after_fault(now)).collect();
    assert_eq!(delays[62], Verdict::RestartAfter(u64::MAX));
    assert_eq!(delays[999], Verdict::RestartAfter(u64::MAX));
}

/// Judges every fault anew from the list of all faults before it.
fn slow(limits: &Limits, faults: &[u64]) -> Verdict {
    let mut window: Vec<u64> = Vec::new();
    for fault in faults {
        if window.first().is_some_and(|start| fault - start >= limits.within) {
            window.clear();
        }
        window.push(*fault);
    }
    if window.len() > limits.tries as usize {
        return Verdict::GiveUp(limits.then);
    }
    let mut delay = u128::from(limits.delay);
    for _ in 1..window.len() {
        delay = (delay * 2).min(u128::from(limits.delay_max));
    }
    Verdict::RestartAfter(delay.min(u128::from(limits.delay_max)) as u64)
}

proptest! {
    #[test]
    fn every_verdict_is_that_of_the_slow_model(
        tries in 0u32..6, within in 1u64..200, delay in 0u64..20, more in 0u64..100,
        gaps in prop::collection::vec(0u64..80, 1..40),
    ) {
        let limits = Limits { tries, within, delay, delay_max: delay + more, then: Then::Stop };
        let mut restarts = Restarts::new(limits);
        let mut faults = Vec::new();
        let mut now = 0;
        for gap in gaps {
            now += gap;
            faults.push(now);
            prop_assert_eq!(restarts.after_fault(now), slow(&limits, &faults));
        }
    }
}

#[test]
fn a_crash_loop_does_not_keep_others_from_their_restart() {
    let mut agenda = Agenda::<3>::default();
    // The first one faults at once after each restart, without any delay, for ever.
    let wild =
        Limits { tries: u32::MAX, within: u64::MAX, delay: 0, delay_max: 0, then: Then::Stop };
    assert!(agenda.add(wild, false) && agenda.add(LIMITS, false) && agenda.add(LIMITS, false));
    for index in 0..3 {
        agenda.ended(index, 0, Ended::Failed);
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let index = agenda.take_due(10).unwrap();
        order.push(index);
        if index == 0 {
            agenda.ended(0, 10, Ended::Failed);
        }
    }
    assert_eq!(order, [0, 1, 2, 0, 0, 0]);
}

#[test]
fn a_task_is_restarted_once_for_each_stop_and_not_before_its_time() {
    let mut agenda = Agenda::<1>::default();
    assert!(agenda.add(LIMITS, false));
    assert_eq!(agenda.ended(0, 5, Ended::Failed), Next::Restart { delay: 10, nth: 1 });
    assert_eq!(agenda.ended(0, 6, Ended::Failed), Next::Nothing);
    assert_eq!((agenda.next_due(), agenda.take_due(14)), (Some(15), None));
    assert_eq!((agenda.take_due(15), agenda.take_due(15)), (Some(0), None));
    assert_eq!(agenda.ended(0, 16, Ended::Failed), Next::Restart { delay: 20, nth: 2 });
    assert_eq!(agenda.ended(1, 16, Ended::Failed), Next::Nothing);
}

#[test]
fn the_appliance_is_done_when_every_essential_task_is() {
    let mut agenda = Agenda::<4>::default();
    assert!(agenda.add(LIMITS, true) && agenda.add(LIMITS, false) && agenda.add(LIMITS, true));
    assert_eq!(agenda.ended(0, 0, Ended::Done), Next::Done);
    assert_eq!(agenda.ended(1, 0, Ended::Done), Next::Done);
    assert!(!agenda.is_finished());
    assert!(matches!(agenda.ended(2, 0, Ended::Failed), Next::Restart { .. }));
    assert!(!agenda.is_finished());
    assert_eq!(agenda.take_due(100), Some(2));
    assert_eq!(agenda.ended(2, 101, Ended::Done), Next::Done);
    assert!(agenda.is_finished());
}

#[test]
fn without_essential_tasks_it_is_never_done() {
    let mut agenda = Agenda::<1>::default();
    assert!(!agenda.is_finished());
    assert!(agenda.add(LIMITS, false));
    agenda.ended(0, 0, Ended::Done);
    assert!(!agenda.is_finished());
    assert!(!agenda.add(LIMITS, false), "there is room for one");
}
