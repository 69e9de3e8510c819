//! Port input and output.
//!
//! Reading a port makes no device of the platform write to memory, so it is safe. A write can hand
//! a device an address, so it is not.

use core::arch::asm;

/// Reads a byte.
#[inline(always)]
pub fn read8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: reading a port changes no memory of the program.
    unsafe {
        asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags));
    }
    value
}

/// Reads two bytes.
#[inline(always)]
pub fn read16(port: u16) -> u16 {
    let value: u16;
    // SAFETY: reading a port changes no memory of the program.
    unsafe {
        asm!("in ax, dx", out("ax") value, in("dx") port, options(nostack, preserves_flags));
    }
    value
}

/// Reads four bytes.
#[inline(always)]
pub fn read32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: reading a port changes no memory of the program.
    unsafe {
        asm!("in eax, dx", out("eax") value, in("dx") port, options(nostack, preserves_flags));
    }
    value
}

/// Writes a byte.
///
/// # Safety
///
/// The write must not make a device use memory that the program uses otherwise.
#[inline(always)]
pub unsafe fn write8(port: u16, value: u8) {
    // SAFETY: the caller answers for what the device does.
    unsafe {
        asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags));
    }
}

/// Writes two bytes.
///
/// # Safety
///
/// As for [`write8`].
#[inline(always)]
pub unsafe fn write16(port: u16, value: u16) {
    // SAFETY: the caller answers for what the device does.
    unsafe {
        asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, preserves_flags));
    }
}

/// Writes four bytes.
///
/// # Safety
///
/// As for [`write8`].
#[inline(always)]
pub unsafe fn write32(port: u16, value: u32) {
    // SAFETY: the caller answers for what the device does.
    unsafe {
        asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags));
    }
}
