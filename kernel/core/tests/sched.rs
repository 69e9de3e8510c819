//! The scheduler against a slow, obvious model, and against its promise.
//!
//! The model keeps a list of threads and scans it; it shares no idea with the bitmaps of the real
//! one beyond the rules of budgets. A second part simulates a core with the real scheduler alone
//! and checks the bound of `sched`'s module text for every window of the run.
#![cfg(not(loom))]

use cloister_abi::call::NEVER;
use cloister_core::sched::Sched;
use proptest::prelude::*;

/// What the model knows of one thread.
#[derive(Clone, Debug)]
struct Slow {
    budget: u64,
    period: u64,
    used: u64,
    refill_at: u64,
    ready: bool,
    deadline: Option<u64>,
}

impl Slow {
    fn limited(&self) -> bool {
        self.budget < self.period
    }

    fn catch_up(&mut self, now: u64) {
        if now < self.refill_at {
        } else if now - self.refill_at < self.period {
            self.used -= self.used.min(self.budget);
            self.refill_at += self.period;
        } else {
            self.used = 0;
            self.refill_at = now + self.period;
        }
    }

    fn use_up(&mut self, ticks: u64) {
        self.used = (self.used + ticks).min(2 * self.budget);
    }

    fn funded(&self) -> bool {
        !self.limited() || self.used < self.budget
    }
}

#[derive(Clone, Debug)]
struct Model(Vec<Slow>);

impl Model {
    fn pick(&self) -> Option<u32> {
        self.0.iter().position(|t| t.ready && t.funded()).map(|rank| rank as u32)
    }

    fn charge(&mut self, rank: u32, ran: u64, now: u64) {
        let thread = &mut self.0[rank as usize];
        if thread.limited() {
            let after = if now > thread.refill_at { ran.min(now - thread.refill_at) } else { 0 };
            thread.use_up(ran - after);
            thread.catch_up(now);
            thread.use_up(after);
        }
    }

    fn tick(&mut self, now: u64) -> u32 {
        let mut expired = 0;
        for (rank, thread) in self.0.iter_mut().enumerate() {
            if thread.deadline.is_some_and(|deadline| deadline <= now) {
                thread.deadline = None;
                expired |= 1 << rank;
            }
            if thread.ready && !thread.funded() {
                thread.catch_up(now);
            }
        }
        expired
    }

    /// The earliest moment at which `tick` would change anything.
    fn next_event(&self) -> u64 {
        let deadlines = self.0.iter().filter_map(|thread| thread.deadline);
        let starved = self.0.iter().filter(|thread| thread.ready && !thread.funded());
        deadlines.chain(starved.map(|thread| thread.refill_at)).min().unwrap_or(NEVER)
    }
}

/// One call to the scheduler, after `pause` ticks.
#[derive(Clone, Debug)]
enum Op {
    Ready(u32),
    Block(u32, Option<u64>),
    Park(u32),
    /// Runs whoever is picked for so long, or until the slice ends plus an overrun.
    Run(u64, u64),
    Tick,
}

fn op(threads: u32) -> impl Strategy<Value = (u64, Op)> {
    let rank = 0..threads;
    let op = prop_oneof![
        rank.clone().prop_map(Op::Ready),
        (rank.clone(), prop::option::of(0u64..40)).prop_map(|(r, d)| Op::Block(r, d)),
        rank.prop_map(Op::Park),
        (1u64..30, 0u64..3).prop_map(|(ran, late)| Op::Run(ran, late)),
        Just(Op::Tick),
    ];
    (prop_oneof![3 => Just(0u64), 2 => 0u64..6, 1 => 0u64..60], op)
}

/// A scheduler and its model, in step.
#[derive(Debug)]
struct Pair {
    real: Sched,
    model: Model,
    now: u64,
}

impl Pair {
    fn new(shapes: &[(u64, u64)]) -> Pair {
        let mut real = Sched::new();
        let mut slow = Vec::new();
        for (rank, &(budget, period)) in shapes.iter().enumerate() {
            real.add(rank as u32, budget, period);
            let (used, refill_at, ready, deadline) = (0, 0, false, None);
            slow.push(Slow { budget, period, used, refill_at, ready, deadline });
        }
        Pair { real, model: Model(slow), now: 1 }
    }

