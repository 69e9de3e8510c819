//! The ways into the kernel and out of it; the code is in entry.s.

use super::{frame, window};
use cloister_abi::call::Call;
use cloister_abi::layout::FRAME;
use core::arch::global_asm;
use core::mem::offset_of;
use frame::Regs;

const REGS: u64 = FRAME + frame::REGS;

global_asm!(
    include_str!("entry.s"),
    STACK_TOP = const window::STACK_TOP,
    REGS = const REGS,
    R8 = const REGS + offset_of!(Regs, r8) as u64,
    R12 = const REGS + offset_of!(Regs, r12) as u64,
    R13 = const REGS + offset_of!(Regs, r13) as u64,
    R14 = const REGS + offset_of!(Regs, r14) as u64,
    R15 = const REGS + offset_of!(Regs, r15) as u64,
    RBP = const REGS + offset_of!(Regs, rbp) as u64,
    RDI = const REGS + offset_of!(Regs, rdi) as u64,
    RSI = const REGS + offset_of!(Regs, rsi) as u64,
    RDX = const REGS + offset_of!(Regs, rdx) as u64,
    RBX = const REGS + offset_of!(Regs, rbx) as u64,
    RAX = const REGS + offset_of!(Regs, rax) as u64,
    VECTOR = const REGS + offset_of!(Regs, vector) as u64,
    RIP = const REGS + offset_of!(Regs, rip) as u64,
    CS = const REGS + offset_of!(Regs, cs) as u64,
    RFLAGS = const REGS + offset_of!(Regs, rflags) as u64,
    RSP = const REGS + offset_of!(Regs, rsp) as u64,
    SS = const REGS + offset_of!(Regs, ss) as u64,
    CS_FROM_REGS = const offset_of!(Regs, cs),
    BY_SYSCALL = const frame::BY_SYSCALL,
    SIGNAL = const Call::Signal as u32,
    EXIT = const cloister_abi::call::Status::Exit as u32,
    VCPU_RUN = const Call::VcpuRun as u32,
    NMI_COUNT = const window::CORE + crate::core_state::NMI_COUNT_OFFSET,
    GOING_DOWN = sym crate::power::GOING_DOWN,
    STOPPED = sym crate::power::STOPPED,
    APIC_ID = const window::CORE + crate::core_state::APIC_ID_OFFSET,
);

unsafe extern "C" {
    /// Where SYSCALL enters.
    pub fn syscall_entry();
    /// Where a started core enters, in 64-bit mode on the boot stub's tables.
    pub fn ap_entry();
    /// Leaves the boot stack for the kernel stack of `core` and calls `kernel_core`. `cr3` is the
    /// top page table of a thread of that core, with the core's window filled.
    pub fn first_entry(cr3: u64, core: u32) -> !;
    /// Leaves the start of a core, whose state is complete: chooses its first thread. No reference
    /// to the core is used afterwards.
    pub fn reschedule() -> !;
    /// Goes on with the monitor whose guest has exited, behind its call.
    ///
    /// # Safety
    /// The thread is loaded and its frame holds what the call keeps; nothing is referred to.
    pub fn return_to_monitor() -> !;
    fn return_by_sysret() -> !;
    fn return_by_iret() -> !;
}

/// Goes on with the thread whose address space is loaded, from its frame.
///
/// # Safety
/// The frame holds a thread's state, and no reference to it or to the core is used afterwards.
#[inline(always)]
pub unsafe fn resume(by_syscall: bool) -> ! {
    if by_syscall {
        // SAFETY: the caller's conditions; the thread entered by a system call.
        unsafe { return_by_sysret() }
    }
    // SAFETY: the caller's conditions.
    unsafe { return_by_iret() }
}

/// Waits for an interrupt; the interrupt's handler does not return here.
///
/// # Safety
/// This core runs on its kernel stack and its state is ready for an interrupt.
pub unsafe fn idle() -> ! {
    // SAFETY: interrupts are taken only at or after HLT (STI's shadow), so one that is pending
    // ends the halt at once; NMIs return here and halt again.
    unsafe { core::arch::asm!("sti", "2: hlt", "jmp 2b", options(noreturn)) }
}

/// Visits the return addresses on the kernel stack, innermost first.
pub fn backtrace(mut visit: impl FnMut(u64)) {
    let mut at: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) at, options(nomem, nostack)) };
    let stack = window::STACK..window::STACK_TOP - 16;
    let mut low = stack.start;
    while at.is_multiple_of(8) && at >= low && at <= stack.end {
        // SAFETY: both words lie inside the kernel stack, which is mapped.
        let [next, address] = unsafe { (at as *const [u64; 2]).read() };
        if address != 0 {
            visit(address);
        }
        (low, at) = (at + 16, next);
    }
}
