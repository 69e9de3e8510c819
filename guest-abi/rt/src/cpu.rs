//! Single instructions: what the CPU tells, its flags, halting, model-specific registers.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc};

use crate::probe::{self, Fault};

/// `RFLAGS.IF`.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// EAX, EBX, ECX, EDX of CPUID.
#[inline(always)]
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    // CPUID is there on every 64-bit CPU. Before Rust 1.94 the function is `unsafe`.
    #[allow(unused_unsafe)]
    // SAFETY: the instruction changes registers only.
    let answer = unsafe { __cpuid_count(leaf, sub) };
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The time stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: the instruction changes registers only.
    unsafe { _rdtsc() }
}

/// The flags.
#[inline(always)]
pub fn flags() -> u64 {
    let flags: u64;
    // SAFETY: pushes and pops one word; there is no red zone on the bare target.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags
}

/// Interrupts are taken.
#[inline(always)]
pub fn interrupts_enabled() -> bool {
    flags() & INTERRUPT_FLAG != 0
}

/// Interrupts are taken from now on.
#[inline(always)]
pub fn enable_interrupts() {
    // SAFETY: `descriptors::load` has set handlers for all vectors before any program code runs.
    unsafe { asm!("sti", options(nostack)) };
}

/// Interrupts wait from now on.
#[inline(always)]
pub fn disable_interrupts() {
    // SAFETY: interrupts that wait break nothing.
    unsafe { asm!("cli", options(nostack)) };
}

/// Waits for an interrupt; for ever, if interrupts are off.
#[inline(always)]
pub fn halt() {
    // SAFETY: the CPU goes on behind the instruction.
    unsafe { asm!("hlt", options(nostack)) };
}

/// Enables interrupts and waits for one; none can come in between, because STI holds interrupts
/// for one instruction (Intel SDM, "STI—Set Interrupt Flag").
#[inline(always)]
pub fn enable_interrupts_and_halt() {
    // SAFETY: as for `enable_interrupts` and `halt`.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Reads a model-specific register, or tells the fault.
pub fn msr(number: u32) -> Result<u64, Fault> {
    let (low, high): (u32, u32);
    let fault: u64;
    // SAFETY: reading an MSR changes no memory; a fault goes on behind the instruction.
    unsafe {
        asm!(
            probe::code!("rdmsr"),
            in("ecx") number,
            inout("eax") 0 => low,
            inout("edx") 0 => high,
            out("r11") fault,
        );
    }
    Fault::check(fault)?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register, or tells the fault.
///
/// # Safety
///
/// The register must not change how the program reaches its memory or its handlers.
pub unsafe fn set_msr(number: u32, value: u64) -> Result<(), Fault> {
    let fault: u64;
    // SAFETY: the caller answers for what the register does; a fault goes on behind the
    // instruction.
    unsafe {
        asm!(
            probe::code!("wrmsr"),
            in("ecx") number,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            out("r11") fault,
        );
    }
    Fault::check(fault)
}
