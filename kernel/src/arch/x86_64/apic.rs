//! The local APIC, in x2APIC mode where the CPU has it, else through its registers in memory
//! (Intel SDM, "Advanced Programmable Interrupt Controller").

use super::{cpu, window};
use core::sync::atomic::{AtomicU64, Ordering};
use x86::msr;

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf1;
/// Vector with which another core says "look at your words".
pub const IPI_VECTOR: u8 = 0xf0;
/// Vector with which an IOMMU says that it has refused something.
pub const IOMMU_VECTOR: u8 = 0xf2;
/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Physical address of the registers in xAPIC mode.
pub const PHYSICAL: u64 = 0xfee0_0000;

const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ERROR_STATUS: u32 = 0x280;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
const NMI_DELIVERY: u32 = 4 << 8;

/// To [`send`]: look at your words.
pub const WORD: u32 = 1 << 14 | IPI_VECTOR as u32;
/// To [`send`]: an interrupt, as if from an IOMMU.
pub const REFUSED: u32 = 1 << 14 | IOMMU_VECTOR as u32;
/// To [`send`]: a non-maskable interrupt.
pub const NMI: u32 = 1 << 14 | NMI_DELIVERY;
/// To [`send`]: wait for a start-up IPI.
pub const INIT: u32 = 0x4500;
/// To [`send`], with a page: begin there, in real mode.
pub const STARTUP: u32 = 0x4600;

/// Where the registers are mapped; 0 in x2APIC mode. Written by the boot core alone.
static BASE: AtomicU64 = AtomicU64::new(0);

/// The address of a register in memory, `None` in x2APIC mode.
#[inline]
fn register(offset: u32) -> Option<*mut u32> {
    let base = BASE.load(Ordering::Relaxed);
    (base != 0).then(|| (base + u64::from(offset)) as *mut u32)
}

fn msr_of(offset: u32) -> u32 {
    0x800 + offset / 16
}

#[inline]
fn write(offset: u32, value: u32) {
    match register(offset) {
        // SAFETY: `BASE` is where the registers are mapped, and they hold no addresses.
        Some(at) => unsafe { at.write_volatile(value) },
        // SAFETY: APIC registers hold no addresses; the MSR exists in x2APIC mode.
        None => unsafe { msr::wrmsr(msr_of(offset), u64::from(value)) },
    }
}

fn read(offset: u32) -> u32 {
    match register(offset) {
        // SAFETY: `BASE` is where the registers are mapped.
        Some(at) => unsafe { at.read_volatile() },
        // SAFETY: reading an APIC register has no effect on memory.
        None => unsafe { msr::rdmsr(msr_of(offset)) as u32 },
    }
}

/// Whether the APICs run in x2APIC mode.
pub fn is_x2apic() -> bool {
    BASE.load(Ordering::Relaxed) == 0
}

/// At boot: the mode in which firmware left the APIC. In xAPIC mode the registers are reached
/// through the map of physical memory at first.
pub fn use_firmware_mode() {
    // SAFETY: reading the base register is always legal.
    let extended = unsafe { msr::rdmsr(msr::IA32_APIC_BASE) } & 1 << 10 != 0;
    let base = if extended { 0 } else { window::PHYSICAL + PHYSICAL };
    BASE.store(base, Ordering::Relaxed);
}

/// Chooses the mode for the whole machine; [`enable`] then enters it on each core. In xAPIC mode
/// the registers are reached through the core windows from now on.
pub fn choose_mode(has_x2apic: bool) {
    let base = if has_x2apic { 0 } else { window::APIC };
    BASE.store(base, Ordering::Relaxed);
}

/// Turns this core's APIC on: everything masked, timer stopped. Returns its id.
///
/// # Safety
/// In xAPIC mode the registers are mapped where [`choose_mode`] says.
pub unsafe fn enable() -> u32 {
    let base = PHYSICAL | 1 << 11 | if is_x2apic() { 1 << 10 } else { 0 };
    // SAFETY: reading the base register is always legal.
    let old = unsafe { msr::rdmsr(msr::IA32_APIC_BASE) };
    // SAFETY: same base address, enabled; the boot-core bit (8) is kept.
    unsafe { msr::wrmsr(msr::IA32_APIC_BASE, base | old & 1 << 8) };
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(TIMER_DIVIDE, 0b1011);
    write(LVT_TIMER, MASKED);
    write(ERROR_STATUS, 0);
    id()
}

/// This core's APIC id.
pub fn id() -> u32 {
    if is_x2apic() { read(ID) } else { read(ID) >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Starts the timer: one interrupt after `count` APIC clocks.
#[inline]
pub fn arm(count: u32) {
    write(TIMER_INITIAL, count);
}

/// Lets the timer and the NMI line interrupt: there are handlers now.
pub fn open() {
    write(LVT_LINT1, NMI_DELIVERY);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
}

/// The clocks that are left until the timer fires.
pub fn remaining() -> u32 {
    read(TIMER_CURRENT)
}

/// Sends something to another core.
#[inline]
pub fn send(apic_id: u32, low: u32) {
    if is_x2apic() {
        let value = u64::from(apic_id) << 32 | u64::from(low);
        // SAFETY: sends an interrupt; the receiver's handlers are the kernel's own.
        unsafe { msr::wrmsr(0x800 + ICR / 16, value) };
    } else {
        while read(ICR) & 1 << 12 != 0 {
            core::hint::spin_loop();
        }
        write(ICR_HIGH, apic_id << 24);
        write(ICR, low);
    }
}

/// Masks the two legacy interrupt controllers for good.
pub fn silence_legacy() {
    cpu::outb(0x21, 0xff);
    cpu::outb(0xa1, 0xff);
}