    fn step(&mut self, pause: u64, op: &Op) {
        self.now += pause;
        let now = self.now;
        match *op {
            Op::Ready(rank) => {
                self.real.ready(rank, now);
                let thread = &mut self.model.0[rank as usize];
                (thread.ready, thread.deadline) = (true, None);
                if !thread.funded() {
                    thread.catch_up(now);
                }
            }
            Op::Block(rank, after) => {
                let deadline = after.map(|after| now + after);
                self.real.block(rank, deadline.unwrap_or(NEVER));
                let thread = &mut self.model.0[rank as usize];
                (thread.ready, thread.deadline) = (false, deadline);
            }
            Op::Park(rank) => {
                self.real.park(rank);
                let thread = &mut self.model.0[rank as usize];
                (thread.ready, thread.deadline) = (false, None);
            }
            Op::Run(ran, late) => self.run(ran, late),
            Op::Tick => assert_eq!(self.real.tick(now), self.model.tick_if_due(now)),
        }
        self.compare();
    }

    fn run(&mut self, ran: u64, late: u64) {
        let Some(rank) = self.real.pick() else { return };
        let thread = &mut self.model.0[rank as usize];
        let end = self.real.slice_end(rank, self.now);
        if thread.limited() {
            thread.catch_up(self.now);
            assert_eq!(end, self.now + thread.budget - thread.used);
        } else {
            assert!(end > self.now + (1 << 62), "{end} is a limit");
        }
        let ran = ran.min((end - self.now).saturating_add(late));
        self.now += ran;
        self.real.charge(rank, ran, self.now);
        self.model.charge(rank, ran, self.now);
    }

    fn compare(&mut self) {
        assert_eq!(self.real.pick(), self.model.pick(), "{:?}", self.model);
        // Early is allowed, late is not.
        assert!(self.real.next_event() <= self.model.next_event(), "{:?}", self.model);
        for (rank, thread) in self.model.0.iter().enumerate() {
            let rank = rank as u32;
            assert_eq!(self.real.is_ready(rank), thread.ready);
            assert_eq!(self.real.deadline(rank), thread.deadline.unwrap_or(NEVER));
        }
    }
}

impl Model {
    /// Before its next event, a tick has nothing to do; the real one does not even look.
    fn tick_if_due(&mut self, now: u64) -> u32 {
        if now < self.next_event() { 0 } else { self.tick(now) }
    }
}

