//! One watched task: when it is asked whether it lives, and when it counts as one that hangs.
//!
//! [`Watch`] is told the time and what is known, and says what to do. Times are ticks of any one
//! clock. Invariant: a task is given its whole time from each question to the look at the answer,
//! and from each new life to the first question.

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing yet.
    Nothing,
    /// Ask the task.
    Ask,
    /// The task has not answered: it hangs.
    Hangs,
}

/// A task that the manifest has watched.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    time: u64,
    due: u64,
    is_asked: bool,
}

impl Watch {
    /// Of a task that starts now; `time` is how long an answer may take.
    pub const fn new(time: u64, now: u64) -> Watch {
        Watch { time, due: now.saturating_add(time), is_asked: false }
    }

    /// When to look next.
    pub const fn due(&self) -> u64 {
        self.due
    }

    /// Looks. `is_running` is whether the task can answer at all, `is_answered` whether it has
    /// answered the latest question.
    pub fn look(&mut self, now: u64, is_running: bool, is_answered: bool) -> Look {
        if !is_running {
            *self = Watch::new(self.time, now);
            return Look::Nothing;
        }
        if now < self.due {
            return Look::Nothing;
        }
        let hangs = self.is_asked && !is_answered;
        *self = Watch { is_asked: !hangs, ..Watch::new(self.time, now) };
        if hangs { Look::Hangs } else { Look::Ask }
    }
}
