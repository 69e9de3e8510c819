//! Where a task begins, at its first start as at every restart.
//!
//! The kernel enters `_start` on an empty stack with the thread's index in `rdi`, the number of
//! restarts in `rsi`, and zero in every other register. Thread 0 makes the task's memory what the
//! program expects: it copies the pristine data over `.data` and zeroes `.bss`, on the task's own
//! budget. Nothing of an earlier life remains in statics; the stack is not wiped, because a program
//! in safe Rust cannot read what it did not write.
//!
//! Other threads must not run before that is done. They poll [`READY`], asleep between two looks:
//! it holds the number of starts, so a value left over from an earlier life does not count.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::time::{Duration, Instant};
use crate::{log, syscall, time, wait};
use cloister_abi::fault::LeaveReason;

/// How many starts thread 0 has completed. In `.bss`, so zeroed while thread 0 is still copying.
static READY: AtomicU64 = AtomicU64::new(0);

/// How long a further thread sleeps between two looks at [`READY`].
const POLL: Duration = Duration::from_micros(100);

#[cfg(not(test))]
core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    // Arguments wait in registers that neither string instruction uses.
    "mov r12, rdi",
    "mov r13, rsi",
    "test edi, edi",
    "jnz 2f",
    "mov edi, offset __data_start",
    "mov esi, offset __pristine",
    "mov ecx, offset __data_words",
    "rep movsq",
    "mov edi, offset __bss_start",
    "mov ecx, offset __bss_words",
    "xor eax, eax",
    "rep stosq",
    "2:",
    "mov rdi, r12",
    "mov rsi, r13",
    // A zero frame pointer ends the chain of stack frames that a backtrace follows.
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".previous",
    start = sym start,
);

#[cfg(not(test))]
unsafe extern "C" {
    /// Made by [`crate::entry!`] with this signature.
    safe fn cloister_task_main(thread: u32) -> u32;
}

#[cfg(test)]
fn cloister_task_main(_thread: u32) -> u32 {
    0
}

#[cfg_attr(test, allow(dead_code))]
extern "C" fn start(thread: u64, generation: u64) -> ! {
    let starts = generation.wrapping_add(1);
    if thread == 0 {
        time::start();
        log::start();
        READY.store(starts, Ordering::Release);
    } else {
        // The conversion factors are not there yet: sleep by the frequency itself.
        let poll = time::Clock::new(crate::system().tsc_hz).ticks(POLL);
        while READY.load(Ordering::Acquire) != starts {
            wait::sleep_until(Instant::from_tsc(Instant::now().tsc().saturating_add(poll)));
        }
    }
    let status = cloister_task_main(u32::try_from(thread).unwrap_or(u32::MAX));
    syscall::leave(LeaveReason::Exit, status.into())
}

/// How often this task has been restarted: 0 in its first life.
pub fn generation() -> u64 {
    READY.load(Ordering::Relaxed).wrapping_sub(1)
}