fn shapes(most: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let shape = (1u64..8, 0u64..20).prop_map(|(budget, more)| (budget, budget + more));
    prop::collection::vec(shape, 1..=most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_scheduler_does_what_the_slow_model_does(
        shapes in shapes(6),
        ops in prop::collection::vec(op(6), 1..200),
    ) {
        let mut pair = Pair::new(&shapes);
        let threads = shapes.len() as u32;
        for (pause, op) in &ops {
            let op = match op.clone() {
                Op::Ready(rank) => Op::Ready(rank % threads),
                Op::Block(rank, after) => Op::Block(rank % threads, after),
                Op::Park(rank) => Op::Park(rank % threads),
                other => other,
            };
            pair.step(*pause, &op);
        }
    }

    #[test]
    fn nobody_is_delayed_beyond_the_promise(
        shapes in shapes(3),
        wants in prop::collection::vec((0u32..3, 0u64..25, 0u64..12), 1..60),
        late in 0u64..3,
    ) {
        // The promise holds for timers that are late by at most a budget.
        let late = late.min(shapes.iter().map(|&(budget, _)| budget).min().unwrap_or(0));
        let ran = simulate(&shapes, &wants, late);
        check_promise(&shapes, &ran, late);
    }
}

/// Runs a core with the real scheduler, tick by tick: `wants` are (thread, pause, work) in order;
/// the timer may be `late` by so many ticks. Returns who ran in each tick.
fn simulate(shapes: &[(u64, u64)], wants: &[(u32, u64, u64)], late: u64) -> Vec<Option<u32>> {
    let mut sched = Sched::new();
    for (rank, &(budget, period)) in shapes.iter().enumerate() {
        sched.add(rank as u32, budget, period);
    }
    let mut work = vec![0u64; shapes.len()];
    let mut arrivals = Vec::new();
    let mut at = 0;
    for &(rank, pause, amount) in wants {
        at += pause;
        arrivals.push((at, rank as usize % shapes.len(), amount));
    }
    let mut ran = Vec::new();
    let mut running: Option<(u32, u64)> = None;
    let mut timer = NEVER;
    for now in 0..at + 200 {
        // Kernel entries: an arrival, the timer (late), or the running thread's own end.
        let arrived = arrivals.iter().any(|&(when, _, _)| when == now);
        let done = running.is_some_and(|(rank, _)| work[rank as usize] == 0);
        if now == 0 || arrived || done || now >= timer.saturating_add(late) {
            if let Some((rank, since)) = running.take() {
                sched.charge(rank, now - since, now);
                if done {
                    sched.block(rank, NEVER);
                }
            }
            sched.tick(now);
            for &(_, rank, amount) in arrivals.iter().filter(|&&(when, _, _)| when == now) {
                work[rank] += amount;
                if work[rank] > 0 {
                    sched.ready(rank as u32, now);
                }
            }
            running = sched.pick().map(|rank| (rank, now));
            let slice = running.map_or(NEVER, |(rank, now)| sched.slice_end(rank, now));
            timer = slice.min(sched.next_event());
        }
        if let Some((rank, _)) = running {
            work[rank as usize] -= 1;
        }
        ran.push(running.map(|(rank, _)| rank));
    }
    ran
}

/// The formula of `sched`'s module text, for one thread. A window may hold a late stop of the
/// slice it begins in beside those that debt makes up for.
fn promise(budget: u64, period: u64, window: u64, late: u64) -> u64 {
    let refills = window.saturating_sub(budget).div_ceil(period);
    if budget == period { window } else { window.min(budget + refills * budget + late) }
}

/// Every window of the run: no thread uses more than it was promised to, and no ready thread of
/// lower rank waits while nobody more urgent runs.
fn check_promise(shapes: &[(u64, u64)], ran: &[Option<u32>], late: u64) {
    for (rank, &(budget, period)) in shapes.iter().enumerate() {
        let mut sums = vec![0u64];
        for who in ran {
            sums.push(sums.last().unwrap() + u64::from(*who == Some(rank as u32)));
        }
        for start in 0..ran.len() {
            for end in start + 1..=ran.len() {
                let (used, window) = (sums[end] - sums[start], (end - start) as u64);
                let most = promise(budget, period, window, late);
                assert!(used <= most, "thread {rank}: {used} > {most} in {start}..{end}");
            }
        }
    }
}

#[test]
fn the_promise_is_tight() {
    // A budget saved up to its period's end, then the next one: back to back.
    let ran = simulate(&[(3, 10), (1, 1)], &[(0, 0, 1), (0, 8, 5), (1, 0, 50)], 0);
    let first = ran.iter().enumerate().filter(|(_, who)| **who == Some(0)).map(|(at, _)| at);
    assert_eq!(first.collect::<Vec<_>>(), [0, 8, 9, 10, 11, 12]);
    assert_eq!(promise(3, 10, 5, 0), 5);
}

/// All sequences of a few calls for two threads, not a sample of them.
#[test]
fn every_short_sequence_agrees_with_the_model() {
    let ops = [
        (0, Op::Ready(0)),
        (0, Op::Ready(1)),
        (0, Op::Block(0, Some(2))),
        (0, Op::Block(1, None)),
        (1, Op::Run(1, 0)),
        (0, Op::Run(3, 1)),
        (0, Op::Run(9, 1)),
        (2, Op::Tick),
        (5, Op::Tick),
    ];
    let count = ops.len();
    for shapes in [[(1, 4), (2, 3)], [(2, 3), (3, 3)], [(2, 9), (1, 2)]] {
        for sequence in 0..count.pow(5) {
            let mut pair = Pair::new(&shapes);
            let mut rest = sequence;
            for _ in 0..5 {
                let (pause, op) = &ops[rest % count];
                pair.step(*pause, op);
                rest /= count;
            }
        }
    }
}

#[test]
fn a_machine_that_stood_still_silences_nobody_for_long() {
    let mut sched = Sched::new();
    sched.add(0, 10, 100);
    sched.ready(0, 1000);
    assert_eq!(sched.slice_end(0, 1000), 1010);
    // The emulator was stopped for a thousand periods while the thread ran.
    sched.charge(0, 100_000, 101_000);
    assert_eq!(sched.pick(), None);
    let refill = sched.next_event();
    assert!(refill <= 101_100);
    sched.tick(refill);
    sched.tick(refill + 100);
    assert_eq!(sched.pick(), Some(0));
}

#[test]
fn ranks_and_times_at_their_ends_do_no_harm() {
    let mut sched = Sched::new();
    sched.add(31, u64::MAX - 1, u64::MAX);
    sched.ready(31, u64::MAX);
    assert_eq!(sched.pick(), Some(31));
    assert_eq!(sched.slice_end(31, u64::MAX), u64::MAX);
    sched.charge(31, u64::MAX, u64::MAX);
    assert_eq!(sched.pick(), Some(31), "no budget was used up");
    sched.block(31, 7);
    assert_eq!(sched.tick(u64::MAX), 1 << 31);
    sched.ready(u32::MAX, 0);
}
