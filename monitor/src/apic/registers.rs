//! Numbers and bits of the local APIC's registers (Intel SDM volume 3, "Local APIC Register
//! Address Map").
//!
//! A register has one number in both modes: its offset in the page divided by 16, and its MSR
//! above 0x800. Neighbour: `apic`, which is their meaning.

use cloister_guest_abi::platform;

/// The MSR that switches the APIC.
pub const BASE_MSR: u32 = 0x1b;
/// Where the page is.
pub const BASE: u64 = platform::APIC;

/// Base MSR: this is the boot CPU.
pub(super) const BASE_BOOT: u64 = 1 << 8;
/// Base MSR: x2APIC.
pub(super) const BASE_X2APIC: u64 = 1 << 10;
/// Base MSR: on.
pub(super) const BASE_ENABLED: u64 = 1 << 11;

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
pub(super) const PPR: u32 = 0x0a;
pub(super) const EOI: u32 = 0x0b;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
pub(super) const TMR: u32 = 0x18;
pub(super) const IRR: u32 = 0x20;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT_TIMER: u32 = 0x32;
pub(super) const LVT_ERROR: u32 = 0x37;
pub(super) const TMICT: u32 = 0x38;
pub(super) const TMCCT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3e;
pub(super) const SELF_IPI: u32 = 0x3f;

/// Version 0x14 with six entries in the local vector table; no suppression of EOI messages.
pub(super) const VERSION_VALUE: u32 = 5 << 16 | 0x14;
/// Vectors below are reserved for exceptions.
pub(super) const VECTOR_MIN: u8 = 16;
/// The spurious vector register after power-up.
pub(super) const SPURIOUS_RESET: u32 = 0xff;
/// Spurious vector register: software has enabled the APIC.
pub(super) const SPURIOUS_ENABLED: u32 = 1 << 8;

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
/// Command: assert, not de-assert.
pub(super) const ICR_ASSERT: u32 = 1 << 14;
/// Command: level-triggered.
pub(super) const ICR_LEVEL: u32 = 1 << 15;

/// Local vector table: masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Local vector table: delivery mode.
pub(super) const LVT_MODE: u32 = 7 << 8;
/// Local vector table: delivery mode of the 8259A.
pub(super) const LVT_EXTINT: u32 = 7 << 8;
/// Local vector table: delivery status and remote IRR, which only the APIC writes.
pub(super) const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// Local vector table: delivery mode of a non-maskable interrupt.
pub(super) const LVT_NMI: u32 = 4 << 8;

/// Index of the timer's entry.
pub(super) const TIMER: usize = 0;
/// Index of LINT0's entry.
pub(super) const LINT0: usize = 3;
/// Index of LINT1's entry.
pub(super) const LINT1: usize = 4;
/// Index of the error's entry.
pub(super) const ERROR: usize = 5;

/// The number for an MSR.
#[inline]
pub(super) fn from_msr(msr: u32) -> Option<u32> {
    matches!(msr, 0x800..=0x8ff).then_some(msr & 0xff)
}

/// The number for an offset in the page; registers are at multiples of 16.
pub(super) fn from_offset(offset: u32) -> Option<u32> {
    (offset & 0xf == 0 && offset < 0x1000).then_some(offset >> 4)
}

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
        0x33 | 0x34 => COMMON | LVT_MODE,
        0x35 | 0x36 => COMMON | LVT_MODE | 0xe000,
        LVT_ERROR => COMMON,
        TMICT => u32::MAX,
        DIVIDE => 0b1011,
        _ => return None,
    })
}
