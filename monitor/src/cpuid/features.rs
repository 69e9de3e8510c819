//! The feature bits: one [`Feature`] per bit that a guest may see, each with where it comes from
//! and why; and what the monitor must know of its host ([`HostFacts`]).
//!
//! Neighbour: the parent module makes leaves of it. Invariant: a bit that is not in [`FEATURES`]
//! reads zero on every host. What the table leaves out on purpose: MTRR, MCE and MCA (nothing of
//! the platform can honour them), SVM and VMX (no nesting), performance counters, MONITOR (would
//! hold the core), PCID and ERMS (not on every host of a baseline), AVX-512, SEV, and everything
//! that needs SPEC_CTRL (IBRS, STIBP, SSBD) or ARCH_CAPABILITIES: no vCPU has these registers, and
//! a claim that a CPU is safe could be wrong on the next host.
//!
//! A baseline is the psABI's level ("Micro-Architecture Levels") and, for `v3`, what every AMD Zen
//! and every Intel CPU since Broadwell has besides.

use cloister_abi::vm::{IDENTITY_AMD, IDENTITY_INTEL};

/// A register of a leaf: leaf, subleaf, register (0 for EAX to 3 for EDX).
pub type Place = (u32, u32, usize);
const L1C: Place = (1, 0, 2);
const L1D: Place = (1, 0, 3);
const L6A: Place = (6, 0, 0);
const L7B: Place = (7, 0, 1);
const L7D: Place = (7, 0, 3);
const LD1A: Place = (0xd, 1, 0);
const E1C: Place = (0x8000_0001, 0, 2);
const E1D: Place = (0x8000_0001, 0, 3);
const E7D: Place = (0x8000_0007, 0, 3);
const E8B: Place = (0x8000_0008, 0, 1);
const E21A: Place = (0x8000_0021, 0, 0);

/// Where a feature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Every host must have it; every guest sees it.
    V2,
    /// Every host of a guest with the larger baseline must have it.
    V3,
    /// Kernel and monitor give it, whatever the host.
    Platform,
    /// What the platform gives only to guests with this identity.
    Identity(u32),
    /// Says that there is more than one virtual CPU, to any identity or to AMD's only.
    Several,
    /// The same, for AMD's identity.
    SeveralAmd,
    /// A guest kernel protects itself with it: seen by guests with this identity on hosts of this
    /// vendor that have it. The one exception to "the same on every host" among features.
    Protection(u32),
}

