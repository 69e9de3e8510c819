//! Every task that is supervised, and what is to be done next.
//!
//! Invariant: a task is restarted at most once for each time that it stopped, and due tasks take
//! turns, so that one that faults without end cannot keep another one waiting.

use crate::restarts::{Limits, Restarts, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Due(u64),
    Done,
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct Ward {
    restarts: Restarts,
    is_essential: bool,
    phase: Phase,
}

/// What follows from a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is known already, or the task does not exist.
    Nothing,
    /// The task is done: it left with status 0.
    Done,
    /// It will be restarted after that time; it is that try of the window.
    Restart {
        /// Ticks until then.
        delay: u64,
        /// Counted from 1.
        nth: u32,
    },
    /// Its tries have run out.
    GiveUp(crate::restarts::Then),
}

/// The tasks, by the order in which they were added.
pub struct Agenda<const N: usize> {
    wards: [Option<Ward>; N],
    count: usize,
    turn: usize,
}

impl<const N: usize> Default for Agenda<N> {
    fn default() -> Self {
        Agenda { wards: [const { None }; N], count: 0, turn: 0 }
    }
}

impl<const N: usize> Agenda<N> {
    /// Adds a task that runs. `false`: there is no room for another one.
    pub fn add(&mut self, limits: Limits, is_essential: bool) -> bool {
        let Some(place) = self.wards.get_mut(self.count) else {
            return false;
        };
        let restarts = Restarts::new(limits);
        *place = Some(Ward { restarts, is_essential, phase: Phase::Running });
        self.count += 1;
        true
    }

    /// A task has stopped; `is_done` if it left with status 0.
    pub fn stopped(&mut self, index: usize, now: u64, is_done: bool) -> Next {
        let Some(Some(ward)) = self.wards.get_mut(index) else {
            return Next::Nothing;
        };
        if ward.phase != Phase::Running {
            return Next::Nothing;
        }
        if is_done {
            ward.phase = Phase::Done;
            return Next::Done;
        }
        match ward.restarts.after_fault(now) {
            Verdict::RestartAfter(delay) => {
                ward.phase = Phase::Due(now.saturating_add(delay));
                Next::Restart { delay, nth: ward.restarts.used() }
            }
            Verdict::GiveUp(then) => {
                ward.phase = Phase::GivenUp;
                Next::GiveUp(then)
            }
        }
    }

    /// A task that is to be restarted now, in turn. From here on it counts as running.
    pub fn take_due(&mut self, now: u64) -> Option<usize> {
        for _ in 0..self.count {
            let index = self.turn;
            self.turn = if index + 1 < self.count { index + 1 } else { 0 };
            let Some(Some(ward)) = self.wards.get_mut(index) else {
                continue;
            };
            if matches!(ward.phase, Phase::Due(at) if at <= now) {
                ward.phase = Phase::Running;
                return Some(index);
            }
        }
        None
    }

    /// A task that could not be restarted stays stopped.
    pub fn give_up(&mut self, index: usize) {
        if let Some(Some(ward)) = self.wards.get_mut(index) {
            ward.phase = Phase::GivenUp;
        }
    }

    /// When the next task is due.
    pub fn next_due(&self) -> Option<u64> {
        let due = self.wards.iter().flatten().filter_map(|ward| match ward.phase {
            Phase::Due(at) => Some(at),
            _ => None,
        });
        due.min()
    }

    /// Whether every essential task is done, and there is one.
    pub fn is_finished(&self) -> bool {
        let mut essential = self.wards.iter().flatten().filter(|ward| ward.is_essential).peekable();
        essential.peek().is_some() && essential.all(|ward| ward.phase == Phase::Done)
    }
}
