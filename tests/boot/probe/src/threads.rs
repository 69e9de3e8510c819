//! Further threads: they count, spin, sleep or fault, as the shared page says.

use core::arch::asm;

use boot_common::orders::{THREAD_FAULT, THREAD_SLEEP, THREAD_SPIN};
use boot_common::page::{THREAD_BEAT, THREAD_LIFE, THREAD_ORDER};
use cloister_rt::{Duration, Instant, generation, sleep_until};

use crate::{Boss, sleep_for_ever};

/// How long a thread sleeps between two looks at its order.
const POLL: Duration = Duration::from_micros(200);

/// Thread 1.
pub fn first() -> u32 {
    run(1)
}

/// Thread 2.
pub fn second() -> u32 {
    run(2)
}

/// Thread 3.
pub fn third() -> u32 {
    run(3)
}

fn run(thread: usize) -> u32 {
    let Some(boss) = Boss::find() else { return 2 };
    let page = boss.page;
    page.set(THREAD_LIFE + thread, generation() + 1);
    loop {
        page.add(THREAD_BEAT + thread, 1);
        match page.get(THREAD_ORDER + thread) {
            THREAD_SPIN => {}
            THREAD_SLEEP => sleep_for_ever(),
            // SAFETY: the load faults.
            THREAD_FAULT => unsafe { asm!("mov al, [0]", out("al") _) },
            _ => sleep_until(Instant::now() + POLL),
        }
    }
}
