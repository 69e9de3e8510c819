//! One task's restart policy, applied.
//!
//! A window begins with a fault outside of any window and lasts `within`. In it a task is
//! restarted `tries` times, each time after twice the delay of the time before. A fault after the
//! window begins the next one, with the first delay again. Resets that a guest asks for are no
//! faults; they have a window of their own, in which [`RESETS_MAX`] of them are free, and each
//! further one counts as a fault. Times are ticks of any one clock.

/// Resets within a window that are no faults: more than anybody needs who reboots guests for a
/// test, few enough that a guest which resets itself without end does not flood the log.
pub const RESETS_MAX: u32 = 200;

/// What to do when the tries run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The task stays stopped, the others go on.
    Stop,
    /// The machine reboots.
    Reboot,
    /// The machine powers off.
    PowerOff,
}

/// How often and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Restarts allowed in a window.
    pub tries: u32,
    /// Length of a window.
    pub within: u64,
    /// First delay.
    pub delay: u64,
    /// Largest delay.
    pub delay_max: u64,
    /// What then.
    pub then: Then,
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Restart it after that time.
    RestartAfter(u64),
    /// The tries have run out.
    GiveUp(Then),
}

/// A task's history, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Restarts {
    limits: Limits,
    window: Option<u64>,
    used: u32,
    reset_window: Option<u64>,
    resets: u32,
}

impl Restarts {
    /// Of a task that has not faulted yet.
    pub const fn new(limits: Limits) -> Restarts {
        Restarts { limits, window: None, used: 0, reset_window: None, resets: 0 }
    }

    /// The task's limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Restarts in this window.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Judges a reset at a time: which one of its window it is, or `None` if it is one too many.
    pub fn after_reset(&mut self, now: u64) -> Option<u32> {
        if !self.is_within(self.reset_window, now) {
            self.reset_window = Some(now);
            self.resets = 0;
        }
        if self.resets >= RESETS_MAX {
            return None;
        }
        self.resets += 1;
        Some(self.resets)
    }

    fn is_within(&self, window: Option<u64>, now: u64) -> bool {
        window.is_some_and(|start| now.saturating_sub(start) < self.limits.within)
    }

    /// Judges a fault at a time.
    pub fn after_fault(&mut self, now: u64) -> Verdict {
        if !self.is_within(self.window, now) {
            self.window = Some(now);
            self.used = 0;
        }
        if self.used >= self.limits.tries {
            return Verdict::GiveUp(self.limits.then);
        }
        let doublings = self.used.min(63);
        self.used += 1;
        let delay = self.limits.delay.saturating_mul(1 << doublings);
        Verdict::RestartAfter(delay.min(self.limits.delay_max))
    }
}
