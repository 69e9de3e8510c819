//! Numbers of the local APIC's registers (Intel SDM volume 3, "Local APIC Register Address Map").
//!
//! A register has one number in both modes: its offset in the page divided by 16, and its MSR
//! above 0x800. Neighbours: the monitor's `apic` is their meaning, `guest-abi/rt` uses them.

/// Base MSR: this is the boot CPU.
pub const BASE_BOOT: u64 = 1 << 8;
/// Base MSR: x2APIC.
pub const BASE_X2APIC: u64 = 1 << 10;
/// Base MSR: on.
pub const BASE_ENABLED: u64 = 1 << 11;

/// Task priority.
pub const TPR: u32 = 0x08;
/// Processor priority.
pub const PPR: u32 = 0x0a;
/// End of interrupt.
pub const EOI: u32 = 0x0b;
/// Logical destination.
pub const LDR: u32 = 0x0d;
/// Destination format.
pub const DFR: u32 = 0x0e;
/// Spurious vector and the APIC's switch.
pub const SVR: u32 = 0x0f;
/// Error status.
pub const ESR: u32 = 0x28;
/// Interrupt command; the second half stands behind it in the page.
pub const ICR: u32 = 0x30;
/// That half.
pub const ICR_HIGH: u32 = 0x31;
/// Timer entry, the first one, of the local vector table.
pub const LVT_TIMER: u32 = 0x32;
/// Error entry, the last one.
pub const LVT_ERROR: u32 = 0x37;
/// Timer: what it counts down from.
pub const TMICT: u32 = 0x38;
/// Timer: divider.
pub const DIVIDE: u32 = 0x3e;
/// Interrupt to this CPU itself; x2APIC only.
pub const SELF_IPI: u32 = 0x3f;

/// [`SVR`]: software has enabled the APIC.
pub const SPURIOUS_ENABLED: u32 = 1 << 8;
