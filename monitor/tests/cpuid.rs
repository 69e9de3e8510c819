//! What CPUID tells guests, against lists of bits written from the specifications.
#![cfg(not(loom))]

use cloister_monitor::cpuid::{CpuidError, CpuidInputs, CpuidTable, HostFacts};
use cloister_proto::vm::{IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL, VM_V3, VmConfig};
use proptest::prelude::*;
use zerocopy::FromZeros;

/// Leaf 1 ECX: psABI x86-64-v2, x2APIC, TSC deadline, hypervisor; and what v3 adds.
const V2_1C: &[u32] = &[0, 9, 13, 19, 20, 21, 23, 24, 31];
/// The same without what the platform gives.
const V2_1C_OF_HOSTS: &[u32] = &[0, 9, 13, 19, 20, 23];
const V3_1C: &[u32] = &[1, 12, 22, 25, 26, 28, 29, 30];
/// Leaf 1 EDX without VME, MCE, MTRR, MCA and HT.
const V2_1D: &[u32] = &[0, 2, 3, 4, 5, 6, 8, 9, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26];
/// The same without what the platform gives: the APIC.
const V2_1D_OF_HOSTS: &[u32] = &[0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26];
/// Leaf 7 EBX.
const V2_7B: &[u32] = &[1];
const V3_7B: &[u32] = &[0, 3, 5, 7, 8, 18, 19, 20];
/// Leaf 0x8000_0001.
const V2_E1C: &[u32] = &[0];
const V3_E1C: &[u32] = &[5];
const V2_E1D: &[u32] = &[11, 20, 27, 29];
const V3_E1D: &[u32] = &[26];
const IDENTITIES: [u32; 3] = [IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL];

fn bits(lists: &[&[u32]]) -> u32 {
    lists.iter().flat_map(|list| list.iter()).fold(0, |word, bit| word | 1 << bit)
}

