//! Table validation: the sample passes, each rule refuses what it is for, and no input whatever
//! (truncated, bit-flipped, mutated, arbitrary) panics or gets an unsafe table through.
#![cfg(not(loom))]

mod support;

use cloister_abi::layout;
use cloister_abi::table::*;
use cloister_core::table::{Rule, Table, TableError};
use proptest::prelude::*;
use std::collections::HashSet;
use support::vm::{WRONG_VM, Wrong};
use support::{Aligned, Build, PAYLOAD_PAGES, cap, map, name, region};

fn validate(bytes: &[u8]) -> Result<(), TableError> {
    Table::new(bytes, PAYLOAD_PAGES).map(drop)
}

/// Either refused, or the slow checker finds nothing wrong either.
fn refused_or_right(bytes: &[u8]) -> bool {
    let refused = validate(bytes).is_err();
    if !refused {
        support::slow::check(bytes, PAYLOAD_PAGES);
    }
    refused
}

#[test]
fn the_sample_is_valid_and_has_what_was_put_in() {
    let build = Build::sample();
    let bytes = build.bytes();
    let table = Table::new(bytes.bytes(), PAYLOAD_PAGES).unwrap();
    support::slow::check(bytes.bytes(), PAYLOAD_PAGES);
    assert_eq!(table.tasks, build.tasks);
    assert_eq!(table.threads, build.threads);
    assert_eq!(table.caps_of(&table.tasks[3]), &build.caps[5..]);
    assert_eq!(table.maps_of(&table.tasks[0]), &build.maps[..8]);
    assert_eq!(table.ports_of(&table.tasks[1]), &[]);
    assert_eq!(table.threads_on(0), 0..3);
    assert_eq!(table.threads_on(1), 3..5);
    assert_eq!(table.threads_on(7), 5..5);
}

#[test]
fn the_sample_with_a_virtual_machine_is_valid_and_has_it() {
    let build = Build::with_vm();
    let bytes = build.bytes();
    let table = Table::new(bytes.bytes(), PAYLOAD_PAGES).unwrap();
    support::slow::check(bytes.bytes(), PAYLOAD_PAGES);
    assert_eq!(table.vms, build.vms);
    assert_eq!(table.vcpus_of(&table.vms[0]), build.vcpus);
    assert_eq!(table.guest_maps_of(&table.vms[0]), build.guest_maps);
    assert_eq!(table.doorbells_of(&table.vms[0]), build.doorbells);
}

/// The client, which is on core 1 alone, gets a device with an interrupt.
fn far_device(build: &mut Build, kind: u8) {
    let flags = if kind == DEVICE_PLATFORM { 0 } else { DEVICE_BUS_MASTER | DEVICE_MSI };
    let device = Device { name: name("far"), select: 0, kind, flags, owner: 3, ..build.devices[1] };
    build.devices.push(device);
    build.irqs.push(Irq { device: 2, thread: 4, pin: 0, ..build.irqs[0] });
}

#[test]
fn a_bus_master_may_be_anywhere_and_reach_what_it_was_granted() {
    let mut build = Build::sample();
    far_device(&mut build, DEVICE_PCI_POSITION);
    build.maps[20].rights |= MAP_DMA;
    build.maps[30].rights |= MAP_DMA;
    let bytes = build.bytes();
    assert_eq!(validate(bytes.bytes()), Ok(()));
    support::slow::check(bytes.bytes(), PAYLOAD_PAGES);
}

/// The driver gets a virtual function of its device, which `change` then spoils.
fn virtual_function(build: &mut Build, change: fn(&mut Device)) {
    build.devices[0].flags |= DEVICE_PHYSICAL;
    let (name, kind, flags) = (name("nic0-vf1"), DEVICE_PCI_VIRTUAL, DEVICE_BUS_MASTER);
    build.devices.push(Device { name, kind, flags, select: 0, nth: 1, ..build.devices[0] });
    build.devices.last_mut().map(change);
}

