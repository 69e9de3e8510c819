//! Where a program begins: vCPU 0 in 64-bit mode, as `guest_abi::image` says.
//!
//! `rdi` holds the frequency of the TSC in kHz, `rsi` the argument of the guest's image. Memory is
//! zero but for the program, so `.bss` needs no clearing. The start code's stack lies where the
//! image's builder put it; the runtime takes one of its own, whose size it knows.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{clock, descriptors, power};

/// Bytes of vCPU 0's stack.
const STACK: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK]>);

// SAFETY: nothing but the stack pointer of vCPU 0 refers to it.
unsafe impl Sync for Stack {}

static BOOT_STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK]));
static ARGUMENT: AtomicU64 = AtomicU64::new(0);

#[cfg(not(test))]
core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "lea rsp, [rip + {stack} + {size}]",
    // A zero frame pointer ends the chain of stack frames.
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".previous",
    stack = sym BOOT_STACK,
    size = const STACK,
    start = sym start,
);

#[cfg(not(test))]
unsafe extern "C" {
    /// Made by [`crate::entry!`] with this signature.
    safe fn cloister_guest_main();
}

#[cfg(test)]
fn cloister_guest_main() {}

#[cfg_attr(test, allow(dead_code))]
extern "C" fn start(tsc_khz: u64, argument: u64) -> ! {
    ARGUMENT.store(argument, Ordering::Relaxed);
    clock::start(tsc_khz);
    descriptors::load(0);
    cloister_guest_main();
    power::off()
}

/// The argument of the guest's image: a number that the guest file gives, 0 if it gives none.
pub fn argument() -> u64 {
    ARGUMENT.load(Ordering::Relaxed)
}
