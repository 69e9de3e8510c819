//! One core's scheduler: fixed priorities, a budget per period, deadlines of waits.
//!
//! [`Sched`] holds up to 32 threads; a thread's index is its *rank*, 0 the most urgent, so that
//! choosing is one AND and one count of trailing zeros. Times are ticks of the time stamp counter.
//!
//! A budget is a deferrable server: what is unused stays until the next refill. Refills are at
//! least one period apart: on a fixed grid while the thread uses its budget, on a new grid after
//! a pause of more than a period. So the more urgent threads `i` can delay a less urgent one,
//! in any window of length `w`, by at most the sum over `i` of
//! `min(w, B_i + ceil(max(0, w - B_i) / P_i) * B_i + o_i)`, where `o_i <= B_i` is how late the
//! timer can stop a slice of thread `i`. What ran too long is taken from the next budget.
//! docs/notes/0003-scheduling.md derives this; tests/sched.rs checks it against a slow model.
//!
//! Contract with the kernel: `slice_end` when a thread is put on the CPU, `charge` when it leaves
//! it or its time is looked at, `tick` when `next_event` is reached; the timer is set to the
//! earlier of `slice_end` and `next_event`.

use cloister_abi::call::NEVER;
use cloister_abi::layout::MAX_THREADS_PER_CORE;

/// What the scheduler knows of one thread.
#[derive(Clone, Copy, Debug)]
struct Entry {
    budget: u64,
    period: u64,
    /// Ticks used of this period's budget; at most twice the budget, the excess is debt.
    used: u64,
    /// When the next period begins; in the past for a thread that has paused.
    refill_at: u64,
    deadline: u64,
}

/// One core's threads and who of them may run. Each set is a bitmap over the ranks.
#[derive(Debug)]
pub struct Sched {
    /// Wants the CPU.
    ready: u32,
    /// Has budget left, or needs none.
    funded: u32,
    /// Has a deadline armed.
    armed: u32,
    /// Not later than the earliest deadline or due refill.
    next: u64,
    entries: [Entry; MAX_THREADS_PER_CORE],
}

const IDLE: Entry = Entry { budget: 0, period: 0, used: 0, refill_at: 0, deadline: NEVER };

/// The budget of a thread without a limit: centuries, so it is never used up.
const UNLIMITED: u64 = 1 << 63;

#[inline]
fn bit(rank: u32) -> u32 {
    1u32.wrapping_shl(rank)
}