#[test]
fn a_virtual_function_names_its_physical_one() {
    let mut build = Build::sample();
    virtual_function(&mut build, |_| {});
    let bytes = build.bytes();
    assert_eq!(validate(bytes.bytes()), Ok(()));
    support::slow::check(bytes.bytes(), PAYLOAD_PAGES);
}

/// Wrong records and the answer they must get. Map 14 is the driver's text, 20 its mailbox.
const WRONG: &[Wrong] = &[
    (Rule::Header, 0, |b| b.header.magic ^= 1),
    (Rule::Header, 0, |b| b.header.version += 1),
    (Rule::Flags, 0, |b| b.header.flags = 16),
    (Rule::Reserved, 0, |b| b.header.reserved = 1),
    (Rule::Reserved, 0, |b| b.header.reserved2 = 1),
    (Rule::Board, 0, |b| b.header.cores = 0),
    (Rule::Board, 0, |b| b.header.cores = 17),
    (Rule::Board, 0, |b| b.header.sleep_type[1] = 8),
    (Rule::Name, 0, |b| b.header.name = [0; 32]),
    (Rule::Count, 1, |b| b.threads = vec![b.threads[0]; 129]),
    (Rule::Count, 7, |b| b.irqs = vec![b.irqs[0]; 33]),
    (Rule::Name, 2, |b| b.tasks[2].name[0] = 0xff),
    (Rule::Name, 2, |b| b.tasks[2].name[31] = b'x'),
    (Rule::Name, 1, |b| b.devices[1].name = [0; 32]),
    (Rule::NameTwice, 3, |b| b.tasks[3].name = b.tasks[2].name),
    (Rule::NameTwice, 1, |b| b.devices[1].name = b.devices[0].name),
    (Rule::Flags, 3, |b| b.tasks[3].flags = 2),
    (Rule::Flags, 0, |b| b.devices[0].flags = 32),
    (Rule::Run, 2, |b| b.tasks[2].first_cap += 1),
    (Rule::Run, 3, |b| b.tasks[2].maps -= 1),
    (Rule::Run, 4, |b| b.tasks[3].ports = 0),
    (Rule::Run, 4, |b| b.tasks[3].caps = u16::MAX),
    (Rule::Role, 3, |b| b.tasks[3].role = 3),
    (Rule::Init, 3, |b| (b.tasks[3].role, b.tasks[3].supervisor) = (ROLE_INIT, NONE)),
    (Rule::Init, 0, |b| (b.tasks[0].role, b.tasks[0].supervisor) = (ROLE_TASK, 1)),
    (Rule::Init, 0, |b| b.threads[0].core = 1),
    (Rule::Init, 2, |b| (b.tasks[2].role, b.tasks[2].supervisor) = (ROLE_INIT, NONE)),
    (Rule::Supervisor, 0, |b| (b.tasks[3].role, b.tasks[3].supervisor) = (2, NONE)),
    (Rule::SupervisorBit, 0, |b| b.tasks[0].supervisor = 1),
    (Rule::SupervisorBit, 2, |b| b.tasks[2].supervisor = 2),
    (Rule::SupervisorBit, 2, |b| b.tasks[2].supervisor = NONE),
    (Rule::SupervisorBit, 3, |b| b.tasks[3].supervisor_bit = 48),
    (Rule::SupervisorBitTwice, 3, |b| b.tasks[3].supervisor_bit = 2),
    (Rule::ThreadIndex, 2, |b| b.threads[3].index = 0),
    (Rule::ThreadIndex, 2, |b| b.threads[3].index = 2),
    (Rule::ThreadIndex, 3, |b| b.threads[4].index = 255),
    (Rule::ThreadTask, 3, |b| (b.threads[3].task, b.threads[3].index) = (4, 0)),
    (Rule::ThreadCore, 4, |b| b.threads[4].core = 2),
    (Rule::ThreadCore, 35, too_many_threads),
    (Rule::ThreadOrder, 2, |b| b.threads[1].priority = 3),
    (Rule::ThreadOrder, 4, |b| b.threads[3].priority = 5),
    (Rule::Reserved, 1, |b| b.threads[1].reserved = 1),
    (Rule::Budget, 1, |b| b.threads[1].budget_ns = 0),
    (Rule::Budget, 1, |b| b.threads[1].budget_ns = b.threads[1].period_ns + 1),
    (Rule::Entry, 2, |b| b.threads[2].entry = layout::IMAGE + 2 * 4096),
    (Rule::Entry, 2, |b| b.threads[2].entry = u64::MAX),
    (Rule::Stack, 2, |b| b.threads[2].stack_top += 16),
    (Rule::Stack, 2, |b| b.threads[2].stack_top -= 8),
    (Rule::Stack, 2, |b| b.threads[2].stack_bottom = b.threads[2].stack_top),
    (Rule::Stack, 2, |b| b.threads[2].stack_bottom += 4096),
    (Rule::Stack, 2, |b| b.threads[2].stack_bottom = 0),
    (Rule::Region, 9, |b| b.regions[9].kind = 9),
    (Rule::Region, 9, |b| b.regions[9].pages = 0),
    (Rule::Region, 9, |b| b.regions[9].pages = u32::MAX),
    (Rule::Region, 0, |b| b.regions[0].pages = 2),
    (Rule::Reserved, 9, |b| b.regions[9].reserved[2] = 1),
    (Rule::RegionValue, 9, |b| b.regions[9].value += 1),
    (Rule::RegionValue, 9, |b| b.regions[9].value2 = 4096),
    (Rule::RegionValue, 7, |b| b.regions[7].value = 1),
    (Rule::RegionValue, 4, |b| b.regions[4].value = 2),
    (Rule::RegionValue, 5, |b| b.regions[5].value = 6 << 32),
    (Rule::RegionValue, 5, |b| b.regions[5].value = 8 << 32),
    (Rule::RegionValue, 5, |b| (b.regions[5].value, b.regions[5].pages) = (7 << 32, 2)),
    (Rule::MapKind, 22, |b| b.regions[5].value = 7 << 32),
    (Rule::RegionValue, 5, |b| b.regions[5].value2 = 4096),
    (Rule::RegionValue, 5, |b| b.regions[5].value = 2),
    (Rule::RegionValue, 6, |b| b.regions[6].value2 += 1),
    (Rule::RegionValue, 6, |b| b.regions[6].value2 = (1 << 52) - 4096 + 4096),
    (Rule::RegionValue, 6, |b| b.regions[6].value2 = u64::MAX - 4095),
    (Rule::RegionValue, 6, |b| b.regions[6].value = 1 << 32 | 1),
    (Rule::PayloadRange, 9, |b| b.regions[9].value = 63 * 4096),
    (Rule::PayloadRange, 9, |b| b.regions[9].value = u64::MAX - 4095),
    (Rule::KernelLogTwice, 4, |b| b.regions[4].value = 0),
    (Rule::RamPages, 0, |b| b.header.ram_pages += 1),
    (Rule::MapRegion, 20, |b| b.maps[20].region = NONE),
    (Rule::MapRights, 20, |b| b.maps[20].rights = MAP_WRITE),
    (Rule::MapRights, 20, |b| b.maps[20].rights = 7),
    (Rule::MapRights, 20, |b| b.maps[20].rights = 17),
    (Rule::Reserved, 20, |b| b.maps[20].reserved[0] = 1),
    (Rule::MapKind, 16, |b| b.maps[16].rights = MAP_READ | MAP_WRITE),
    (Rule::MapKind, 20, |b| b.maps[20].rights = MAP_READ | MAP_EXEC),
    (Rule::MapKind, 16, |b| b.maps[16].rights = MAP_READ | MAP_EXEC),
    (Rule::MapKind, 17, |b| b.maps[17].rights = MAP_READ | MAP_EXEC),
    (Rule::MapKind, 14, |b| b.maps[14].rights = MAP_READ | MAP_WRITE),
    (Rule::MapKind, 6, |b| b.maps[6].rights = MAP_READ | MAP_WRITE),
    (Rule::MapKind, 32, |b| b.maps[32].rights = MAP_READ | MAP_WRITE),
    (Rule::MapRange, 20, |b| b.maps[20].va += 8),
    (Rule::MapRange, 20, |b| b.maps[20].va = layout::FRAME),
    (Rule::MapRange, 20, |b| b.maps[20].va = layout::IO_BITMAP),
    (Rule::MapRange, 21, |b| b.maps[21].va = layout::USER_END - 4096),
    (Rule::MapRange, 21, |b| b.maps[21].va = u64::MAX - 4095),
    (Rule::MapFixed, 20, |b| b.maps[20].va = layout::TASK_INFO + 4096),
    (Rule::MapFixed, 20, |b| b.maps[20].va = layout::SYSTEM_PAGE + 4096),
    (Rule::MapFixed, 20, |b| b.maps[20].va = layout::STACK_TOP),
    (Rule::MapFixed, 16, |b| b.maps[16].va = 0x50_0000),
    (Rule::MapFixed, 15, |b| b.maps[15].rights = MAP_READ | MAP_EXEC),
    (Rule::MapFixed, 17, |b| b.maps[17].va -= 4096),
    (Rule::MapFixed, 31, |b| b.maps[31].va = 0x41_a000),
    (Rule::MapOverlap, 14, |b| b.maps[20].va = layout::IMAGE + 4096),
    (Rule::MapOverlap, 20, |b| b.maps[21].va = b.maps[20].va - 4096),
    (Rule::MapOwner, 22, |b| b.devices[0].owner = 3),
    (Rule::MapOwner, 31, |b| b.maps[31].region = 1),
    (Rule::MapOwner, 31, |b| b.maps[31].region = 2),
    (Rule::CapRights, 5, |b| b.caps[5].kind = 7),
    (Rule::CapRights, 5, |b| b.caps[5].kind = 255),
    (Rule::CapRights, 5, |b| b.caps[5].rights = 3),
    (Rule::CapRights, 5, |b| b.caps[5].rights = 0),
    (Rule::CapRights, 0, |b| b.caps[0].rights = 16),
    (Rule::CapRights, 1, |b| b.caps[1].rights = 4),
    (Rule::CapRights, 6, |b| b.caps[6].rights = 1),
    (Rule::Reserved, 5, |b| b.caps[5].reserved = 1),
    (Rule::CapObject, 5, |b| b.caps[5].object = 5),
    (Rule::CapObject, 0, |b| b.caps[0].object = 4),
    (Rule::CapObject, 2, |b| b.caps[2].object = 2),
    (Rule::CapObject, 4, |b| b.caps[4].object = 2),
    (Rule::CapObject, 5, |b| b.caps[5] = cap(CapKind::Irq, 1, 0, 0)),
    (Rule::CapObject, 5, |b| b.caps[5] = cap(CapKind::Device, 1, 0, 0)),
    (Rule::CapObject, 1, |b| b.caps[1].object = 1),
    (Rule::CapBit, 5, |b| b.caps[5].bit = 48),
    (Rule::CapBit, 0, |b| b.caps[0].bit = 1),
    (Rule::CapBitTwice, 5, |b| b.caps[1] = cap(CapKind::Thread, 1, 5, 2)),
    (Rule::CapBitTwice, 5, |b| b.caps[5] = cap(CapKind::Thread, 1, 3, 1)),
    (Rule::PortRange, 2, |b| b.ports[2].count = 0),
    (Rule::PortRange, 2, |b| b.ports[2].first = 0xfff1),
    (Rule::PortRange, 2, |b| b.ports[2].count = u16::MAX),
    (Rule::PortOverlap, 1, |b| b.ports[2].first = 0x64),
    (Rule::PortConfig, 2, |b| b.ports[2].first = 0xcf1),
    (Rule::PortConfig, 1, |b| b.ports[1].first = 0xcff),
    (Rule::Device, 0, |b| b.devices[0].kind = 5),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.nth = 0)),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.select = 1)),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.select = 2)),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.select = u32::MAX)),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.flags = 0)),
    (Rule::Device, 2, |b| virtual_function(b, |device| device.flags |= DEVICE_PHYSICAL)),
    (Rule::Device, 0, |b| b.devices[0].kind = DEVICE_PCI_POSITION),
    (Rule::Device, 0, |b| b.devices[0].kind = DEVICE_PCI_CLASS),
    (Rule::Device, 1, |b| b.devices[1].flags = DEVICE_BUS_MASTER),
    (Rule::Reserved, 1, |b| b.devices[1].reserved2[1] = 1),
    (Rule::DeviceOwner, 0, |b| b.devices[0].owner = 4),
    (Rule::DeviceTwice, 1, |b| b.devices[1] = Device { name: name("x"), ..b.devices[0] }),
    (Rule::Reserved, 1, |b| b.irqs[1].reserved2 = 1),
    (Rule::IrqOwner, 0, |b| b.irqs[0].device = 2),
    (Rule::IrqOwner, 0, |b| b.irqs[0].thread = 5),
    (Rule::IrqOwner, 0, |b| b.irqs[0].thread = 1),
    (Rule::IrqCore, 0, |b| b.irqs[0].thread = 3),
    (Rule::IrqBit, 0, |b| b.irqs[0].bit = 47),
    (Rule::IrqBit, 1, |b| b.irqs[1].bit = 56),
    (Rule::IrqBitTwice, 1, |b| b.irqs[1].bit = 48),
    (Rule::IrqPin, 1, |b| b.irqs[1] = Irq { bit: 55, ..b.irqs[0] }),
    (Rule::IrqPin, 2, |b| {
        b.devices.push(Device { name: name("x"), ..b.devices[1] });
        b.irqs.push(Irq { device: 2, bit: 54, ..b.irqs[1] });
    }),
    (Rule::IrqMessage, 0, |b| b.irqs[0].pin = 256),
    (Rule::IrqMessage, 0, |b| b.devices[0].flags = DEVICE_BUS_MASTER),
    (Rule::IrqMessage, 0, |b| b.devices[0].flags = DEVICE_BUS_MASTER | DEVICE_MSI),
    (Rule::IrqCore, 1, |b| b.irqs[1].thread = 3),
    (Rule::IrqCore, 2, |b| far_device(b, DEVICE_PLATFORM)),
    (Rule::DeviceMaster, 0, |b| b.devices[0].flags = DEVICE_MSIX),
    (Rule::DeviceMaster, 0, |b| b.devices[0].flags |= DEVICE_MSI),
    (Rule::DeviceMaster, 0, |b| b.devices[0].owner = 0),
    (Rule::DeviceMaster, 0, |b| b.devices[0].owner = 1),
    (Rule::DeviceMaster, 1, |b| b.devices[1].flags = DEVICE_MSI),
    (Rule::MapDma, 14, |b| b.maps[14].rights |= MAP_DMA),
    (Rule::MapDma, 17, |b| b.maps[17].rights |= MAP_DMA),
    (Rule::MapDma, 18, |b| b.maps[18].rights |= MAP_DMA),
    (Rule::MapDma, 21, |b| b.maps[21].rights |= MAP_DMA),
    (Rule::MapDma, 22, |b| b.maps[22].rights |= MAP_DMA),
    (Rule::MapDma, 30, |b| b.maps[30].rights |= MAP_DMA),
    (Rule::MapRights, 20, |b| b.maps[20].rights |= 16),
    (Rule::Flags, 0, |b| b.devices[0].flags |= 32),
    (Rule::IrqRate, 0, |b| b.irqs[0].rate_max = 0),
];

