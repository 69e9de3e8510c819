//! FPU and SSE state, for the tasks that ask for it.
//!
//! Eager: a thread's state is saved when another thread runs, and the initial state is loaded in
//! its place, so that nothing of it stays in the registers (on CPUs with the lazy-FP leak CR0.TS
//! alone would not do). Threads without state run with CR0.TS set: their first floating point
//! instruction faults.

use super::cpu;
use cloister_abi::layout::FRAME;
use core::arch::asm;

/// The area lies at the start of the frame; its standard form with AVX is 832 bytes.
const AREA: u64 = FRAME;

/// The state of a program that has not begun: all components in their initial state.
#[repr(C, align(64))]
pub struct State([u8; 832]);

/// What is loaded in place of a state that was saved.
pub static INITIAL_STATE: State = {
    let mut bytes = [0; 832];
    // x87 control word 0x37f, MXCSR 0x1f80 (Intel SDM, "FXSAVE Area").
    bytes[0] = 0x7f;
    bytes[1] = 0x03;
    bytes[24] = 0x80;
    bytes[25] = 0x1f;
    // XSTATE_BV: both are in the area, so that XRSTOR loads them.
    bytes[512] = 3;
    State(bytes)
};

/// Saves the state of the thread whose address space is loaded and clears the registers.
pub fn leave(xsave: bool, initial: &'static State) {
    // Off while the monitor of a guest runs.
    cpu::allow_fpu(true);
    if xsave {
        // SAFETY: the area is the current thread's, 64-byte aligned, and large enough for the
        // components that `cpu::enable` put into XCR0.
        unsafe { asm!("xsave64 [{}]", in(reg) AREA, in("eax") 7, in("edx") 0, options(nostack)) };
    } else {
        // SAFETY: the area is the current thread's and 16-byte aligned.
        unsafe { asm!("fxsave64 [{}]", in(reg) AREA, options(nostack)) };
    }
    // SAFETY: an area in the initial state, aligned by its type.
    unsafe { load(xsave, initial.0.as_ptr()) };
    cpu::allow_fpu(false);
}

/// Loads the state of the thread whose address space is loaded. `allow`: its own program may use
/// it; else it is its guest's.
pub fn enter(xsave: bool, allow: bool) {
    cpu::allow_fpu(true);
    // SAFETY: the area was written by `leave` or by `reset`.
    unsafe { load(xsave, AREA as *const u8) };
    cpu::allow_fpu(allow);
}

/// Puts the current thread's area into the initial state.
pub fn reset() {
    // SAFETY: the first 832 bytes of the frame are the area, aligned to 64 bytes.
    unsafe { (AREA as *mut State).write(State(INITIAL_STATE.0)) };
}

/// # Safety
/// `area` holds a state that XSAVE or `reset` wrote, 64-byte aligned.
unsafe fn load(xsave: bool, area: *const u8) {
    if xsave {
        // SAFETY: the caller's condition.
        unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") 7, in("edx") 0, options(nostack)) };
    } else {
        // SAFETY: the caller's condition.
        unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack)) };
    }
}
