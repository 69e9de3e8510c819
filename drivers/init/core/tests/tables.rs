//! Firmware tables: what they say when they are right, and every way of cutting and flipping them.

use cloister_init_core::acpi::{self, Damaged, Root, Table};
use cloister_init_core::fadt::{self, Power};
use cloister_init_core::madt::{self, Entry};
use cloister_init_core::mcfg;
use proptest::prelude::*;

/// A table with a right length and sum.
fn made(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; acpi::HEADER_LEN];
    bytes[..4].copy_from_slice(signature);
    bytes[8] = revision;
    bytes.extend_from_slice(body);
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    sealed(bytes, 9)
}

/// Makes the sum zero with the byte at `place`.
fn sealed(mut bytes: Vec<u8>, place: usize) -> Vec<u8> {
    bytes[place] = 0;
    bytes[place] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

fn root_v2(list: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0OEMID_\x02".to_vec();
    bytes.extend_from_slice(&0x1234u32.to_le_bytes());
    bytes = sealed(bytes, 8);
    bytes.extend_from_slice(&36u32.to_le_bytes());
    bytes.extend_from_slice(&list.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    sealed(bytes, 32)
}

fn sample_madt() -> Vec<u8> {
    let mut body = vec![0; 8];
    let core = |id: u8, flags: u8| vec![0, 8, id, id, flags, 0, 0, 0];
    for (id, flags) in [(0, 1), (2, 1), (4, 0), (6, 2), (8, 1), (0xff, 1)] {
        body.extend(core(id, flags));
    }
    body.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
    body.extend([1, 12, 5, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0]);
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    made(b"APIC", 3, &body)
}

fn sample_fadt() -> Vec<u8> {
    let mut bytes = vec![0; 244 - acpi::HEADER_LEN];
    let mut put = |at: usize, value: &[u8]| {
        let at = at - acpi::HEADER_LEN;
        bytes[at..at + value.len()].copy_from_slice(value);
    };
    put(64, &0x604u32.to_le_bytes());
    put(108, &[0x32]);
    put(112, &(1u32 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
    put(128, &[0x0f]);
    put(172, &[1, 16, 0, 2, 4, 6, 0, 0, 0, 0, 0, 0]);
    made(b"FACP", 3, &bytes)
}

#[test]
fn root_pointers_of_both_versions_are_read() {
    let wide = root_v2(0x1_0000_0000);
    assert_eq!(acpi::root(&wide), Ok(Root { list: 0x1_0000_0000, is_wide: true }));
    assert_eq!(acpi::root(&root_v2(0)), Ok(Root { list: 0x1234, is_wide: false }));
    let mut first = wide[..20].to_vec();
    first[15] = 0;
    let narrow = Root { list: 0x1234, is_wide: false };
    assert_eq!(acpi::root(&sealed(first.clone(), 8)), Ok(narrow));
    let mut area = vec![0xaa; 4096];
    area[160..196].copy_from_slice(&wide);
    assert_eq!(acpi::find_root(&area), Some(Root { list: 0x1_0000_0000, is_wide: true }));
    assert_eq!(acpi::find_root(&area[8..]), None, "it is looked for at multiples of 16");
}

#[test]
fn lists_of_tables_have_entries_of_their_width() {
    let body: Vec<u8> = (1..=16).collect();
    let bytes = made(b"XSDT", 1, &body);
    let list = acpi::table(&bytes).unwrap();
    assert_eq!(list.entry(1, true), Some(0x100f_0e0d_0c0b_0a09));
    assert_eq!(list.entry(3, false), Some(0x100f_0e0d));
    assert_eq!((list.entry(2, true), list.entry(usize::MAX, true)), (None, None));
}

#[test]
fn cores_come_in_order_without_the_own_one_the_disabled_and_doubles() {
    let bytes = sample_madt();
    let table = acpi::table(&bytes).unwrap();
    assert_eq!(madt::other_cores::<4>(&table, 0), Ok(([2, 8, 0x12c, 0], 3)));
    assert_eq!(madt::other_cores::<2>(&table, 2), Ok(([0, 8], 2)));
}

#[test]
fn interrupt_controllers_and_overrides_are_read() {
    let bytes = sample_madt();
    let entries: Result<Vec<Entry>, Damaged> =
        madt::entries(&acpi::table(&bytes).unwrap()).collect();
    let entries = entries.unwrap();
    assert!(entries.contains(&Entry::IoApic { id: 5, address: 0xfec0_0000, gsi_base: 24 }));
    let timer = Entry::Override { source: 0, gsi: 2, is_low: false, is_level: false };
    let sci = Entry::Override { source: 9, gsi: 9, is_low: true, is_level: true };
    assert!(entries.contains(&timer) && entries.contains(&sci));
}

#[test]
fn an_entry_that_does_not_end_within_the_table_is_damage_told_once() {
    for entry in [
        &[0u8, 9, 1, 1, 1, 0, 0, 0][..],
        &[0, 1, 0],
        &[0, 0, 0],
        &[7],
        &[1, 4, 0, 0],
        &[200, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut body = vec![0; 8];
        body.extend_from_slice(entry);
        let bytes = made(b"APIC", 3, &body);
        let table = acpi::table(&bytes).unwrap();
        let mut entries = madt::entries(&table);
        let found: Vec<_> = entries.by_ref().take(10).collect();
        assert!(found.contains(&Err(Damaged(*b"APIC"))), "{entry:?} gives {found:?}");
        assert!(found.len() < 10 && entries.next().is_none());
        assert!(madt::other_cores::<4>(&table, 0).is_err());
    }
}

#[test]
fn power_registers_are_read_from_the_newer_fields_first() {
    let bytes = sample_fadt();
    let power = fadt::power(&acpi::table(&bytes).unwrap()).unwrap();
    let reset = Some((0xcf9, 0x0f));
    assert_eq!(power, Power { pm1a: Some(0x604), pm1b: None, reset, century: Some(0x32) });
}

#[test]
fn registers_that_are_no_ports_are_none() {
    let mut bytes = sample_fadt();
    bytes[116] = 0;
    bytes[172] = 0;
    let power = fadt::power(&acpi::table(&sealed(bytes.clone(), 9)).unwrap()).unwrap();
    assert_eq!((power.reset, power.pm1a), (None, Some(0x604)));
    bytes[64..68].copy_from_slice(&0x1_0604u32.to_le_bytes());
    let power = fadt::power(&acpi::table(&sealed(bytes, 9)).unwrap()).unwrap();
    assert_eq!(power.pm1a, None);
    let short = made(b"FACP", 1, &[0; 30]);
    let damaged = Err(Damaged(*b"FACP"));
    assert_eq!(fadt::power(&acpi::table(&short).unwrap()), damaged);
}

#[test]
fn units_of_amds_kind_are_counted() {
    let mut body = vec![0; 12];
    body.extend([0x10, 0xff, 4, 0, 0x11, 0, 4, 0, 0x20, 0, 4, 0]);
    let bytes = made(b"IVRS", 1, &body);
    assert_eq!(acpi::ivrs_units(&acpi::table(&bytes).unwrap()), Ok(2));
    let bytes = made(b"IVRS", 1, &[0; 16]);
    let damaged = Err(Damaged(*b"IVRS"));
    assert_eq!(acpi::ivrs_units(&acpi::table(&bytes).unwrap()), damaged, "a length of zero");
}

/// An entry of configuration space.
fn space(base: u64, segment: u16, first: u8, last: u8) -> Vec<u8> {
    let mut entry = base.to_le_bytes().to_vec();
    entry.extend(segment.to_le_bytes());
    entry.extend([first, last, 0, 0, 0, 0]);
    entry
}

fn sample_mcfg() -> Vec<u8> {
    let entries = [space(0xf000_0000, 1, 0, 255), space(0xb000_0000, 0, 2, 15)];
    made(b"MCFG", 1, &[vec![0; 8], entries.concat()].concat())
}

#[test]
fn configuration_space_of_segment_0_is_found() {
    let bytes = sample_mcfg();
    let found = mcfg::segment_0(&acpi::table(&bytes).unwrap()).unwrap().unwrap();
    assert_eq!((found.base, found.first, found.last), (0xb000_0000, 2, 15));
    assert_eq!(found.offset(0x0f20, 0x104), Some(0xf2_0104));
    assert_eq!((found.offset(0x0100, 0), found.offset(0x1000, 0)), (None, None));
    assert_eq!(found.offset(0x0f00, 0x1000), None);
    let none = made(b"MCFG", 1, &[vec![0; 8], space(0xf000_0000, 1, 0, 255)].concat());
    assert_eq!(mcfg::segment_0(&acpi::table(&none).unwrap()), Ok(None));
}

#[test]
fn configuration_space_that_cannot_be_is_damage() {
    for entry in [
        space(0, 0, 0, 255),
        space(0xb008_0000, 0, 0, 255),
        space(0xb000_0000, 0, 9, 8),
        space(u64::MAX << 20, 0, 0, 255),
        space(0xb000_0000, 0, 0, 255)[..15].to_vec(),
        vec![0; 8],
    ] {
        let bytes = made(b"MCFG", 1, &[vec![0; 8], entry.clone()].concat());
        let found = mcfg::segment_0(&acpi::table(&bytes).unwrap());
        assert_eq!(found, Err(Damaged(*b"MCFG")), "{entry:?}");
    }
    let short = made(b"MCFG", 1, &[0; 7]);
    assert!(mcfg::segment_0(&acpi::table(&short).unwrap()).is_err());
}

/// Everything that is done with a table.
fn consume(table: &Table<'_>) {
    let _ = madt::entries(table).count();
    let _ = madt::other_cores::<16>(table, 0);
    let _ = fadt::power(table);
    let _ = (acpi::ivrs_units(table), mcfg::segment_0(table));
    for nth in 0..100 {
        let _ = (table.entry(nth, true), table.entry(nth, false));
    }
}

#[test]
fn every_truncation_is_refused() {
    for bytes in [sample_madt(), sample_fadt(), sample_mcfg()] {
        for len in 0..bytes.len() {
            assert!(acpi::table(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
        }
    }
    let root = root_v2(1 << 32);
    for len in 0..root.len() {
        assert!(acpi::root(&root[..len]).is_err(), "{len}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for bytes in [sample_madt(), sample_fadt(), sample_mcfg()] {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(acpi::table(&flipped).is_err(), "bit {bit}");
        }
    }
    let root = root_v2(1 << 32);
    for bit in 0..root.len() * 8 {
        let mut flipped = root.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // The reserved bytes and the length belong to the second sum only.
        assert!(acpi::root(&flipped).is_err(), "bit {bit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// A table whose sum is right but whose content is not: nothing panics, nothing runs on.
    #[test]
    fn damage_behind_a_right_sum_is_survived(
        which in 0usize..3,
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = [sample_madt(), sample_fadt(), sample_mcfg()][which].clone();
        bytes.truncate(acpi::HEADER_LEN + cut.index(bytes.len() - acpi::HEADER_LEN + 1));
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        let bytes = sealed(bytes, 9);
        consume(&acpi::table(&bytes).unwrap());
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = acpi::root(&bytes);
        let _ = acpi::find_root(&bytes);
        if let Ok(table) = acpi::table(&bytes) {
            consume(&table);
        }
    }
}
