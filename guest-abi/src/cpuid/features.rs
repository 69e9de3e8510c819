//! The feature bits that a guest may see ([`all`]), each with where it comes from and why.
//!
//! Neighbours: the parent module says what else is the same on every host; the monitor's `cpuid`
//! makes leaves of both. Invariant: a bit that is not in the table reads zero on every host. What
//! the table leaves out on purpose: MTRR, MCE and MCA (nothing of the platform can honour them), SVM and VMX (no nesting), performance counters, MONITOR (would
//! hold the core), PCID and ERMS (not on every host of a baseline), AVX-512, SEV, and everything
//! that needs SPEC_CTRL (IBRS, STIBP, SSBD) or ARCH_CAPABILITIES: no vCPU has these registers, and
//! a claim that a CPU is safe could be wrong on the next host.
//!
//! A baseline is the psABI's level ("Micro-Architecture Levels") and, for `v3`, what every AMD Zen
//! and every Intel CPU since Broadwell has besides.

use super::{IDENTITY_AMD, IDENTITY_INTEL};

/// A register of a leaf: leaf, subleaf, register (0 for EAX to 3 for EDX).
pub type Place = (u32, u32, usize);
const L1C: Place = (1, 0, 2);
const L1D: Place = (1, 0, 3);
const L7B: Place = (7, 0, 1);
const E1C: Place = (0x8000_0001, 0, 2);
const E1D: Place = (0x8000_0001, 0, 3);

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

/// Features with one source and one reason: register, source, and of each name and bit.
type Group = (Place, Source, &'static [(&'static str, u32)]);

use Source::{Identity, Platform, Protection, Several, SeveralAmd, V2, V3};

/// All features; names are those that Linux prints.
#[rustfmt::skip]
static GROUPS: [Group; 26] = [
    // psABI, "Micro-Architecture Levels": what programs of the level use.
    (L1D, V2, &[("fpu", 0), ("cx8", 8), ("cmov", 15), ("mmx", 23), ("fxsr", 24), ("sse", 25),
        ("sse2", 26)]),
    (L1C, V2, &[("pni", 0), ("ssse3", 9), ("cx16", 13), ("sse4_1", 19), ("sse4_2", 20),
        ("popcnt", 23)]),
    (E1C, V2, &[("lahf_lm", 0)]),
    (L1C, V3, &[("fma", 12), ("movbe", 22), ("avx", 28), ("f16c", 29)]),
    (L7B, V3, &[("bmi1", 3), ("avx2", 5), ("bmi2", 8)]),
    (E1C, V3, &[("abm", 5)]),
    // What every 64-bit kernel takes for granted. Nested paging leaves all of it to the CPU; the
    // kernel switches debug registers, PAT and the MSRs of SYSENTER and SYSCALL with the vCPU.
    (L1D, V2, &[("de", 2), ("pse", 3), ("tsc", 4), ("msr", 5), ("pae", 6), ("sep", 11),
        ("pge", 13), ("pat", 16), ("pse36", 17), ("clflush", 19)]),
    (E1D, V2, &[("syscall", 11), ("nx", 20), ("lm", 29)]),
    // Every CPU with nested paging has it; TSC_AUX is part of a vCPU's state.
    (E1D, V2, &[("rdtscp", 27)]),
    // All v3 hosts. Checksums and disk ciphers; a guest's first entropy; AVX needs XSAVE; a guest
    // kernel's own protections.
    (L1C, V3, &[("pclmulqdq", 1), ("aes", 25), ("xsave", 26), ("rdrand", 30)]),
    (L7B, V3, &[("fsgsbase", 0), ("smep", 7), ("rdseed", 18), ("adx", 19), ("smap", 20)]),
    ((0xd, 1, 0), V3, &[("xsaveopt", 0)]),
    (E1D, V3, &[("pdpe1gb", 26)]),
    (L1C, Platform, &[("x2apic", 21)]),             // MSRs need no decoder
    (L1C, Platform, &[("tsc_deadline_timer", 24)]), // spares guests a calibration
    (L1C, Platform, &[("hypervisor", 31)]),         // announces the leaves at 0x4000_0000
    (L1D, Platform, &[("apic", 9)]),                // the monitor's
    ((6, 0, 0), Platform, &[("arat", 2)]),                // the virtual APIC timer never stops
    (L7B, Platform, &[("tsc_adjust", 1)]),          // Linux then needs no watchdog for the TSC
    ((0x8000_0007, 0, 3), Platform, &[("constant_tsc", 8)]),        // an appliance is bound to such hosts
    (L1D, Several, &[("ht", 28)]),                  // several processors; none are siblings
    (E1C, SeveralAmd, &[("cmp_legacy", 1)]),        // AMD's word for just that
    (E1C, Identity(IDENTITY_AMD), &[("topoext", 22)]), // leaves 0x8000_001d and 1e
    ((7, 0, 3), Protection(IDENTITY_INTEL), &[("md_clear", 10)]), // VERW empties buffers
    ((0x8000_0008, 0, 1), Protection(IDENTITY_AMD), &[("ibpb", 12)]), // the kernel passes PRED_CMD through
    ((0x8000_0021, 0, 0), Protection(IDENTITY_AMD), &[("lfence_rdtsc", 2)]), // LFENCE waits, without an MSR
];

/// Every feature: name, register, bit, source.
pub fn all() -> impl Iterator<Item = (&'static str, Place, u32, Source)> {
    GROUPS.iter().flat_map(|(place, source, bits)| {
        bits.iter().map(move |(name, bit)| (*name, *place, *bit, *source))
    })
}

/// AMD repeats these bits of leaf 1 EDX in 0x8000_0001 EDX (AMD APM, "Obtaining Processor
/// Information Using the CPUID Instruction").
pub const AMD_REPEATED: u32 = 0x0183_f3ff;