/// A host that has each register of each leaf from `feature`, but for what must be a number.
fn host(vendor: &[u8; 12], signature: u32, feature: impl Fn(u32, usize) -> u32) -> HostFacts {
    let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
    let cpuid = |leaf: u32, sub: u32| match (leaf, sub) {
        (0, _) => [0x20, word(0), word(8), word(4)],
        (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
        (0xd, 2) => [256, 576, 0, 0],
        (1, _) => [signature, 0, feature(1, 2), feature(1, 3)],
        _ => [0, 1, 2, 3].map(|register| feature(leaf, register)),
    };
    HostFacts::read(cpuid, 3_000_000)
}

fn rich(vendor: &[u8; 12]) -> HostFacts {
    host(vendor, 0x00a2_0f12, |_, _| u32::MAX)
}

fn config(identity: u32, flags: u32, vcpus: u32) -> VmConfig {
    VmConfig { identity, flags, vcpus, ..VmConfig::new_zeroed() }
}

fn table(identity: u32, flags: u32, vcpus: u32) -> CpuidTable {
    CpuidTable::new(&config(identity, flags, vcpus), &rich(b"NoSuchVendor")).unwrap()
}

fn ask(table: &CpuidTable, leaf: u32, sub: u32) -> [u32; 4] {
    table.answer(leaf, sub, &CpuidInputs::default())
}

#[test]
fn features_are_those_of_the_baseline_whatever_the_host_has() {
    for identity in IDENTITIES {
        let amd = identity == IDENTITY_AMD;
        let two = table(identity, 0, 1);
        let three = table(identity, VM_V3, 1);
        let amd_topology: &[u32] = if amd { &[22] } else { &[] };
        for (table, extra) in [(&two, false), (&three, true)] {
            let more = |list: &'static [u32]| if extra { list } else { &[] };
            let [_, _, c, d] = ask(table, 1, 0);
            assert_eq!(c, bits(&[V2_1C, more(V3_1C)]), "leaf 1 ecx");
            assert_eq!(d, bits(&[V2_1D]), "leaf 1 edx");
            assert_eq!(ask(table, 6, 0), [4, 0, 0, 0]);
            assert_eq!(ask(table, 7, 0), [0, bits(&[V2_7B, more(V3_7B)]), 0, 0]);
            let [_, _, c, d] = ask(table, 0x8000_0001, 0);
            assert_eq!(c, bits(&[V2_E1C, more(V3_E1C), amd_topology]));
            // AMD repeats bits 0 to 9, 12 to 17, 23 and 24 of leaf 1.
            let repeated = if amd { bits(&[V2_1D]) & 0x0183_f3ff } else { 0 };
            assert_eq!(d, bits(&[V2_E1D, more(V3_E1D)]) | repeated);
            assert_eq!(ask(table, 0x8000_0007, 0), [0, 0, 0, 1 << 8]);
            assert_eq!(ask(table, 0xd, 1), [u32::from(extra), 0, 0, 0]);
        }
        assert_eq!((two.xcr0_supported(), three.xcr0_supported()), (0, 7));
    }
}

#[test]
fn what_the_platform_cannot_honour_is_never_shown() {
    let hidden: [(u32, usize, &str, &[u32]); 7] = [
        (1, 2, "MONITOR, VMX, PDCM, PCID", &[3, 5, 15, 17]),
        (1, 3, "MCE, MTRR, MCA, DS, ACPI", &[7, 12, 14, 21, 22]),
        (7, 1, "TSX, MPX, AVX-512, INVPCID", &[4, 10, 11, 14, 16, 17, 21, 26, 27, 28, 30, 31]),
        (7, 3, "IBRS, STIBP, ARCH_CAPABILITIES, SSBD", &[26, 27, 28, 29, 30, 31]),
        (0x8000_0001, 2, "SVM, OSVW, IBS, SKINIT, performance", &[2, 9, 10, 12, 23, 24, 28]),
        (0x8000_0008, 1, "IBRS, STIBP, SSBD and what is claimed safe", &[14, 15, 24, 25, 26, 29]),
        (0x8000_0021, 0, "automatic IBRS, claims", &[8, 29, 30]),
    ];
    for (vendor, identity) in [(b"AuthenticAMD", IDENTITY_AMD), (b"GenuineIntel", IDENTITY_INTEL)] {
        let table = CpuidTable::new(&config(identity, VM_V3, 8), &rich(vendor)).unwrap();
        for (leaf, register, what, list) in hidden {
            assert_eq!(ask(&table, leaf, 0)[register] & bits(&[list]), 0, "{leaf:#x}: {what}");
        }
        for leaf in [5, 9, 0xa, 0x8000_000a, 0x8000_001f] {
            assert_eq!(ask(&table, leaf, 0), [0; 4], "{leaf:#x}");
        }
    }
}

#[test]
fn a_host_that_lacks_a_feature_of_the_baseline_is_refused_by_its_name() {
    let registers: [(u32, usize, &[u32], &[u32]); 6] = [
        (1, 2, V2_1C_OF_HOSTS, V3_1C),
        (1, 3, V2_1D_OF_HOSTS, &[]),
        (7, 1, &[], V3_7B),
        (0xd, 0, &[], &[0]),
        (0x8000_0001, 2, V2_E1C, V3_E1C),
        (0x8000_0001, 3, V2_E1D, V3_E1D),
    ];
    let mut names = std::collections::BTreeSet::new();
    for (leaf, register, two, three) in registers {
        for (&bit, v3_alone) in two.iter().zip([false; 32]).chain(three.iter().zip([true; 32])) {
            let poor = host(b"NoSuchVendor", 0, |l, r| {
                if (l, r) == (leaf, register) { !(1 << bit) } else { u32::MAX }
            });
            let v2 = CpuidTable::new(&config(IDENTITY_NEUTRAL, 0, 1), &poor);
            let v3 = CpuidTable::new(&config(IDENTITY_NEUTRAL, VM_V3, 1), &poor);
            let Err(CpuidError::Lacks(name)) = v3 else { panic!("{leaf:#x} {register} {bit}") };
            assert_eq!(v2.is_ok(), v3_alone, "{name}");
            assert!(names.insert(name), "{name} twice");
        }
    }
    assert!(names.contains("avx2") && names.contains("cx16") && names.len() == 47);
}

#[test]
fn mistakes_of_the_configuration_and_odd_hosts_are_refused() {
    let new = |config: VmConfig, host: &HostFacts| CpuidTable::new(&config, host).unwrap_err();
    let good = rich(b"NoSuchVendor");
    assert_eq!(new(config(3, 0, 1), &good), CpuidError::Identity(3));
    assert_eq!(new(config(0, 0, 0), &good), CpuidError::Vcpus(0));
    assert_eq!(new(config(0, 0, 9), &good), CpuidError::Vcpus(9));
    let timeless = HostFacts { tsc_khz: 0, ..good };
    assert_eq!(new(config(0, 0, 1), &timeless), CpuidError::TscUnknown);
    let odd = HostFacts { avx_area: [256, 1024], ..good };
    assert_eq!(new(config(0, VM_V3, 1), &odd), CpuidError::AvxArea([256, 1024]));
    assert!(CpuidTable::new(&config(0, 0, 1), &odd).is_ok());
}

#[test]
fn a_leaf_above_the_host_s_highest_gives_no_feature() {
    // Intel CPUs answer with the highest leaf's contents, here all ones.
    let cpuid = |leaf: u32, _| match leaf {
        0 => [1, 0, 0, 0],
        0x8000_0000 => [0x8000_0001, 0, 0, 0],
        _ => [u32::MAX; 4],
    };
    let facts = HostFacts::read(cpuid, 1);
    let error = CpuidTable::new(&config(IDENTITY_NEUTRAL, VM_V3, 1), &facts).unwrap_err();
    assert_eq!(error, CpuidError::AvxArea([0, 0]));
    let patched = HostFacts { avx_area: [256, 576], ..facts };
    let error = CpuidTable::new(&config(IDENTITY_NEUTRAL, VM_V3, 1), &patched).unwrap_err();
    assert_eq!(error, CpuidError::Lacks("bmi1"));
}

#[test]
fn protections_and_signature_follow_the_host_only_where_vendor_and_identity_agree() {
    let show = |identity, host: &HostFacts| {
        let table = CpuidTable::new(&config(identity, 0, 1), host).unwrap();
        let protections = [ask(&table, 7, 0)[3], ask(&table, 0x8000_0008, 0)[1]];
        let [signature, ..] = ask(&table, 1, 0);
        (signature, protections, ask(&table, 0x8000_0021, 0)[0], table.is_mismatched())
    };
    let (amd, intel) = (rich(b"AuthenticAMD"), rich(b"GenuineIntel"));
    assert_eq!(show(IDENTITY_AMD, &amd), (0x00a2_0f12, [0, 1 << 12], 1 << 2, false));
    assert_eq!(show(IDENTITY_AMD, &intel), (0x0083_0f10, [0, 0], 0, true));
    let skylake = HostFacts { signature: 0x0009_06ed, ..intel };
    assert_eq!(show(IDENTITY_INTEL, &skylake), (0x0009_06ed, [1 << 10, 0], 0, false));
    assert_eq!(show(IDENTITY_INTEL, &amd), (0x0005_0654, [0, 0], 0, true));
    assert_eq!(show(IDENTITY_NEUTRAL, &amd), (0x0000_0600, [0, 0], 0, false));
    // An emulated CPU: the right vendor, but a family from before these defences.
    let emulated = HostFacts { signature: 0x0006_0fb1, ..amd };
    assert_eq!(show(IDENTITY_AMD, &emulated).0, 0x0083_0f10);
    let bare = host(b"AuthenticAMD", 0x0083_0f10, |leaf, register| match (leaf, register) {
        (0x8000_0008, 1) | (0x8000_0021, 0) => 0,
        _ => u32::MAX,
    });
    assert_eq!(show(IDENTITY_AMD, &bare), (0x0083_0f10, [0, 0], 0, false));
}

#[test]
fn topology_is_one_package_of_cores_without_siblings() {
    for identity in IDENTITIES {
        for vcpus in 1..=8u32 {
            let table = table(identity, 0, vcpus);
            let [_, b, c, d] = ask(&table, 1, 0);
            assert_eq!((b >> 16 & 0xff, b >> 8 & 0xff), (vcpus, 8));
            assert_eq!(d >> 28 & 1 != 0, vcpus > 1);
            let [_, _, cmp, _] = ask(&table, 0x8000_0001, 0);
            assert_eq!(cmp >> 1 & 1 != 0, vcpus > 1 && identity == IDENTITY_AMD);
            assert_eq!(c & 1 << 27, 0);
            let mut ids = std::collections::BTreeSet::new();
            for apic_id in 0..vcpus {
                let inputs = CpuidInputs { apic_id, ..CpuidInputs::default() };
                let [_, b, ..] = table.answer(1, 0, &inputs);
                assert_eq!(b >> 24, apic_id);
                let [siblings, threads, kind, id] = table.answer(0xb, 0, &inputs);
                assert_eq!((siblings, threads, kind, id), (0, 1, 1 << 8, apic_id));
                let [shift, cores, kind, id] = table.answer(0xb, 1, &inputs);
                assert_eq!((cores, kind, id), (vcpus, 2 << 8 | 1, apic_id));
                assert_eq!(apic_id >> shift, 0, "another package");
                assert!(1u32 << shift >= vcpus && 1 << shift < 2 * vcpus);
                assert_eq!(table.answer(0xb, 2, &inputs), [0, 0, 2, apic_id]);
                ids.insert(apic_id);
                let [id, core, nodes, _] = table.answer(0x8000_001e, 0, &inputs);
                let expected = if identity == IDENTITY_AMD { apic_id } else { 0 };
                assert_eq!((id, core, nodes), (expected, expected, 0));
            }
            if identity == IDENTITY_AMD {
                let [_, _, cores, _] = ask(&table, 0x8000_0008, 0);
                assert_eq!(cores & 0xff, vcpus - 1);
                assert!(1u32 << (cores >> 12 & 0xf) >= vcpus);
            }
        }
    }
}

#[test]
fn caches_have_the_sizes_that_every_leaf_agrees_on() {
    for (identity, leaf) in [(IDENTITY_AMD, 0x8000_001d), (IDENTITY_INTEL, 4)] {
        let table = table(identity, 0, 4);
        let size = |sub| {
            let [kind, shape, sets, _] = ask(&table, leaf, sub);
            let (line, ways) = ((shape & 0xfff) + 1, (shape >> 22) + 1);
            (kind & 0x1f, kind >> 5 & 7, line * ways * (sets + 1) / 1024, kind >> 14 & 0xfff)
        };
        let expected = [(1, 1, 32, 0), (2, 1, 32, 0), (3, 2, 512, 0), (3, 3, 8192, 3)];
        assert_eq!([0, 1, 2, 3].map(size), expected);
        assert_eq!((ask(&table, leaf, 4), ask(&table, leaf, u32::MAX)), ([0; 4], [0; 4]));
        let [_, _, l2, l3] = ask(&table, 0x8000_0006, 0);
        assert_eq!((l2 >> 16, l2 & 0xff), (512, 64));
        assert_eq!((l3 >> 18) * 512, if identity == IDENTITY_AMD { 8192 } else { 0 });
        let [cores, ..] = ask(&table, leaf, 0);
        assert_eq!(cores >> 26, if identity == IDENTITY_INTEL { 3 } else { 0 });
    }
    assert_eq!(ask(&table(IDENTITY_NEUTRAL, 0, 4), 4, 0), [0; 4]);
}

#[test]
fn xsave_sizes_follow_xcr0_and_osxsave_follows_cr4() {
    let (two, three) = (table(IDENTITY_AMD, 0, 1), table(IDENTITY_AMD, VM_V3, 1));
    let inputs = |cr4, xcr0| CpuidInputs { apic_id: 0, cr4, xcr0 };
    for (xcr0, size) in [(1, 576), (3, 576), (7, 832)] {
        assert_eq!(three.answer(0xd, 0, &inputs(0, xcr0)), [7, size, 832, 0]);
        assert_eq!(two.answer(0xd, 0, &inputs(0, xcr0)), [0; 4]);
    }
    assert_eq!(ask(&three, 0xd, 2), [256, 576, 0, 0]);
    assert_eq!((ask(&three, 0xd, 3), ask(&two, 0xd, 2)), ([0; 4], [0; 4]));
    let osxsave = |table: &CpuidTable, cr4| table.answer(1, 0, &inputs(cr4, 1))[2] & 1 << 27 != 0;
    assert!(osxsave(&three, 1 << 18) && !osxsave(&three, !(1 << 18)));
    assert!(!osxsave(&two, 1 << 18));
}

#[test]
fn the_platform_s_leaves_say_kvm_once_and_the_frequencies() {
    let table = table(IDENTITY_AMD, 0, 1);
    let text = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let [max, signature @ ..] = ask(&table, 0x4000_0000, 0);
    assert_eq!((max, &text(&signature)[..]), (0x4000_0011, &b"KVMKVMKVM\0\0\0"[..]));
    assert_eq!(ask(&table, 0x4000_0001, 0), [2, 0, 0, 0]);
    assert_eq!(ask(&table, 0x4000_0010, 0), [3_000_000, 1_000_000, 0, 0]);
    let [version, name @ ..] = ask(&table, 0x4000_0011, 0);
    assert_eq!((version, &text(&name)[..]), (cloister_guest_abi::VERSION, &b"CloisterGues"[..]));
    // Linux looks for Xen in steps of 0x100.
    for leaf in (0x4000_0100..0x4001_0000).step_by(0x100) {
        assert_eq!(ask(&table, leaf, 0), [0; 4]);
    }
    let brand = [2, 3, 4].map(|leaf| text(&ask(&table, 0x8000_0000 + leaf, 0))).concat();
    assert!(brand.starts_with(b"Cloister virtual CPU\0"));
}

#[test]
fn vendors_stand_where_the_architecture_wants_them() {
    for (identity, vendor, extended) in [
        (IDENTITY_AMD, b"AuthenticAMD", 0x8000_0021),
        (IDENTITY_INTEL, b"GenuineIntel", 0x8000_0008),
        (IDENTITY_NEUTRAL, b"CloisterVCPU", 0x8000_0008),
    ] {
        let table = table(identity, 0, 1);
        let [max, b, c, d] = ask(&table, 0, 0);
        let text = [b, d, c].map(u32::to_le_bytes).concat();
        assert_eq!((max, &text[..]), (0xd, &vendor[..]));
        let [max, b2, c2, d2] = ask(&table, 0x8000_0000, 0);
        let repeated = if identity == IDENTITY_AMD { [b, c, d] } else { [0; 3] };
        assert_eq!((max, [b2, c2, d2]), (extended, repeated));
        assert_eq!(ask(&table, 0x8000_0008, 0)[0], 36 | 48 << 8);
    }
}

#[test]
fn what_the_platform_gives_is_not_asked_of_the_host() {
    // TSC_ADJUST, x2APIC, deadline timer, hypervisor, APIC, ARAT, constant TSC.
    let missing = |leaf: u32, register: usize| match (leaf, register) {
        (1, 2) => 1 << 21 | 1 << 24 | 1 << 31,
        (1, 3) => 1 << 9,
        (7, 1) => 1 << 1,
        (6, 0) | (0x8000_0007, 3) => u32::MAX,
        _ => 0,
    };
    let poor = host(b"NoSuchVendor", 0, |leaf, register| !missing(leaf, register));
    for identity in IDENTITIES {
        let config = config(identity, VM_V3, 2);
        let (one, two) = (table(identity, VM_V3, 2), CpuidTable::new(&config, &poor).unwrap());
        for leaf in [1, 6, 7, 0x8000_0007] {
            assert_eq!(ask(&one, leaf, 0), ask(&two, leaf, 0), "{leaf:#x}");
        }
    }
}

#[test]
fn the_leaves_behind_the_last_ones_are_zero() {
    for identity in IDENTITIES {
        for leaf in [0xe, 0x15, 0x21, 0x3fff_ffff, 0x4000_0012, 0x7fff_ffff, 0x8000_0022, u32::MAX]
        {
            assert_eq!(ask(&table(identity, VM_V3, 8), leaf, 0), [0; 4], "{leaf:#x}");
        }
    }
}

proptest! {
    /// Promise 1: two hosts that can carry a machine show it the same CPU.
    #[test]
    fn no_answer_depends_on_what_else_a_host_has(
        words in prop::collection::vec(any::<u32>(), 64),
        signature: u32,
        vcpus in 1u32..=8,
        v3: bool,
        leaf in prop_oneof![0u32..0x30, 0x4000_0000u32..0x4000_0020, 0x8000_0000u32..0x8000_0030],
        sub in 0u32..5,
    ) {
        let needed = |leaf: u32, register: usize| match (leaf, register) {
            (1, 2) => bits(&[V2_1C, V3_1C]),
            (1, 3) => bits(&[V2_1D]),
            (7, 1) => bits(&[V2_7B, V3_7B]),
            (0xd, 0) => 1,
            (0x8000_0001, 2) => bits(&[V2_E1C, V3_E1C]),
            (0x8000_0001, 3) => bits(&[V2_E1D, V3_E1D]),
            _ => 0,
        };
        let some = |leaf: u32, register: usize| {
            let at = (leaf as usize * 4 + register) % words.len();
            words[at] | needed(leaf, register)
        };
        let other = host(b"AuthenticAMD", signature, some);
        for identity in [IDENTITY_INTEL, IDENTITY_NEUTRAL] {
            let config = config(identity, if v3 { VM_V3 } else { 0 }, vcpus);
            let one = CpuidTable::new(&config, &rich(b"NoSuchVendor")).unwrap();
            let two = CpuidTable::new(&config, &other).unwrap();
            prop_assert_eq!(ask(&one, leaf, sub), ask(&two, leaf, sub));
        }
    }

    #[test]
    fn leaves_that_do_not_exist_are_zero(leaf: u32, sub: u32, apic_id in 0u32..8, cr4: u64) {
        let table = table(IDENTITY_AMD, VM_V3, 8);
        let exists = leaf <= 0xd
            || (0x4000_0000..=0x4000_0011).contains(&leaf)
            || (0x8000_0000..=0x8000_0021).contains(&leaf);
        let answer = table.answer(leaf, sub, &CpuidInputs { apic_id, cr4, xcr0: 1 });
        prop_assert!(exists || answer == [0; 4]);
    }
}
