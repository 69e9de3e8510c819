//! Parking by one core at a time: every short sequence of stops, faults, restarts, resumes and
//! looks of three threads, against a model that keeps a list instead of a packed word.
#![cfg(not(loom))]

use cloister_abi::fault::TaskState;
use cloister_core::park::{Begun, ParkWord, Step, ThreadPark};

const THREADS: usize = 3;

/// What the model knows: the target state, who is parked, and who has not yet seen a restart.
#[derive(Clone, Debug)]
struct Model {
    target: TaskState,
    parked: [bool; THREADS],
    counted: [bool; THREADS],
    old: [bool; THREADS],
    generation: u32,
}

impl Model {
    fn all_parked(&self) -> bool {
        self.target != TaskState::Running && self.counted == [true; THREADS]
    }

    fn state(&self) -> TaskState {
        let parking = self.target != TaskState::Running && !self.all_parked();
        if parking { TaskState::Parking } else { self.target }
    }

    fn begin(&mut self, target: TaskState) -> Begun {
        let upgrade = target == TaskState::Faulted && self.target == TaskState::Stopped;
        if self.target == TaskState::Running {
            (self.target, self.counted) = (target, [false; THREADS]);
            Begun::First
        } else if upgrade && !self.all_parked() {
            self.target = target;
            Begun::Upgraded
        } else {
            Begun::Late
        }
    }

    fn restart(&mut self) -> Option<u32> {
        if !self.all_parked() {
            return None;
        }
        (self.target, self.old) = (TaskState::Running, [true; THREADS]);
        self.generation += 1;
        Some(self.generation)
    }

    fn resume(&mut self) -> bool {
        let may = self.all_parked() && self.target == TaskState::Stopped;
        if may {
            self.target = TaskState::Running;
        }
        may
    }

    fn catch_up(&mut self, thread: usize) -> (bool, Step) {
        let reset = std::mem::take(&mut self.old[thread]);
        let parked = self.parked[thread];
        let step = match self.target {
            TaskState::Running if parked => Step::Run,
            TaskState::Running => Step::Keep,
            _ if self.counted[thread] => Step::Keep,
            _ => {
                self.counted[thread] = true;
                if self.all_parked() { Step::ParkLast } else { Step::Park }
            }
        };
        self.parked[thread] = self.target != TaskState::Running;
        (reset, step)
    }
}

#[test]
fn every_short_sequence_agrees_with_the_model() {
    const OPS: usize = 4 + THREADS;
    const LENGTH: u32 = 7;
    for sequence in 0..OPS.pow(LENGTH) {
        let (word, mut threads) = (ParkWord::new(), [ThreadPark::default(); THREADS]);
        let mut model = Model {
            target: TaskState::Stopped,
            parked: [true; THREADS],
            counted: [true; THREADS],
            old: [false; THREADS],
            generation: 0,
        };
        // Started once and running, so that short sequences get far.
        assert_eq!(word.restart(), model.restart());
        for (index, thread) in threads.iter_mut().enumerate() {
            let act = thread.catch_up(&word);
            assert_eq!((act.reset, act.step), model.catch_up(index));
        }
        let mut rest = sequence;
        for _ in 0..LENGTH {
            match rest % OPS {
                0 => assert_eq!(word.begin(3, false), model.begin(TaskState::Stopped)),
                1 => assert_eq!(word.begin(3, true), model.begin(TaskState::Faulted)),
                2 => assert_eq!(word.restart(), model.restart()),
                3 => assert_eq!(word.resume(), model.resume()),
                thread => {
                    let act = threads[thread - 4].catch_up(&word);
                    assert_eq!((act.reset, act.step), model.catch_up(thread - 4));
                }
            }
            rest /= OPS;
            assert_eq!(word.state(), model.state(), "sequence {sequence}");
            assert_eq!(word.generation(), model.generation);
            let parked = threads.map(|thread| thread.is_parked());
            assert_eq!(parked, model.parked);
        }
    }
}

#[test]
fn episodes_wrap_without_mixing_threads_up() {
    let (word, mut thread) = (ParkWord::new(), ThreadPark::default());
    word.restart();
    assert_eq!(thread.catch_up(&word).step, Step::Run);
    for _ in 0..200_000 {
        assert_eq!(word.begin(1, false), Begun::First);
        assert_eq!(thread.catch_up(&word).step, Step::ParkLast);
        assert!(word.resume());
        assert_eq!(thread.catch_up(&word).step, Step::Run);
    }
    assert_eq!(word.generation(), 1);
}
