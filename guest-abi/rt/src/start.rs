//! Where a program begins: vCPU 0 in 64-bit mode, as `guest_abi::image` says.
//!
//! `rdi` holds the frequency of the TSC in kHz, `rsi` the number of bytes of RAM. Memory is zero
//! but for the program, so `.bss` needs no clearing. The stack that the image's builder chose lies
//! at the end of RAM, in the heap; the runtime takes one of its own.

use crate::{clock, descriptors, memory, power};

/// Bytes of vCPU 0's stack.
const STACK: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK]>);

// SAFETY: nothing but the stack pointer of vCPU 0 refers to it.
unsafe impl Sync for Stack {}

static BOOT_STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK]));

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
extern "C" fn start(tsc_khz: u64, memory: u64) -> ! {
    memory::start(memory);
    clock::start(tsc_khz);
    descriptors::load(0);
    cloister_guest_main();
    power::off()
}
