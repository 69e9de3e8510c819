//! Parking: how all threads of a task stop, on whatever cores they are, and start again.
//!
//! [`ParkWord`] belongs to a task and lies in shared memory; [`ThreadPark`] is what one thread's
//! core remembers of it. Stopping is asynchronous: whoever stops a task calls
//! [`ParkWord::begin`] and, if it came first, posts [`crate::signal::OP_PARK`] to every thread of
//! the task and marks their cores. Each core then calls [`ThreadPark::catch_up`], and exactly one
//! of them learns that it parked the last thread: it signals the supervisor. `restart` and
//! `resume` change the word and are followed by the same posts.
//!
//! An operation bit is only a hint to look; what is to be done follows from the word. So an
//! operation that arrives late, twice, or merged with a later one does no harm.
//!
//! Invariant: within one episode (from a `begin` that came first to the `restart` or `resume` that
//! ends it) each thread is counted once.

use crate::sync::{AtomicU64, Ordering, const_unless_loom};
use cloister_abi::fault::TaskState;

// The word: target state (8 bits) | threads not parked yet (8) | episode (16) | generation (32).
const LEFT_SHIFT: u32 = 8;
const EPISODE_SHIFT: u32 = 16;
const GENERATION_SHIFT: u32 = 32;
const TARGET: u64 = 0xff;
const LEFT: u64 = 0xff << LEFT_SHIFT;
const LEFT_ONE: u64 = 1 << LEFT_SHIFT;
const EPISODE: u64 = 0xffff << EPISODE_SHIFT;
const RUNNING: u64 = 0;
const STOPPED: u64 = 2;
const FAULTED: u64 = 3;

/// What became of a [`ParkWord::begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It opened a new episode: the caller posts `OP_PARK` to all threads of the task, and writes
    /// the fault record if it is a fault.
    First,
    /// A fault turned a stop that is under way into a fault: the caller writes the fault record.
    Upgraded,
    /// The task is parked or parking already: nothing to do.
    Late,
}

/// A task's state, shared by the cores of its threads.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ParkWord {
    word: AtomicU64,
}

impl ParkWord {
    const_unless_loom! {
        /// A task that was never started: stopped, with all threads parked, generation 0.
        pub fn new() -> ParkWord {
            ParkWord { word: AtomicU64::new(STOPPED) }
        }
    }

    /// Begins to park the task's `threads` threads (1 to 255) for a stop or, with `fault`, for a
    /// fault. Of racing callers one is first. Follow it, on the caller's own thread, with
    /// [`ThreadPark::catch_up`].
    pub fn begin(&self, threads: u8, fault: bool) -> Begun {
        let target = if fault { FAULTED } else { STOPPED };
        let mut old = self.word.load(Ordering::Relaxed);
        loop {
            let (new, begun) = match old & TARGET {
                RUNNING => {
                    let episode = old.wrapping_add(1 << EPISODE_SHIFT) & EPISODE;
                    let rest = old & !(TARGET | LEFT | EPISODE);
                    let left = u64::from(threads) << LEFT_SHIFT;
                    (rest | episode | left | target, Begun::First)
                }
                STOPPED if fault && old & LEFT != 0 => (old & !TARGET | FAULTED, Begun::Upgraded),
                _ => return Begun::Late,
            };
            // What the winner did before is published by `post_op` or by its own `parked`.
            match self.word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return begun,
                Err(seen) => old = seen,
            }
        }
    }

    /// Counts one thread as parked; true for the last one. Everything that the task's threads
    /// did before is visible to the last one and to whoever sees the task parked.
    #[inline]
    fn parked(&self) -> bool {
        self.word.fetch_sub(LEFT_ONE, Ordering::AcqRel) & LEFT == LEFT_ONE
    }

    /// The task's state.
    #[inline]
    pub fn state(&self) -> TaskState {
        match self.word.load(Ordering::Acquire) {
            word if word & TARGET == RUNNING => TaskState::Running,
            word if word & LEFT != 0 => TaskState::Parking,
            word if word & TARGET == STOPPED => TaskState::Stopped,
            _ => TaskState::Faulted,
        }
    }

    /// How often the task was restarted.
    #[inline]
    pub fn generation(&self) -> u32 {
        generation(self.word.load(Ordering::Relaxed))
    }

    /// Lets a parked task run again from its start: the new generation, or `None` if the task is
    /// not parked. The caller posts `OP_PARK` to all its threads.
    pub fn restart(&self) -> Option<u32> {
        self.release(true).map(generation)
    }

    /// Lets a stopped task go on where it was; false if it is not stopped (a faulted one cannot go
    /// on). The caller posts `OP_PARK` to all its threads.
    pub fn resume(&self) -> bool {
        self.release(false).is_some()
    }

    fn release(&self, restart: bool) -> Option<u64> {
        let old = self.word.load(Ordering::Relaxed);
        let parked = old & LEFT == 0 && old & TARGET != RUNNING;
        if !parked || (old & TARGET == FAULTED && !restart) {
            return None;
        }
        let step = if restart { 1 << GENERATION_SHIFT } else { 0 };
        let new = (old & !TARGET | RUNNING).wrapping_add(step);
        // A parked word changes only here. Losing to another caller means that it runs already.
        // Acquire: what the threads did before they parked comes before what they do from now on.
        self.word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| new)
    }
}

#[inline]
fn generation(word: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// What a core has to do with a thread after [`ThreadPark::catch_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The task was restarted: put the thread's registers and its signal word back to the start.
    /// To be done before what `step` says.
    pub reset: bool,
    /// Whether the thread may run.
    pub step: Step,
}

/// The second half of an [`Act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// As before.
    Keep,
    /// The thread was parked and now goes on: ready again, or still in the `wait` in which it
    /// was stopped (after a reset: ready).
    Run,
    /// The thread is parked now, the task's last one is not.
    Park,
    /// The thread is parked now and was the last one: tell the supervisor.
    ParkLast,
}

/// One thread's place in its task's parking, kept by the thread's core. By default that of a thread
/// that was never started, to go with [`ParkWord::new`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadPark {
    generation: u32,
    episode: u64,
    runs: bool,
}

impl ThreadPark {
    /// Whether the thread is parked.
    #[inline]
    pub fn is_parked(&self) -> bool {
        !self.runs
    }

    /// Does what the task's word asks of this thread. Called by the thread's core when it took
    /// [`crate::signal::OP_PARK`], and by the core of a thread that faulted, after `begin`.
    pub fn catch_up(&mut self, task: &ParkWord) -> Act {
        self.catch_up_after(task, || {})
    }

    /// [`ThreadPark::catch_up`]; a thread that has to park does `before` first, so that whoever
    /// sees the task parked sees that done.
    pub fn catch_up_after(&mut self, task: &ParkWord, before: impl FnOnce()) -> Act {
        // Taking the operation acquired the change that it tells of.
        let word = task.word.load(Ordering::Relaxed);
        let reset = generation(word) != self.generation;
        self.generation = generation(word);
        if word & TARGET == RUNNING {
            let step = if self.runs { Step::Keep } else { Step::Run };
            self.runs = true;
            return Act { reset, step };
        }
        // Counted in this episode already; or parked for good, which took every thread's count.
        if self.episode == word & EPISODE || word & LEFT == 0 {
            return Act { reset, step: Step::Keep };
        }
        self.runs = false;
        self.episode = word & EPISODE;
        before();
        Act { reset, step: if task.parked() { Step::ParkLast } else { Step::Park } }
    }
}