fn too_many_threads(build: &mut Build) {
    let last = build.threads[4];
    let more = (1..33).map(|index| Thread { index, ..last });
    build.threads.extend(more);
    // 33 + 1 on core 1: the 33rd is refused.
    build.threads.truncate(3 + 33);
}

/// Rules about the head's own layout fields, which the builder always sets right.
const LAYOUT_RULES: [Rule; 2] = [Rule::Length, Rule::Section];

#[test]
fn each_rule_refuses_what_it_is_for() {
    let mut failed = Vec::new();
    let with_vm = WRONG_VM.iter().map(|wrong| (Build::with_vm(), wrong));
    let all = WRONG.iter().map(|wrong| (Build::sample(), wrong)).chain(with_vm);
    for (place, (mut build, (rule, index, make_wrong))) in all.enumerate() {
        make_wrong(&mut build);
        let found = validate(build.bytes().bytes());
        if found != Err(TableError { rule: *rule, index: *index }) {
            failed.push(format!("case {place}, {rule:?} at {index}: found {found:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let rules = WRONG.iter().chain(WRONG_VM).map(|(rule, _, _)| *rule).chain(LAYOUT_RULES);
    let rules: HashSet<String> = rules.map(|rule| format!("{rule:?}")).collect();
    assert_eq!(rules.len(), Rule::COUNT, "a rule has no case");
}

#[test]
fn sections_lie_within_the_table_one_behind_the_other() {
    let with = |change: fn(&mut Header)| {
        let mut bytes = Build::sample().bytes();
        let (header, _) = zerocopy::FromBytes::mut_from_prefix(bytes.bytes_mut()).unwrap();
        change(header);
        validate(bytes.bytes()).unwrap_err()
    };
    let at = |rule, index| TableError { rule, index };
    assert_eq!(with(|h| h.len += 8), at(Rule::Length, 0));
    assert_eq!(with(|h| h.tasks.offset = 0), at(Rule::Section, 0));
    assert_eq!(with(|h| h.maps.offset += 4), at(Rule::Section, 3));
    assert_eq!(with(|h| h.irqs.offset = h.len - 16), at(Rule::Section, 7));
    assert_eq!(with(|h| h.irqs.offset = u32::MAX - 7), at(Rule::Section, 7));
    assert_eq!(with(|h| h.caps.offset += 8), at(Rule::Section, 4));
    assert_eq!(with(|h| h.caps.count -= 1), at(Rule::Section, 5));
    assert_eq!(with(|h| h.doorbells.count += 100), at(Rule::Section, 11));
    assert_eq!(with(|h| h.caps.count = u32::MAX), at(Rule::Count, 4));
    assert_eq!(with(|h| h.caps.offset = h.tasks.offset + 8), at(Rule::Section, 4));
}

#[test]
fn configuration_space_may_be_read() {
    let mut build = Build::sample();
    build.regions[5].value = BAR_CONFIG << 32;
    build.maps[22].rights = MAP_READ;
    assert!(validate(build.bytes().bytes()).is_ok());
}

#[test]
fn misaligned_bytes_are_refused() {
    let bytes = Build::with_vm().bytes();
    let mut shifted = vec![0];
    shifted.extend(bytes.bytes());
    let shifted = Aligned::new(&shifted);
    assert_eq!(validate(&shifted.bytes()[1..]).unwrap_err().rule, Rule::Header);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = Build::with_vm().bytes();
    for len in 0..bytes.bytes().len() {
        assert!(validate(&bytes.bytes()[..len]).is_err(), "{len} bytes were accepted");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let mut bytes = Build::with_vm().bytes();
    let mut refused = 0;
    let bits = bytes.bytes().len() * 8;
    for bit in 0..bits {
        bytes.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        refused += usize::from(refused_or_right(bytes.bytes()));
        bytes.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
    }
    println!("{refused} of {bits} flips are refused");
    assert!(refused * 2 > bits, "only {refused} of {bits} flips are refused");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn mutated_tables_are_refused_or_right(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![
                Just(0u32), Just(1), Just(u32::MAX), 0u32..64, any::<u32>(),
            ], 1usize..=4),
            1..4,
        ),
    ) {
        let mut bytes = Build::with_vm().bytes();
        for (at, value, width) in changes {
            let at = at.index(bytes.bytes().len() - width);
            bytes.bytes_mut()[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        refused_or_right(bytes.bytes());
    }

    #[test]
    fn shuffled_records_are_refused_or_right(
        swaps in prop::collection::vec((0usize..12, any::<[prop::sample::Index; 2]>()), 1..4),
        moved in prop::option::of((any::<prop::sample::Index>(), 0x404u64..0x480)),
    ) {
        let mut build = Build::with_vm();
        for (section, [a, b]) in swaps {
            fn swap<T>(records: &mut [T], a: prop::sample::Index, b: prop::sample::Index) {
                records.swap(a.index(records.len()), b.index(records.len()));
            }
            match section {
                0 => swap(&mut build.tasks, a, b),
                1 => swap(&mut build.threads, a, b),
                2 => swap(&mut build.regions, a, b),
                3 => swap(&mut build.maps, a, b),
                4 => swap(&mut build.caps, a, b),
                5 => swap(&mut build.ports, a, b),
                6 => swap(&mut build.devices, a, b),
                7 => swap(&mut build.irqs, a, b),
                8 => swap(&mut build.vms, a, b),
                9 => swap(&mut build.vcpus, a, b),
                10 => swap(&mut build.guest_maps, a, b),
                _ => swap(&mut build.doorbells, a, b),
            }
        }
        if let Some((which, page)) = moved {
            let count = build.maps.len();
            build.maps[which.index(count)].va = page * 4096;
        }
        refused_or_right(build.bytes().bytes());
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(validate(Aligned::new(&bytes).bytes()).is_err());
    }

    #[test]
    fn arbitrary_records_behind_a_right_head_are_refused_or_right(
        seed in prop::collection::vec(any::<u8>(), 8192),
        from in 168usize..8192,
    ) {
        let mut bytes = Build::with_vm().bytes();
        let len = bytes.bytes().len();
        let from = from.min(len);
        bytes.bytes_mut()[from..].copy_from_slice(&seed[..len - from]);
        refused_or_right(bytes.bytes());
    }
}

#[test]
fn the_largest_table_is_checked_in_reasonable_time() {
    let mut build = Build::with_vm();
    // As many disjoint maps in one task as a table can hold: the quadratic check at its worst.
    let ram = build.regions.len();
    build.regions.push(region(RegionKind::Ram, 0, 1));
    build.header.ram_pages += 1;
    let room = layout::MAX_MAPS - build.maps.len();
    build.maps.extend((0..room as u64).map(|n| map(0x100_0000 + n * 4096, ram, MAP_READ)));
    build.tasks[4].maps += room as u16;
    // And as many maps in one guest, all of them of one region.
    let segments = build.guest_maps[1];
    let room = layout::MAX_GUEST_MAPS - build.guest_maps.len();
    let more = (0..room as u64).map(|n| GuestMap { gpa: 0x8000_0000 + n * 8192, ..segments });
    build.guest_maps.extend(more);
    build.vms[0].maps += room as u16;
    let began = std::time::Instant::now();
    assert_eq!(validate(build.bytes().bytes()), Ok(()));
    assert!(began.elapsed().as_secs() < 2);
}
