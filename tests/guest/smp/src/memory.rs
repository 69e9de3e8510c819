//! What vCPUs share: memory with its order, and one time.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::{Lock, cpu};
use guest_common::{Cases, Outcome, equal};

use crate::helpers::{all, done, give};

/// Turns of each vCPU.
const ROUNDS: u64 = 20_000;

static SUM: Lock<u64> = Lock::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
/// The latest time that any vCPU has seen, and how often one saw an earlier one afterwards.
static LATEST: Lock<u64> = Lock::new(0);
static BACKWARDS: AtomicU64 = AtomicU64::new(0);
/// Two words of a message: the second says that the first is there.
static DATA: AtomicU64 = AtomicU64::new(0);
static FLAG: AtomicU64 = AtomicU64::new(0);
static STALE: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases, vcpus: u32) {
    cases.run("a lock and an atomic count every turn", || counted(vcpus));
    cases.run("time never goes back from one vCPU to another", || time(vcpus));
    cases.run("a flag is seen after its data", || ordered(vcpus));
}

fn counted(vcpus: u32) -> Outcome {
    fn turns() {
        for _ in 0..ROUNDS {
            *SUM.lock() += 1;
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }
    (1..vcpus).for_each(|id| give(id, |_| turns()));
    turns();
    (1..vcpus).try_for_each(done)?;
    equal("the sum", *SUM.lock(), ROUNDS * u64::from(vcpus))?;
    equal("the count", COUNT.load(Ordering::Acquire), ROUNDS * u64::from(vcpus))
}

fn time(vcpus: u32) -> Outcome {
    fn look() {
        for _ in 0..ROUNDS {
            let mut latest = LATEST.lock();
            let now = cpu::tsc();
            BACKWARDS.fetch_add(u64::from(now < *latest), Ordering::Relaxed);
            *latest = now;
        }
    }
    (1..vcpus).for_each(|id| give(id, |_| look()));
    look();
    (1..vcpus).try_for_each(done)?;
    equal("steps back", BACKWARDS.load(Ordering::Acquire), 0)
}

fn ordered(vcpus: u32) -> Outcome {
    give(1, |_| {
        for turn in 1..=ROUNDS {
            DATA.store(turn, Ordering::Relaxed);
            FLAG.store(turn, Ordering::Release);
        }
    });
    while FLAG.load(Ordering::Acquire) < ROUNDS {
        let flag = FLAG.load(Ordering::Acquire);
        let data = DATA.load(Ordering::Relaxed);
        STALE.fetch_add(u64::from(data < flag), Ordering::Relaxed);
    }
    done(1)?;
    equal("flags before their data", STALE.load(Ordering::Acquire), 0)?;
    all(vcpus, |_| {})
}
