//! The local APIC of the calling vCPU, in whichever mode it is in: x2APIC by MSRs, xAPIC by its
//! page.
//!
//! Registers are named by their x2APIC numbers (Intel SDM, "x2APIC Register Address Space"); in
//! the page a register stands at 16 times its number.

use core::sync::atomic::{AtomicBool, Ordering};

use cloister_guest_abi::platform;

use crate::cpu;

pub use cloister_guest_abi::apic::{
    BASE_X2APIC, DIVIDE as DIVIDER, EOI, ICR as COMMAND, LVT_TIMER as TIMER, PPR as PRIORITY,
    SELF_IPI as SELF, SPURIOUS_ENABLED as ENABLED, SVR as SPURIOUS, TMICT as INITIAL,
    TPR as TASK_PRIORITY,
};

/// APIC base: mode and address.
pub const BASE: u32 = 0x1b;
/// MSR of register 0.
pub const X2APIC: u32 = 0x800;
/// Identifier.
pub const ID: u32 = 0x02;
/// In service, first of eight.
pub const IN_SERVICE: u32 = 0x10;
/// Requested, first of eight.
pub const REQUESTED: u32 = 0x20;
/// Timer: what is left.
pub const CURRENT: u32 = 0x39;
/// The vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// [`COMMAND`]: delivery as an NMI.
pub const NMI: u32 = 4 << 8;
/// [`COMMAND`]: INIT, asserted, level.
pub const INIT: u32 = 0xc500;
/// [`COMMAND`]: start-up; the page is in the low byte.
pub const STARTUP: u32 = 0x4600;
/// [`COMMAND`]: to the calling vCPU.
pub const TO_SELF: u32 = 1 << 18;
/// [`COMMAND`]: the level is asserted.
const ASSERT: u32 = 1 << 14;

/// The mode, as [`start`] found it.
static BY_MSR: AtomicBool = AtomicBool::new(true);

/// Turns the calling vCPU's APIC on. Further vCPUs take the mode of vCPU 0.
pub fn start() {
    let base = cpu::msr(BASE).unwrap_or(0);
    BY_MSR.store(base & BASE_X2APIC != 0, Ordering::Relaxed);
    crate::interrupts::set(SPURIOUS_VECTOR, |_| {});
    // SAFETY: the spurious vector has a handler.
    unsafe { write(SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR)) };
}

/// The APIC is in x2APIC mode.
pub fn is_x2apic() -> bool {
    BY_MSR.load(Ordering::Relaxed)
}

fn at(register: u32) -> *mut u32 {
    (platform::APIC as usize + register as usize * 16) as *mut u32
}

/// Reads a register.
#[inline]
pub fn read(register: u32) -> u32 {
    if is_x2apic() {
        return cpu::msr(X2APIC + register).unwrap_or(0) as u32;
    }
    // SAFETY: the page of the APIC is mapped and reading its registers changes no memory.
    unsafe { at(register).read_volatile() }
}

/// Writes a register.
///
/// # Safety
///
/// A vector that it makes arrive must have a handler; it must not start or stop a vCPU that holds
/// what others need.
#[inline]
pub unsafe fn write(register: u32, value: u32) {
    if is_x2apic() {
        // SAFETY: the caller answers for the register's effect. A fault changes nothing.
        let _ = unsafe { cpu::set_msr(X2APIC + register, value.into()) };
    } else {
        // SAFETY: the page of the APIC is mapped; the caller answers for the effect.
        unsafe { at(register).write_volatile(value) };
    }
}

/// Writes the interrupt command register.
///
/// # Safety
///
/// As for [`write`].
pub unsafe fn command(destination: u32, value: u32) {
    if is_x2apic() {
        let whole = u64::from(destination) << 32 | u64::from(value);
        // SAFETY: the caller answers for the effect.
        let _ = unsafe { cpu::set_msr(X2APIC + COMMAND, whole) };
        return;
    }
    // SAFETY: the upper half has no effect before the lower one is written.
    unsafe { write(COMMAND + 1, destination << 24) };
    // SAFETY: the caller answers for the effect.
    unsafe { write(COMMAND, value) };
}

/// The calling vCPU's identifier.
pub fn id() -> u32 {
    if is_x2apic() { read(ID) } else { read(ID) >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn eoi() {
    // SAFETY: what waits behind it has a handler, or it could not have been sent.
    unsafe { write(EOI, 0) };
}

/// Sends an interrupt to a vCPU. Without a handler there it is a panic.
pub fn send(destination: u32, vector: u8) {
    // SAFETY: every vector has entry code; one without a handler panics.
    unsafe { command(destination, ASSERT | u32::from(vector)) };
}

/// Sends a non-maskable interrupt to a vCPU. Without a handler there it is a panic.
pub fn send_nmi(destination: u32) {
    // SAFETY: as for `send`.
    unsafe { command(destination, ASSERT | NMI) };
}

/// Sends an interrupt to the calling vCPU.
#[inline]
pub fn send_self(vector: u8) {
    if is_x2apic() {
        // SAFETY: as for `send`.
        unsafe { write(SELF, vector.into()) };
    } else {
        // SAFETY: as for `send`.
        unsafe { command(0, ASSERT | TO_SELF | u32::from(vector)) };
    }
}

/// The bit of a vector in one of the 256-bit registers [`IN_SERVICE`] and [`REQUESTED`].
pub fn is_set(first: u32, vector: u8) -> bool {
    read(first + u32::from(vector / 32)) & 1 << (vector % 32) != 0
}
