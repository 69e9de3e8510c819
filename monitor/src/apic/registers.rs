//! Bits of the local APIC's registers (Intel SDM volume 3, "Local APIC Register Address Map"), and
//! which of them can be written.
//!
//! Neighbours: `guest_abi::apic` has the registers' numbers; `apic` is their meaning.

pub(crate) use cloister_guest_abi::apic::*;
/// Where the page is.
pub use cloister_guest_abi::platform::APIC as BASE;

/// Vectors below are reserved for exceptions.
pub(super) const VECTOR_MIN: u8 = 16;

/// Error status: an illegal vector was sent.
pub(super) const ERROR_SENT_ILLEGAL: u32 = 1 << 5;
/// Error status: an illegal vector was received.
pub(super) const ERROR_RECEIVED_ILLEGAL: u32 = 1 << 6;
/// Error status: no register is there.
pub(super) const ERROR_ADDRESS: u32 = 1 << 7;

/// Command: reserved bits, of which xAPIC has one less: its delivery status is always idle here.
pub(super) const ICR_RESERVED: u64 = 0xfff3_3000;
/// Command: the destination is logical.
pub(super) const ICR_LOGICAL: u64 = 1 << 11;

/// Local vector table: masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Local vector table: delivery mode of the 8259A, which is all bits of the mode.
pub(super) const LVT_EXTINT: u32 = 7 << 8;
/// Local vector table: delivery status and remote IRR, which only the APIC writes.
pub(super) const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// Index of the timer's entry.
pub(super) const TIMER: usize = 0;
/// Index of LINT0's entry.
pub(super) const LINT0: usize = 3;
/// Index of the error's entry.
pub(super) const ERROR: usize = 5;

/// The index of a register of the local vector table.
pub(super) fn entry(register: u32) -> usize {
    crate::num::index(u64::from(register.wrapping_sub(LVT_TIMER)))
}

/// The bits that may be set in a register that software writes alike in both modes; those that only
/// the APIC writes are among them.
#[inline]
pub(super) fn settable(register: u32) -> Option<u32> {
    const COMMON: u32 = 0xff | 1 << 12 | LVT_MASKED;
    Some(match register {
        TPR | SELF_IPI => 0xff,
        EOI | ESR => 0,
        // Vector, enable, and focus checking, which some systems still set.
        SVR => 0x3ff,
        LVT_TIMER => COMMON | 3 << 17,
        0x33 | 0x34 => COMMON | LVT_EXTINT,
        0x35 | 0x36 => COMMON | LVT_EXTINT | 0xe000,
        LVT_ERROR => COMMON,
        TMICT => u32::MAX,
        DIVIDE => 0b1011,
        _ => return None,
    })
}
