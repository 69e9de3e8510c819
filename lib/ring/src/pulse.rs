//! A sign of life: two words with which a supervisor finds out that a task hangs.
//!
//! [`Asker`] is the supervisor's end, [`Heart`] the task's. The supervisor counts up and signals;
//! the task, at each turn of its loop, copies the number. Who has not copied it when the
//! supervisor looks again has not taken a turn since. docs/notes/0013-watchdog.md tells what is
//! promised. A hostile task can pretend to live; it gains nothing that it would not have alive.
//!
//! Invariant: each word is written by one side, and nothing else rests on their order, so all
//! accesses are relaxed: what makes a question visible to a task that wakes is the signal.

use crate::sync::{AtomicU64, Ordering};

/// Written by the supervisor: the number of the latest question.
const ASKED: usize = 0;
/// Written by the task: the number of the question that it saw last.
const ANSWERED: usize = 1;

/// The supervisor's end.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    asked: &'a AtomicU64,
    answered: &'a AtomicU64,
}

impl<'a> Asker<'a> {
    /// The end of a region; `None` if the region has too few words.
    pub fn new(words: &'a [AtomicU64]) -> Option<Asker<'a>> {
        Some(Asker { asked: words.get(ASKED)?, answered: words.get(ANSWERED)? })
    }

    /// Asks. The caller then signals the task.
    pub fn ask(&self) {
        let number = self.asked.load(Ordering::Relaxed).wrapping_add(1);
        self.asked.store(number, Ordering::Relaxed);
    }

    /// Whether the task has seen the latest question.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.asked.load(Ordering::Relaxed)
    }
}

/// The task's end.
#[derive(Clone, Copy, Debug)]
pub struct Heart<'a> {
    asked: &'a AtomicU64,
    answered: &'a AtomicU64,
}

impl<'a> Heart<'a> {
    /// The end of a region; `None` if the region has too few words.
    pub fn new(words: &'a [AtomicU64]) -> Option<Heart<'a>> {
        Some(Heart { asked: words.get(ASKED)?, answered: words.get(ANSWERED)? })
    }

    /// Answers. Call it once in each turn, after waking and before the turn's work.
    pub fn beat(&self) {
        self.answered.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
