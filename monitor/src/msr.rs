//! Model-specific registers: what a guest may read and write, from one table ([`policy`]), and the
//! rules for values ([`efer`], [`pat`] and so on).
//!
//! Registers that are not in the table do not exist: reading or writing them is a #GP, which
//! stock kernels expect of registers that CPUID does not announce. The kernel passes
//! SYSENTER_*, STAR to SFMASK, FS_BASE, GS_BASE and KERNEL_GS_BASE without an exit; they never
//! come here. Neighbours: `run` asks for the hottest registers (EOI, ICR, timer) before it looks
//! here, `apic` has the registers of [`Policy::Apic`], `cpuid` announces what is here.
//!
//! Invariant: no value leaves these functions that the CPU or the kernel would refuse.

pub use crate::apic::Gp;
use crate::ensure;
use cloister_proto::vm::{IDENTITY_AMD, IDENTITY_INTEL};

/// End of interrupt, written at every interrupt: to be asked for first.
pub const X2APIC_EOI: u32 = 0x80b;
/// Interrupt command.
pub const X2APIC_ICR: u32 = 0x830;
/// Initial count of the timer.
pub const X2APIC_TIMER: u32 = 0x838;
/// Deadline of the timer.
pub const TSC_DEADLINE: u32 = 0x6e0;

/// What a write to a register does whose value is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing: kernels write it without asking.
    Ignored,
    /// #GP, unless it writes what is there.
    Refused,
}

/// What stands behind a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: #GP.
    Absent,
    /// A register of the local APIC in x2APIC mode, by its number from 0x800 on.
    Apic(u32),
    /// IA32_APIC_BASE: the local APIC has the rules.
    ApicBase,
    /// EFER: [`efer`].
    Efer,
    /// PAT: [`pat`].
    Pat,
    /// TSC_AUX: [`tsc_aux`].
    TscAux,
    /// The APIC timer's deadline.
    TscDeadline,
    /// The time stamp counter; a write moves the offset of this vCPU and its TSC_ADJUST.
    Tsc,
    /// What writes have moved the time stamp counter by.
    TscAdjust,
    /// A fixed value.
    Fixed(u64, Write),
}

/// For which identities a register exists.
const ALL: u32 = u32::MAX;
const AMD: u32 = 1 << IDENTITY_AMD;
const INTEL: u32 = 1 << IDENTITY_INTEL;

use Policy::{ApicBase, Efer, Fixed, Pat, Tsc, TscAdjust, TscAux, TscDeadline};
use Write::{Ignored, Refused};

/// Registers besides the x2APIC's: number, identities, what stands behind it.
#[rustfmt::skip]
static TABLE: [(u32, u32, Policy); 16] = [
    (0x10, ALL, Tsc),                   // old kernels set it when a vCPU starts
    (0x17, INTEL, Fixed(0, Ignored)),   // platform id; Linux asks before it looks for microcode
    (0x1b, ALL, ApicBase),              // mode of the local APIC
    (0x3a, INTEL, Fixed(1, Refused)),   // features are locked: no VMX
    (0x3b, ALL, TscAdjust),             // CPUID announces it: spares the TSC watchdog
    (0x8b, ALL, Fixed(0, Ignored)),     // microcode level; kernels write 0 before they read it
    (0x179, ALL, Fixed(0, Refused)),    // no machine-check bank, for kernels that ask unannounced
    (0x1a0, INTEL, Fixed(1, Ignored)),  // fast strings; Linux reads it before it can handle #GP
    (0x1d9, ALL, Fixed(0, Refused)),    // no branch records or traps: they would outlive a step
    (0x277, ALL, Pat),                  // part of the vCPU's state
    (TSC_DEADLINE, ALL, TscDeadline),   // CPUID announces it
    (0xc000_0080, ALL, Efer),           // the CPU's own needs SVME, which the guest must not see
    (0xc000_0103, ALL, TscAux),         // RDTSCP reads it
    (0xc001_0015, AMD, Fixed(1 << 24, Ignored)), // the TSC counts at a constant rate
    // Extended access to PCI configuration is on, so that nobody has to switch it on; it finds
    // nothing.
    (0xc001_001f, AMD, Fixed(1 << 46, Ignored)),
    (0xc001_1029, AMD, Fixed(2, Ignored)), // LFENCE waits for instructions before it
];

/// What stands behind a register, for a guest with this identity.
pub fn policy(identity: u32, msr: u32) -> Policy {
    if msr & !0xff == 0x800 {
        return Policy::Apic(msr & 0xff);
    }
    let (mask, mut table) = (1u32.unbounded_shl(identity), TABLE.iter());
    let row = table.find(|(number, identities, _)| *number == msr && identities & mask != 0);
    row.map_or(Policy::Absent, |&(_, _, policy)| policy)
}

/// The rule for writing a register with a fixed value.
pub fn fixed(fixed: u64, write: Write, value: u64) -> Result<(), Gp> {
    ensure(write == Ignored || value == fixed, Gp)
}

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// These and system calls, no-execute pages.
const EFER: u64 = EFER_LME | EFER_LMA | 1 | 1 << 11;

/// EFER after a write of `value` (AMD APM, "Extended Feature Enable Register"): LMA is the CPU's,
/// LME cannot change while paging is on.
pub fn efer(value: u64, current: u64, paging: bool) -> Result<u64, Gp> {
    ensure(value & !EFER == 0, Gp)?;
    ensure(!paging || (value ^ current) & EFER_LME == 0, Gp)?;
    Ok(value & !EFER_LMA | current & EFER_LMA)
}

/// Checks a PAT: eight memory types (Intel SDM, "IA32_PAT MSR").
pub fn pat(value: u64) -> Result<u64, Gp> {
    let is_type = |byte: &u8| matches!(byte, 0 | 1 | 4 | 5 | 6 | 7);
    if value.to_le_bytes().iter().all(is_type) { Ok(value) } else { Err(Gp) }
}

/// Checks TSC_AUX: 32 bits.
pub fn tsc_aux(value: u64) -> Result<u32, Gp> {
    u32::try_from(value).map_err(|_| Gp)
}

const XCR0_X87: u64 = 1;
const XCR0_SSE: u64 = 2;
const XCR0_AVX: u64 = 4;

/// Checks what XSETBV writes (Intel SDM, "XSETBV"), given the bits that CPUID announces.
pub fn xcr0(register: u32, value: u64, supported: u64) -> Result<u64, Gp> {
    let avx_alone = value & (XCR0_SSE | XCR0_AVX) == XCR0_AVX;
    ensure(register == 0 && value & !supported == 0 && value & XCR0_X87 != 0 && !avx_alone, Gp)?;
    Ok(value)
}