impl Sched {
    /// A core without threads.
    pub const fn new() -> Sched {
        let entries = [IDLE; MAX_THREADS_PER_CORE];
        Sched { ready: 0, funded: 0, armed: 0, next: NEVER, entries }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, clippy::as_conversions, reason = "the mask bounds it")]
    fn entry(&mut self, rank: u32) -> &mut Entry {
        &mut self.entries[(rank & 31) as usize]
    }

    /// Adds the thread of this rank (below 32), not ready. A budget that is not below its period
    /// is no limit.
    pub fn add(&mut self, rank: u32, budget: u64, period: u64) {
        *self.entry(rank) = Entry { budget, period, used: 0, refill_at: 0, deadline: NEVER };
        self.park(rank);
        self.funded |= bit(rank);
        if budget >= period {
            // No limit: a budget that nobody can use up, and no refill.
            *self.entry(rank) = Entry { budget: UNLIMITED, refill_at: NEVER, ..IDLE };
        }
    }

    /// The thread wants the CPU; its deadline, if it had one, is no more.
    #[inline]
    pub fn ready(&mut self, rank: u32, now: u64) {
        self.ready |= bit(rank);
        self.armed &= !bit(rank);
        if self.funded & bit(rank) == 0 {
            self.refill_late(rank, now);
        }
    }

    /// The rarer half of `ready`: the thread's budget was used up.
    #[cold]
    fn refill_late(&mut self, rank: u32, now: u64) {
        self.refill(rank, now);
        self.expect_refill(rank);
    }

    /// The thread sleeps until [`Sched::ready`], or until [`Sched::tick`] names it because
    /// `deadline` ([`NEVER`] for none) has passed.
    #[inline]
    pub fn block(&mut self, rank: u32, deadline: u64) {
        self.park(rank);
        self.arm(rank, deadline);
    }

    /// The thread, which goes on being ready, is to be named by [`Sched::tick`] once `deadline`
    /// ([`NEVER`] for none) has passed.
    #[inline]
    pub fn arm(&mut self, rank: u32, deadline: u64) {
        if deadline != NEVER {
            self.armed |= bit(rank);
            self.entry(rank).deadline = deadline;
            self.next = self.next.min(deadline);
        }
    }

    /// The thread has no deadline any more.
    #[inline]
    pub fn disarm(&mut self, rank: u32) {
        self.armed &= !bit(rank);
    }

    /// The thread does not run and has no deadline.
    #[inline]
    pub fn park(&mut self, rank: u32) {
        self.ready &= !bit(rank);
        self.armed &= !bit(rank);
    }

    /// The most urgent thread that is ready and has budget.
    #[inline]
    pub fn pick(&self) -> Option<u32> {
        let able = self.ready & self.funded;
        if able == 0 { None } else { Some(able.trailing_zeros()) }
    }

    /// Whether the thread wants the CPU.
    #[inline]
    pub fn is_ready(&self, rank: u32) -> bool {
        self.ready & bit(rank) != 0
    }

    /// The thread ran for `ran` ticks up to `now`.
    #[inline]
    pub fn charge(&mut self, rank: u32, ran: u64, now: u64) {
        if !self.charge_plainly(rank, ran, now) {
            self.charge_at_edge(rank, ran, now);
        }
    }

    /// [`Sched::charge`] in the frequent case; `false`: nothing was done.
    #[inline]
    #[must_use = "`false`: `charge` is to be called"]
    pub fn charge_plainly(&mut self, rank: u32, ran: u64, now: u64) -> bool {
        let entry = self.entry(rank);
        let used = entry.used.wrapping_add(ran);
        let is_plain = now < entry.refill_at && used < entry.budget;
        if is_plain {
            entry.used = used;
        }
        is_plain
    }

    /// The rarer half of `charge`: a refill is due or the budget is used up.
    #[inline(never)]
    fn charge_at_edge(&mut self, rank: u32, ran: u64, now: u64) {
        let entry = self.entry(rank);
        // What ran after the refill belongs to the new period.
        let after = now.saturating_sub(entry.refill_at).min(ran);
        entry.spend(ran.wrapping_sub(after));
        self.refill(rank, now);
        let entry = self.entry(rank);
        entry.spend(after);
        if entry.used >= entry.budget {
            self.funded &= !bit(rank);
            self.expect_refill(rank);
        }
    }

    /// When a thread that is put on the CPU `now` will have used up its budget; centuries from now
    /// for one without a limit.
    #[inline]
    pub fn slice_end(&mut self, rank: u32, now: u64) -> u64 {
        self.refill(rank, now);
        self.budget_end(rank, now)
    }

    /// [`Sched::slice_end`] of a thread whose refill is not due.
    #[inline]
    pub fn budget_end(&mut self, rank: u32, now: u64) -> u64 {
        let entry = self.entry(rank);
        now.saturating_add(entry.budget.saturating_sub(entry.used))
    }

    /// Whether a new period of the thread has begun that its budget does not know of.
    #[inline]
    pub fn is_refill_due(&mut self, rank: u32, now: u64) -> bool {
        now >= self.entry(rank).refill_at
    }

    /// When [`Sched::tick`] is to be called: not after the earliest deadline or due refill,
    /// perhaps before it. [`NEVER`] for not at all.
    #[inline]
    pub fn next_event(&self) -> u64 {
        self.next
    }

    /// Refills the budgets that are due and returns the threads whose deadline has passed, as a
    /// bitmap; their deadlines are no more, and the caller makes them ready.
    pub fn tick(&mut self, now: u64) -> u32 {
        if now < self.next {
            return 0;
        }
        self.next = NEVER;
        let mut expired = 0;
        let mut armed = self.armed;
        while armed != 0 {
            let rank = armed.trailing_zeros();
            armed &= !bit(rank);
            let deadline = self.entry(rank).deadline;
            if deadline <= now {
                expired |= bit(rank);
            } else {
                self.next = self.next.min(deadline);
            }
        }
        self.armed &= !expired;
        // A blocked thread without budget is refilled when it becomes ready.
        let mut starved = self.ready & !self.funded;
        while starved != 0 {
            let rank = starved.trailing_zeros();
            starved &= !bit(rank);
            self.refill(rank, now);
            self.expect_refill(rank);
        }
        expired
    }

    /// The deadline that a sleeping thread has armed, [`NEVER`] for none.
    pub fn deadline(&mut self, rank: u32) -> u64 {
        if self.armed & bit(rank) == 0 { NEVER } else { self.entry(rank).deadline }
    }

    /// Begins a new period if the old one is over.
    #[inline]
    pub fn refill(&mut self, rank: u32, now: u64) {
        if now >= self.entry(rank).refill_at {
            self.begin_period(rank, now);
        }
    }

    #[inline(never)]
    fn begin_period(&mut self, rank: u32, now: u64) {
        let entry = self.entry(rank);
        let next = entry.refill_at.saturating_add(entry.period);
        if now < next {
            entry.used = entry.used.saturating_sub(entry.budget);
            entry.refill_at = next;
        } else {
            // Two refills are due, and debt is at most one budget. Two refills are never closer
            // than a period: the grid begins anew.
            entry.used = 0;
            entry.refill_at = now.saturating_add(entry.period);
        }
        if entry.used < entry.budget {
            self.funded |= bit(rank);
        }
    }

    /// Sees to it that the refill of a thread without budget is not slept through.
    #[inline]
    fn expect_refill(&mut self, rank: u32) {
        if self.ready & !self.funded & bit(rank) != 0 {
            let refill_at = self.entry(rank).refill_at;
            self.next = self.next.min(refill_at);
        }
    }
}

impl Entry {
    /// Uses budget; debt beyond one whole budget is forgiven, so that a machine that stood still
    /// (a debugger, a paused emulator) does not silence a thread for long.
    #[inline]
    fn spend(&mut self, ticks: u64) {
        let limit = self.budget.saturating_mul(2);
        self.used = self.used.saturating_add(ticks).min(limit);
    }
}