/// A feature: its name, as Linux spells it, register, bit, and where it comes from.
pub type Feature = (&'static str, Place, u32, Source);

use Source::{Identity, Platform, Protection, Several, SeveralAmd, V2, V3};

/// All features.
#[rustfmt::skip]
pub static FEATURES: [Feature; 60] = [
    ("pni", L1C, 0, V2),             // psABI, x86-64-v2 (SSE3)
    ("pclmulqdq", L1C, 1, V3),       // all v3 hosts: checksums and disk ciphers in guests
    ("ssse3", L1C, 9, V2),           // psABI, x86-64-v2
    ("fma", L1C, 12, V3),            // psABI, x86-64-v3
    ("cx16", L1C, 13, V2),           // psABI, x86-64-v2
    ("sse4_1", L1C, 19, V2),         // psABI, x86-64-v2
    ("sse4_2", L1C, 20, V2),         // psABI, x86-64-v2
    ("x2apic", L1C, 21, Platform),   // the monitor's local APIC; MSRs need no decoder
    ("movbe", L1C, 22, V3),          // psABI, x86-64-v3
    ("popcnt", L1C, 23, V2),         // psABI, x86-64-v2
    ("tsc_deadline_timer", L1C, 24, Platform), // the monitor's timer; spares a calibration
    ("aes", L1C, 25, V3),            // all v3 hosts: disk ciphers in guests
    ("xsave", L1C, 26, V3),          // AVX needs it; XSETBV is the monitor's
    ("avx", L1C, 28, V3),            // psABI, x86-64-v3
    ("f16c", L1C, 29, V3),           // psABI, x86-64-v3
    ("rdrand", L1C, 30, V3),         // all v3 hosts: a guest's first entropy
    ("hypervisor", L1C, 31, Platform), // announces the leaves at 0x4000_0000
    ("fpu", L1D, 0, V2),             // psABI, x86-64
    ("de", L1D, 2, V2),              // debug registers are the guest's own
    ("pse", L1D, 3, V2),             // nested paging leaves guest paging to the CPU
    ("tsc", L1D, 4, V2),             // read without an exit, offset per machine
    ("msr", L1D, 5, V2),             // RDMSR and WRMSR
    ("pae", L1D, 6, V2),             // long mode needs it
    ("cx8", L1D, 8, V2),             // psABI, x86-64
    ("apic", L1D, 9, Platform),      // the monitor's local APIC
    ("sep", L1D, 11, V2),            // switched by the kernel with the other entry MSRs
    ("pge", L1D, 13, V2),            // global pages; the CPU's matter
    ("cmov", L1D, 15, V2),           // psABI, x86-64
    ("pat", L1D, 16, V2),            // guest PAT is part of a vCPU's state
    ("pse36", L1D, 17, V2),          // goes with PSE
    ("clflush", L1D, 19, V2),        // harmless; leaf 1 tells the line size
    ("mmx", L1D, 23, V2),            // psABI, x86-64
    ("fxsr", L1D, 24, V2),           // psABI, x86-64
    ("sse", L1D, 25, V2),            // psABI, x86-64
    ("sse2", L1D, 26, V2),           // psABI, x86-64
    ("ht", L1D, 28, Several),        // several processors in a package; none are siblings
    ("arat", L6A, 2, Platform),      // the virtual APIC timer never stops
    ("fsgsbase", L7B, 0, V3),        // all v3 hosts
    ("tsc_adjust", L7B, 1, Platform), // with it Linux trusts the TSC without a watchdog
    ("bmi1", L7B, 3, V3),            // psABI, x86-64-v3
    ("avx2", L7B, 5, V3),            // psABI, x86-64-v3
    ("smep", L7B, 7, V3),            // all v3 hosts: a guest kernel's own protection
    ("bmi2", L7B, 8, V3),            // psABI, x86-64-v3
    ("rdseed", L7B, 18, V3),         // all v3 hosts
    ("adx", L7B, 19, V3),            // all v3 hosts
    ("smap", L7B, 20, V3),           // all v3 hosts: a guest kernel's own protection
    ("md_clear", L7D, 10, Protection(IDENTITY_INTEL)), // VERW empties buffers
    ("xsaveopt", LD1A, 0, V3),       // all v3 hosts
    ("lahf_lm", E1C, 0, V2),         // psABI, x86-64-v2
    ("cmp_legacy", E1C, 1, SeveralAmd), // AMD's word for "these are cores, not siblings"
    ("abm", E1C, 5, V3),             // psABI, x86-64-v3 (LZCNT)
    ("topoext", E1C, 22, Identity(IDENTITY_AMD)), // leaves 0x8000_001d and 1e
    ("syscall", E1D, 11, V2),        // psABI, x86-64
    ("nx", E1D, 20, V2),             // a guest kernel's own protection
    ("pdpe1gb", E1D, 26, V3),        // all v3 hosts
    ("rdtscp", E1D, 27, V2),         // every CPU with nested paging
    ("lm", E1D, 29, V2),             // long mode
    ("constant_tsc", E7D, 8, Platform), // an appliance is bound to such hosts (promises)
    ("ibpb", E8B, 12, Protection(IDENTITY_AMD)), // the kernel passes PRED_CMD through
    ("lfence_rdtsc", E21A, 2, Protection(IDENTITY_AMD)), // LFENCE waits, without an MSR
];

/// AMD repeats these bits of leaf 1 EDX in 0x8000_0001 EDX (AMD APM, "Obtaining Processor
/// Information Using the CPUID Instruction").
pub const AMD_REPEATED: u32 = 0x0183_f3ff;

/// What the monitor's host is. Read once at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Vendor, 12 letters.
    pub vendor: [u8; 12],
    /// Family, model and stepping: leaf 1 EAX.
    pub signature: u32,
    /// Which of [`FEATURES`] it has, a bit each.
    pub features: u64,
    /// Size and offset of the AVX part of an XSAVE area.
    pub avx_area: [u32; 2],
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u32,
}

impl HostFacts {
    /// Asks the CPU. `cpuid` gives the four registers for a leaf and a subleaf.
    pub fn read(cpuid: impl Fn(u32, u32) -> [u32; 4], tsc_khz: u32) -> HostFacts {
        let [basic_max, b, c, d] = cpuid(0, 0);
        let [extended_max, ..] = cpuid(0x8000_0000, 0);
        // Some CPUs answer a leaf that they do not have with another one's contents.
        let leaf = |leaf: u32, sub: u32| {
            let highest = if leaf >> 31 == 0 { basic_max } else { extended_max };
            if leaf <= highest { cpuid(leaf, sub) } else { [0; 4] }
        };
        let mut vendor = [0; 12];
        let letters = [b, d, c].into_iter().flat_map(u32::to_le_bytes);
        vendor.iter_mut().zip(letters).for_each(|(to, letter)| *to = letter);
        let has = |((number, sub, register), bit): (Place, u32)| {
            leaf(number, sub).get(register).is_some_and(|word| word.unbounded_shr(bit) & 1 != 0)
        };
        let in_order = FEATURES.iter().rev();
        let features = in_order
            .fold(0, |features, &(_, place, bit, _)| features << 1 | u64::from(has((place, bit))));
        let [signature, ..] = leaf(1, 0);
        let [size, offset, ..] = leaf(0xd, 2);
        HostFacts { vendor, signature, features, avx_area: [size, offset], tsc_khz }
    }
}
