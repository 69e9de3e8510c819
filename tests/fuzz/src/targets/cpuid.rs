//! CPUID for any host: what it is, a guest sees only what holds there.
//!
//! Rules: a host whose features are not enough is refused by the name of one that it lacks; else no
//! feature of the baseline is shown that it has not; OSXSAVE follows CR4; the APIC id is the
//! vCPU's; leaves that do not exist are zero, and nothing depends on what was asked before.

use cloister_guest_abi::cpuid::features::{Source, all};
use cloister_monitor::cpuid::{CpuidError, CpuidInputs, CpuidTable, HostFacts};
use cloister_proto::vm::VM_V3;

use super::machine::config;
use crate::{Input, mark};

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let host = host(&mut input);
    let identity = u32::from(input.byte() & 3);
    let (vcpus, flags) = (u32::from(input.byte() % 10), u32::from(input.byte() & 0xf));
    let config = config(vcpus, flags, identity);
    let is_wide = flags & VM_V3 != 0;
    let lacks = all().enumerate().find(|(number, (.., source))| {
        let is_needed = *source == Source::V2 || *source == Source::V3 && is_wide;
        is_needed && host.features >> number & 1 == 0
    });
    let lacks = lacks.map(|(_, (name, ..))| name);
    let table = match CpuidTable::new(&config, &host) {
        Ok(table) => table,
        Err(error) => {
            mark("no table");
            let expected = match error {
                CpuidError::Lacks(name) => lacks == Some(name),
                CpuidError::AvxArea(area) => is_wide && area != [256, 576],
                CpuidError::Identity(identity) => identity > 2,
                CpuidError::Vcpus(vcpus) => !(1..=8).contains(&vcpus),
                CpuidError::TscUnknown => host.tsc_khz == 0,
            };
            return assert!(expected, "{error:?} on {host:x?}");
        }
    };
    mark("table");
    assert_eq!(lacks, None, "a guest on a host that lacks it");
    for (number, (name, (leaf, sub, register), bit, source)) in all().enumerate() {
        let answer = table.answer(leaf, sub, &CpuidInputs::default());
        let is_hosts = matches!(source, Source::V2 | Source::V3 | Source::Protection(_));
        let (is_shown, has) = (answer[register] >> bit & 1 != 0, host.features >> number & 1 != 0);
        assert!(!is_shown || !is_hosts || has, "{name} is shown and the host has it not");
    }
    while !input.is_empty() {
        ask(&table, vcpus, &mut input);
    }
}

/// A host of some features; mostly one that has nearly all.
fn host(input: &mut Input<'_>) -> HostFacts {
    let kind = input.byte();
    let without = if kind & 1 == 0 { 0 } else { 1 << (input.byte() & 63) };
    let features = if kind & 0xf == 0xf { input.long() } else { !without };
    let vendor = input.pick(&[*b"AuthenticAMD", *b"GenuineIntel", *b"HygonGenuine"]);
    let avx_area = if kind & 0x30 == 0x30 { [input.word(), 576] } else { [256, 576] };
    let tsc_khz = if kind & 0xc0 == 0xc0 { u32::from(input.byte()) } else { 1_000_000 };
    HostFacts { vendor, signature: input.value() as u32, features, avx_area, tsc_khz }
}

fn ask(table: &CpuidTable, vcpus: u32, input: &mut Input<'_>) {
    let leaves = [0, 1, 4, 6, 7, 0xb, 0xd, 0x4000_0000, 0x8000_0001, 0x8000_0008, 0x8000_001e];
    let leaf = if input.byte() < 200 { input.pick(&leaves) } else { input.value() as u32 };
    let (sub, apic_id) = (u32::from(input.byte() & 7), u32::from(input.byte()) % vcpus);
    let inputs = CpuidInputs { apic_id, cr4: input.value(), xcr0: input.value() };
    let answer = table.answer(leaf, sub, &inputs);
    assert_eq!(table.answer(leaf, sub, &inputs), answer, "the same question again");
    let is_leaf = matches!(leaf, 0..0xe | 0x4000_0000..0x4000_0012 | 0x8000_0000..0x8000_0022);
    assert!(is_leaf || answer == [0; 4], "leaf {leaf:#x} does not exist: {answer:x?}");
    if leaf == 1 {
        let [_, b, c, _] = answer;
        assert_eq!(b >> 24, apic_id, "the APIC id");
        let (xsave, osxsave) = (c >> 26 & 1, c >> 27 & 1);
        assert_eq!(osxsave, xsave & (inputs.cr4 >> 18 & 1) as u32, "OSXSAVE follows CR4");
    }
}
