//! The parts that are measured: they wait, call, fault, or do nothing.

use crate::boss::{CALL_NULL, CALL_SIGNAL, CALL_SPIN};
use crate::median::median;
use crate::{ANSWER, MARK, ORDER, STARTED};
use cloister_rt::{Bits, Deadline, Instant, Mailbox, generation, grants, wait};
use core::sync::atomic::{AtomicU64, Ordering};

fn boss(started: u64) -> Option<Mailbox> {
    let boss = grants().mailbox("boss").ok()?;
    let words = boss.memory.words();
    words.get(STARTED)?.store(started, Ordering::Relaxed);
    Some(boss)
}

/// Wakes up, notes the time, answers whoever asked.
pub fn woken(now: u64) -> u32 {
    let Some(boss) = boss(now) else { return 3 };
    let caller = grants().served("call").ok();
    let words = boss.memory.words();
    let bits = caller.as_ref().map_or(Bits::NONE, |caller| caller.bits) | boss.bits;
    loop {
        let woken = wait(bits, Deadline::Never).bits();
        let tsc = Instant::now().tsc();
        let Some(caller) = caller.as_ref().filter(|caller| woken.intersects(caller.bits)) else {
            words[MARK].store(tsc, Ordering::Relaxed);
            continue;
        };
        caller.memory.words()[MARK].store(tsc, Ordering::Release);
        if caller.memory.words()[ORDER].load(Ordering::Acquire) != 0 {
            caller.peer.wake();
        }
    }
}

/// Calls as the boss says and leaves the result in `MARK`.
pub fn caller(now: u64) -> u32 {
    let Some(boss) = boss(now) else { return 3 };
    let words = boss.memory.words();
    let (Ok(near), Ok(far), Ok(still)) =
        (grants().mailbox("near"), grants().mailbox("far"), grants().mailbox("still"))
    else {
        return 4;
    };
    loop {
        wait(boss.bits, Deadline::Never);
        let value = match words[ORDER].load(Ordering::Acquire) {
            CALL_NULL => null_call(&still),
            CALL_SIGNAL => median(|| same_core(&near)),
            CALL_SPIN => longest_gap(),
            _ => median(|| cross_core(&far)),
        };
        words[MARK].store(value, Ordering::Relaxed);
        words[ANSWER].fetch_add(1, Ordering::Release);
        boss.peer.wake();
    }
}

/// A signal whose bit is set already: the capability is looked up, nothing changes.
fn null_call(still: &Mailbox) -> u64 {
    const CALLS: u64 = 1000;
    still.peer.wake();
    let start = Instant::now().tsc();
    for _ in 0..CALLS {
        still.peer.wake();
    }
    (Instant::now().tsc() - start) / CALLS
}

/// From before the signal until a more urgent thread of this core runs in ring 3.
fn same_core(near: &Mailbox) -> u64 {
    let mark = &near.memory.words()[MARK];
    let start = Instant::now().tsc();
    near.peer.wake();
    mark.load(Ordering::Acquire) - start
}

/// From before the signal until a thread of another core runs in ring 3; this core has gone idle.
fn cross_core(far: &Mailbox) -> u64 {
    let words = far.memory.words();
    words[ORDER].store(1, Ordering::Release);
    let start = Instant::now().tsc();
    far.peer.wake();
    wait(far.bits, Deadline::Never);
    words[MARK].load(Ordering::Acquire) - start
}

/// The longest time that a thread with nothing to do but read the clock is away from it.
fn longest_gap() -> u64 {
    // Within the caller's budget: being out of budget is not what is looked for.
    let end = Instant::now().tsc() + 1_500_000;
    let (mut last, mut longest) = (Instant::now().tsc(), 0);
    while last < end {
        let now = Instant::now().tsc();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

/// Begins with 256 KiB of memory to put in order, then faults when asked.
pub fn victim(now: u64) -> u32 {
    static DATA: [AtomicU64; 8192] = [const { AtomicU64::new(1) }; 8192];
    static ZERO: [AtomicU64; 24576] = [const { AtomicU64::new(0) }; 24576];
    let Some(boss) = boss(now) else { return 3 };
    let words = boss.memory.words();
    words[MARK].store(now, Ordering::Relaxed);
    // Every life finds its memory as the image has it.
    let wrong = DATA.iter().any(|word| word.swap(2, Ordering::Relaxed) != 1)
        || ZERO.iter().any(|word| word.swap(2, Ordering::Relaxed) != 0);
    words[ANSWER].store(generation() << 1 | u64::from(wrong), Ordering::Release);
    boss.peer.wake();
    wait(boss.bits, Deadline::Never);
    let Some((_, ring)) = grants().log_rings().next() else { return 5 };
    words[STARTED].store(Instant::now().tsc(), Ordering::Relaxed);
    // The rings of others are mapped read-only: a page fault out of a safe program.
    ring.words()[0].store(0, Ordering::Relaxed);
    6
}

/// Does nothing, for ever.
pub fn still(now: u64) -> u32 {
    let _ = boss(now);
    loop {
        wait(Bits::NONE, Deadline::Never);
    }
}
