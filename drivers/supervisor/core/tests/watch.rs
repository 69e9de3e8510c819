//! A watched task under all kinds of schedules, and what follows when it hangs.

use cloister_supervisor_core::{Agenda, Ended, Limits, Look, Next, Then, Watch};
use proptest::prelude::*;

const TIME: u64 = 100;
const LIMITS: Limits =
    Limits { tries: 1, within: 1000, delay: 10, delay_max: 10, then: Then::Stop };

#[test]
fn a_task_is_asked_and_given_its_time() {
    let mut watch = Watch::new(TIME, 1000);
    assert_eq!((watch.due(), watch.look(1099, true, false)), (1100, Look::Nothing));
    assert_eq!(watch.look(1100, true, false), Look::Ask);
    assert_eq!(watch.look(1199, true, false), Look::Nothing);
    assert_eq!(watch.look(1200, true, true), Look::Ask);
    // The supervisor itself may come late; then the task had more time.
    assert_eq!(watch.look(1500, true, false), Look::Hangs);
    assert_eq!(watch.look(1599, true, false), Look::Nothing);
}

#[test]
fn nothing_is_counted_while_it_is_parked() {
    let mut watch = Watch::new(TIME, 0);
    assert_eq!(watch.look(100, true, false), Look::Ask);
    assert_eq!(watch.look(500, false, false), Look::Nothing);
    // It runs again, and has not answered yet.
    assert_eq!(watch.look(599, true, false), Look::Nothing);
    assert_eq!(watch.look(600, true, false), Look::Ask);
}

#[test]
fn a_hanging_task_is_parked_and_then_treated_as_one_that_faulted() {
    let mut agenda = Agenda::<1>::default();
    assert!(agenda.add(LIMITS, false));
    assert!(agenda.hangs(0));
    assert!(!agenda.hangs(0), "it is being parked already");
    assert_eq!(agenda.parked(0, 50), Next::Restart { delay: 10, nth: 1 });
    assert_eq!((agenda.take_due(59), agenda.take_due(60)), (None, Some(0)));
    assert!(agenda.hangs(0));
    // It faults before it is parked: the same, once.
    assert_eq!(agenda.ended(0, 70, Ended::Failed), Next::GiveUp(Then::Stop));
    assert_eq!(agenda.parked(0, 80), Next::Nothing);
    assert!(!agenda.hangs(0), "it is given up");
}

proptest! {
    /// Against a model that keeps all moments: hanging is exactly one whole time without an answer
    /// to a question.
    #[test]
    fn it_hangs_if_and_only_if_a_question_stayed_open(
        steps in prop::collection::vec((1..150u64, prop::bool::weighted(0.9), any::<bool>()), 1..60)
    ) {
        let (mut watch, mut now, mut since) = (Watch::new(TIME, 0), 0, 0);
        let mut open = false;
        for (wait, is_running, beats) in steps {
            now += wait;
            if beats {
                open = false;
            }
            let answered = !open;
            let found = watch.look(now, is_running, answered);
            let expected = match (is_running, now - since >= TIME) {
                (false, _) => { since = now; open = false; Look::Nothing }
                (true, false) => Look::Nothing,
                (true, true) if !answered => { since = now; open = false; Look::Hangs }
                (true, true) => { since = now; open = true; Look::Ask }
            };
            prop_assert_eq!(found, expected);
        }
    }
}
