//! The policy for MSRs, against the manuals' rules.
#![cfg(not(loom))]

use cloister_monitor::msr::{Gp, Policy, Write, efer, fixed, pat, policy, tsc_aux, xcr0};
use cloister_proto::vm::{IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL};
use proptest::prelude::*;

const IDENTITIES: [u32; 3] = [IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL];

#[test]
fn registers_that_cpuid_does_not_announce_do_not_exist() {
    // MTRRs, machine check, performance, speculation control, VMX, SVM, SME, kvmclock, Hyper-V.
    let absent = [
        0xfe,
        0x200,
        0x20f,
        0x250,
        0x268,
        0x2ff,
        0x17a,
        0x17b,
        0x400,
        0xc1,
        0x186,
        0x38f,
        0x48,
        0x49,
        0x10a,
        0x122,
        0x480,
        0x490,
        0xda0,
        0x4b56_4d00,
        0x4b56_4d01,
        0x4000_0000,
        0xc001_0000,
        0xc001_0200,
        0xc001_0010,
        0xc001_0114,
        0xc001_0117,
        0xc001_011f,
        0xc001_1020,
        0xc001_0131,
        0x7ff,
        0x900,
    ];
    for identity in IDENTITIES {
        for msr in absent {
            assert_eq!(policy(identity, msr), Policy::Absent, "{msr:#x}");
        }
    }
}

#[test]
fn registers_of_a_vendor_exist_for_its_identity_alone() {
    for (msr, owner) in [
        (0x17, IDENTITY_INTEL),
        (0x3a, IDENTITY_INTEL),
        (0x1a0, IDENTITY_INTEL),
        (0xc001_0015, IDENTITY_AMD),
        (0xc001_001f, IDENTITY_AMD),
        (0xc001_1029, IDENTITY_AMD),
    ] {
        for identity in IDENTITIES {
            let exists = policy(identity, msr) != Policy::Absent;
            assert_eq!(exists, identity == owner, "{msr:#x} for {identity}");
        }
    }
}

#[test]
fn values_that_kernels_rely_on() {
    let expected = [
        (IDENTITY_AMD, 0xc001_0015, 1 << 24, Write::Ignored), // the TSC's rate is constant
        (IDENTITY_AMD, 0xc001_1029, 2, Write::Ignored),       // LFENCE serializes
        (IDENTITY_AMD, 0xc001_001f, 1 << 46, Write::Ignored), // extended configuration access
        (IDENTITY_INTEL, 0x1a0, 1, Write::Ignored),           // fast strings
        (IDENTITY_INTEL, 0x3a, 1, Write::Refused),            // locked, without VMX
        (IDENTITY_NEUTRAL, 0x8b, 0, Write::Ignored),          // microcode
        (IDENTITY_NEUTRAL, 0x1d9, 0, Write::Refused),         // DEBUGCTL
    ];
    for (identity, msr, value, write) in expected {
        assert_eq!(policy(identity, msr), Policy::Fixed(value, write), "{msr:#x}");
    }
    for (msr, what) in [
        (0x10, Policy::Tsc),
        (0x1b, Policy::ApicBase),
        (0x3b, Policy::TscAdjust),
        (0x277, Policy::Pat),
        (0x6e0, Policy::TscDeadline),
        (0xc000_0080, Policy::Efer),
        (0xc000_0103, Policy::TscAux),
        (0x800, Policy::Apic(0)),
        (0x8ff, Policy::Apic(0xff)),
    ] {
        for identity in IDENTITIES {
            assert_eq!(policy(identity, msr), what, "{msr:#x}");
        }
    }
}

#[test]
fn fixed_values_are_kept_or_their_change_is_refused() {
    assert_eq!(fixed(1, Write::Ignored, 0), Ok(()));
    assert_eq!(fixed(1, Write::Refused, 1), Ok(()));
    assert_eq!(fixed(1, Write::Refused, 0), Err(Gp));
}

#[test]
fn efer_follows_the_manual() {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    assert_eq!(efer(1 | LME | 1 << 11, 0, false), Ok(1 | LME | 1 << 11));
    // LMA is the CPU's to say.
    assert_eq!(efer(LME | LMA, LME, false), Ok(LME));
    assert_eq!(efer(LME, LME | LMA, true), Ok(LME | LMA));
    // LME does not change under paging.
    assert_eq!(efer(0, LME | LMA, true), Err(Gp));
    assert_eq!(efer(LME, 0, true), Err(Gp));
    assert_eq!(efer(0, LME, false), Ok(0));
    // SVME, LMSLE, FFXSR, TCE, AIBRSE and everything else.
    for bit in (0..64).filter(|bit| ![0, 8, 10, 11].contains(bit)) {
        assert_eq!(efer(1 << bit, 0, false), Err(Gp), "bit {bit}");
    }
}

#[test]
fn xcr0_follows_the_manual() {
    for (value, allowed) in
        [(0, false), (1, true), (2, false), (3, true), (5, false), (7, true), (9, false)]
    {
        assert_eq!(xcr0(0, value, 7).is_ok(), allowed, "{value}");
    }
    assert_eq!(xcr0(1, 1, 7), Err(Gp));
    assert_eq!(xcr0(0, 1, 0), Err(Gp));
    assert_eq!(xcr0(0, 7 | 1 << 63, 7), Err(Gp));
}

proptest! {
    #[test]
    fn a_pat_has_eight_valid_types(types in prop::array::uniform8(0u8..10)) {
        let valid = types.iter().all(|kind| [0, 1, 4, 5, 6, 7].contains(kind));
        let value = u64::from_le_bytes(types);
        prop_assert_eq!(pat(value), if valid { Ok(value) } else { Err(Gp) });
    }

    #[test]
    fn tsc_aux_has_32_bits(value: u64) {
        let expected = if value >> 32 == 0 { Ok(value as u32) } else { Err(Gp) };
        prop_assert_eq!(tsc_aux(value), expected);
        prop_assert_eq!(tsc_aux(value >> 32), Ok((value >> 32) as u32));
    }
}
