//! The one place where the kernel reads memory that belongs to a task: the stack of a task that
//! has just faulted, for its backtrace.

use core::arch::asm;

/// Reads two words of the current task's memory.
///
/// # Safety
/// `at` is aligned and lies in memory that is mapped, readable, in the loaded address space.
pub unsafe fn read_user(at: *const [u64; 2], has_smap: bool) -> [u64; 2] {
    if has_smap {
        // SAFETY: STAC exists where SMAP does; undone below. Not `nomem`: the read stays between.
        unsafe { asm!("stac", options(nostack)) };
    }
    // SAFETY: the caller's condition.
    let value = unsafe { at.read_volatile() };
    if has_smap {
        // SAFETY: as above.
        unsafe { asm!("clac", options(nostack)) };
    }
    value
}
