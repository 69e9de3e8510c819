//! Every task that is supervised, and what is to be done next.
//!
//! A task comes to rest by itself ([`Agenda::ended`]) or because it was told to
//! ([`Agenda::command`], then [`Agenda::parked`]); what a task may be told depends on its
//! [`Phase`]. Only monitors are told anything: pausing a virtual machine is stopping its monitor. One
//! that is stopped for good has stopped when its devices are still ([`Agenda::stilled`]).
//!
//! Invariant: a task is restarted at most once for each time that it came to rest, and due tasks
//! take turns, so that one that faults without end cannot keep another one waiting.

use cloister_ring::orders::{Operation, VmState};

use crate::restarts::{Limits, Restarts, Verdict};

/// What a stop that is under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Pause,
    Stop,
    Reset,
    /// It hangs: being parked counts as a fault.
    Hung,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The kernel was asked to park it.
    Stopping(Wish),
    /// At rest for good, as a person wants, but its devices may still write to its memory.
    Stilling,
    /// Parked, and can go on where it was.
    Paused,
    Due(u64),
    Done,
    /// At rest for good, as a person wants, and so are its devices.
    Stopped,
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct Ward {
    restarts: Restarts,
    is_essential: bool,
    phase: Phase,
}

/// How a task came to rest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It left with status 0.
    Done,
    /// It asked for a reset.
    Reset,
    /// Anything else.
    Failed,
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is known already, or the task does not exist.
    Nothing,
    /// The task is done: it left with status 0.
    Done,
    /// It is restarted at once; it is that reset of the window.
    Reset {
        /// Counted from 1.
        nth: u32,
    },
    /// It was about to be stopped anyway.
    Stopped,
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

/// What the kernel is to be asked for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing now: the command takes effect with the next restart, or has done so.
    Nothing,
    /// To park the task.
    Stop,
    /// To let it go on.
    Resume,
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

    fn ward(&mut self, index: usize) -> Option<&mut Ward> {
        self.wards.get_mut(index).and_then(Option::as_mut)
    }

    /// A task has come to rest by itself.
    pub fn ended(&mut self, index: usize, now: u64, how: Ended) -> Next {
        let Some(ward) = self.ward(index) else {
            return Next::Nothing;
        };
        // A task that was being stopped may come to rest by itself first.
        let wish = match ward.phase {
            Phase::Running => None,
            Phase::Stopping(wish) => Some(wish),
            _ => return Next::Nothing,
        };
        match (how, wish) {
            (_, Some(Wish::Reset)) => {
                ward.phase = Phase::Due(now);
                Next::Stopped
            }
            (Ended::Done, _) => {
                ward.phase = Phase::Done;
                Next::Done
            }
            (_, Some(Wish::Stop)) => {
                ward.phase = Phase::Stilling;
                Next::Stopped
            }
            (Ended::Reset, _) => match ward.restarts.after_reset(now) {
                Some(nth) => {
                    ward.phase = Phase::Due(now);
                    Next::Reset { nth }
                }
                None => ward.failed(now),
            },
            (Ended::Failed, _) => ward.failed(now),
        }
    }

    /// A task has been parked, as it was told. What follows, if that was not its own doing.
    pub fn parked(&mut self, index: usize, now: u64) -> Next {
        if let Some(ward) = self.ward(index)
            && let Phase::Stopping(wish) = ward.phase
        {
            ward.phase = match wish {
                Wish::Pause => Phase::Paused,
                Wish::Stop => Phase::Stilling,
                Wish::Reset => Phase::Due(now),
                Wish::Hung => return ward.failed(now),
            };
        }
        Next::Nothing
    }

    /// Whether a task was stopped by a person, and those that work for it are still at it.
    pub fn is_stilling(&self, index: usize) -> bool {
        let ward = self.wards.get(index).and_then(Option::as_ref);
        ward.is_some_and(|ward| ward.phase == Phase::Stilling)
    }

    /// Nobody works any more for a task that was stopped.
    pub fn stilled(&mut self, index: usize) {
        if let Some(ward) = self.ward(index)
            && ward.phase == Phase::Stilling
        {
            ward.phase = Phase::Stopped;
        }
    }

    /// A task does not take turns any more. Whether the kernel is to be asked to park it.
    pub fn hangs(&mut self, index: usize) -> bool {
        match self.ward(index) {
            Some(ward) if ward.phase == Phase::Running => {
                ward.phase = Phase::Stopping(Wish::Hung);
                true
            }
            _ => false,
        }
    }

    /// A person wants something of a task. Refused with the state that does not allow it.
    pub fn command(
        &mut self,
        index: usize,
        now: u64,
        operation: Operation,
    ) -> Result<Act, VmState> {
        let Some(ward) = self.ward(index) else {
            return Err(VmState::GivenUp);
        };
        let (phase, act) = match (operation, ward.phase) {
            (Operation::Pause, Phase::Running) => (Phase::Stopping(Wish::Pause), Act::Stop),
            (Operation::Stop, Phase::Running) => (Phase::Stopping(Wish::Stop), Act::Stop),
            (Operation::Reset, Phase::Running) => (Phase::Stopping(Wish::Reset), Act::Stop),
            (Operation::Stop, Phase::Stopping(_)) => (Phase::Stopping(Wish::Stop), Act::Nothing),
            (Operation::Reset, Phase::Stopping(_)) => (Phase::Stopping(Wish::Reset), Act::Nothing),
            (Operation::Resume, Phase::Paused) => (Phase::Running, Act::Resume),
            (Operation::Stop, Phase::Paused | Phase::Due(_) | Phase::Stilling) => {
                (Phase::Stilling, Act::Nothing)
            }
            (Operation::Reset, Phase::Paused) => (Phase::Due(now), Act::Nothing),
            (
                Operation::Reset | Operation::Start,
                Phase::Due(_) | Phase::Done | Phase::Stilling | Phase::Stopped | Phase::GivenUp,
            ) => {
                // Whoever starts it by hand has looked at it: all tries are there again.
                ward.restarts = Restarts::new(ward.restarts.limits());
                (Phase::Due(now), Act::Nothing)
            }
            (_, phase) => return Err(state_of(phase)),
        };
        ward.phase = phase;
        Ok(act)
    }

    /// How a task fares.
    pub fn state(&self, index: usize) -> Option<VmState> {
        self.wards.get(index).and_then(Option::as_ref).map(|ward| state_of(ward.phase))
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
        if let Some(ward) = self.ward(index) {
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

impl Ward {
    fn failed(&mut self, now: u64) -> Next {
        match self.restarts.after_fault(now) {
            Verdict::RestartAfter(delay) => {
                self.phase = Phase::Due(now.saturating_add(delay));
                Next::Restart { delay, nth: self.restarts.used() }
            }
            Verdict::GiveUp(then) => {
                self.phase = Phase::GivenUp;
                Next::GiveUp(then)
            }
        }
    }
}

fn state_of(phase: Phase) -> VmState {
    match phase {
        Phase::Running => VmState::Running,
        Phase::Stopping(_) | Phase::Stilling => VmState::Stopping,
        Phase::Paused => VmState::Paused,
        Phase::Due(_) => VmState::Waiting,
        Phase::Done => VmState::PoweredOff,
        Phase::Stopped => VmState::Stopped,
        Phase::GivenUp => VmState::GivenUp,
    }
}
