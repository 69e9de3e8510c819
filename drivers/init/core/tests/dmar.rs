//! The DMAR: units, sources of interrupt controllers, reserved functions; and tables that lie.

use cloister_init_core::acpi::{self, Damaged};
use cloister_init_core::dmar::{self, IOAPICS_MAX, Kind, RESERVED_MAX, Scoped, Summary, UNITS_MAX};
use cloister_init_core::pci::{Address, Config, Functions};
use proptest::prelude::*;

/// Functions at fixed places: a bridge at 00:1c.0 to bus 3, another behind it at 03:00.0 to bus 4,
/// endpoints at 00:02.0, 00:1f.0 and in every slot of bus 4.
struct Machine;

impl Config for Machine {
    fn read(&mut self, at: Address, register: u8) -> u32 {
        let bridge_to = match at {
            0x00e0 => Some(3),
            0x0300 => Some(4),
            0x0010 | 0x00f8 => None,
            _ if at >> 8 == 4 && at & 7 == 0 => None,
            _ => return u32::MAX,
        };
        match (register, bridge_to) {
            (0, _) => 0x1234_8086,
            (0x0c, Some(_)) => 1 << 16,
            (0x18, Some(bus)) => bus << 8,
            _ => 0,
        }
    }

    fn read_extended(&mut self, _at: Address, _register: u16) -> Option<u32> {
        None
    }

    fn write_extended(&mut self, _at: Address, _register: u16, _value: u32) {}
}

fn table(records: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; acpi::HEADER_LEN];
    bytes[..4].copy_from_slice(b"DMAR");
    bytes[8] = 1;
    bytes.extend([38, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(records);
    resealed(bytes)
}

/// The same with the length and the sum that it needs.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes[9] = 0;
    bytes[9] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

fn record(kind: u16, head: &[u8], scopes: &[Vec<u8>]) -> Vec<u8> {
    let body = [head, &scopes.concat()].concat();
    let len = body.len() as u16 + 4;
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), &body].concat()
}

fn unit(base: u64, segment: u16, flags: u8, scopes: &[Vec<u8>]) -> Vec<u8> {
    let [low, high] = segment.to_le_bytes();
    record(0, &[&[flags, 0, low, high][..], &base.to_le_bytes()].concat(), scopes)
}

fn reserved(segment: u8, scopes: &[Vec<u8>]) -> Vec<u8> {
    let range = [0xdf00_0000u64.to_le_bytes(), 0xdf1f_ffffu64.to_le_bytes()].concat();
    record(1, &[&[0, 0, segment, 0][..], &range].concat(), scopes)
}

fn scope(kind: u8, id: u8, bus: u8, path: &[u8]) -> Vec<u8> {
    [&[kind, 6 + path.len() as u8, 0, 0, id, bus][..], path].concat()
}

fn sample() -> Vec<u8> {
    let ioapic = scope(3, 8, 0xff, &[0, 0]);
    let behind = scope(3, 9, 0, &[0x1c, 0, 0, 0, 5, 0]);
    table(
        &[
            unit(0xfed9_0000, 0, 0, &[scope(1, 0, 0, &[2, 0])]),
            unit(0xfed9_1000, 0, 1, &[ioapic, behind, scope(4, 0, 0xff, &[1, 0])]),
            unit(0xfed9_2000, 1, 1, &[scope(3, 77, 0, &[3, 0])]),
            reserved(0, &[scope(1, 0, 0, &[2, 0]), scope(1, 0, 0, &[9, 0])]),
            reserved(1, &[scope(1, 0, 0, &[0x1f, 0])]),
            record(2, &[0, 0, 0, 0], &[scope(2, 0, 0, &[0x1c, 0])]),
            record(9, &[1, 2, 3], &[]),
        ]
        .concat(),
    )
}

fn summary(bytes: &[u8]) -> Result<Summary, Damaged> {
    let functions = Functions::enumerate(&mut Machine);
    Summary::read(&acpi::table(bytes).unwrap(), &functions, &mut Machine)
}

#[test]
fn units_and_sources_of_segment_0_are_read() {
    let found = summary(&sample()).unwrap();
    assert_eq!(found.units.values(), [0xfed9_0000, 0xfed9_1000]);
    assert_eq!(found.source(8), Some(0xff00), "QEMU's place for it");
    assert_eq!(found.source(9), Some(0x0428), "through two bridges");
    assert_eq!((found.source(0), found.source(77)), (None, None), "an HPET; another segment");
    assert_eq!(found.reserved.values(), [0x0010], "what exists of what is listed");
    assert!(!found.is_partial);
    assert!(dmar::remaps_interrupts(&acpi::table(&sample()).unwrap()));
}

#[test]
fn everything_behind_a_reserved_bridge_is_reserved() {
    let bytes = table(&reserved(0, &[scope(2, 0, 0, &[0x1c, 0])]));
    let found = summary(&bytes).unwrap();
    // 32 slots of bus 4 and two bridges are more than the list has room for.
    assert_eq!(found.reserved.values().len(), RESERVED_MAX);
    assert!(found.is_partial && found.reserved.values().starts_with(&[0x00e0, 0x0300, 0x0400]));
    let bytes = table(&reserved(0, &[scope(2, 0, 3, &[7, 0])]));
    assert_eq!(summary(&bytes).unwrap().reserved.values(), [], "no such bridge");
}

#[test]
fn more_than_there_is_room_for_and_paths_that_lead_nowhere_are_told() {
    let units = |count: u64| {
        let records = (0..count).map(|n| unit(0x10_0000 + (n << 12), 0, 0, &[]));
        summary(&table(&records.collect::<Vec<_>>().concat())).unwrap()
    };
    let (most, over) = (units(UNITS_MAX as u64), units(UNITS_MAX as u64 + 1));
    assert_eq!((most.is_partial, over.is_partial), (false, true));
    assert_eq!((most.units.values().len(), over.units.values().len()), (UNITS_MAX, UNITS_MAX));
    let doubled = table(&[unit(0x10_0000, 0, 0, &[]), unit(0x10_0000, 0, 1, &[])].concat());
    assert_eq!(summary(&doubled).unwrap().units.values(), [0x10_0000]);
    let ioapics = |count: u8| {
        let scopes: Vec<_> = (0..count).map(|n| scope(3, n, 0xff, &[0, 0])).collect();
        summary(&table(&unit(0x10_0000, 0, 1, &scopes))).unwrap().is_partial
    };
    assert_eq!((ioapics(IOAPICS_MAX as u8), ioapics(IOAPICS_MAX as u8 + 1)), (false, true));
    for path in [&[32, 0][..], &[0, 8], &[0x1c, 0, 9, 0, 0, 0], &[2, 0, 0, 0]] {
        let bytes = table(&unit(0x10_0000, 0, 1, &[scope(3, 1, 0, path)]));
        let found = summary(&bytes).unwrap();
        assert!(found.is_partial && found.source(1).is_none(), "{path:?}");
    }
}

#[test]
fn records_and_scopes_that_lie_about_their_length_are_damage() {
    let sound = || unit(0x10_0000, 0, 1, &[]);
    let with = |record: Vec<u8>| table(&[sound(), record, sound()].concat());
    let scoped = |scope: Vec<u8>| with(unit(0x20_0000, 0, 0, &[scope]));
    let mut long = sound();
    long[2] += 1;
    let mut long_scope = scope(1, 0, 0, &[1, 0]);
    long_scope[1] = 10;
    for (bytes, what) in [
        (with(long), "a record beyond the table"),
        (with(vec![9, 0, 0, 0]), "a length of zero"),
        (with(vec![9, 0, 3, 0]), "shorter than its head"),
        (with(vec![9, 0]), "cut off"),
        (with(record(0, &[0; 11], &[])), "a unit without its address"),
        (with(record(1, &[0; 19], &[])), "a region without its end"),
        (with(unit(0, 0, 0, &[])), "registers at zero"),
        (with(unit(0x20_0800, 0, 0, &[])), "registers within a page"),
        (scoped(scope(1, 0, 0, &[])), "a scope without a path"),
        (scoped(long_scope), "a scope beyond its record"),
        (scoped(scope(1, 0, 0, &[1, 0, 2])), "half a step"),
        (scoped(vec![1]), "a scope cut off"),
        (with(reserved(1, &[vec![1, 0]])), "another segment's scope"),
    ] {
        assert_eq!(summary(&bytes), Err(Damaged(*b"DMAR")), "{what}");
        let read = acpi::table(&bytes).map(|table| dmar::structures(&table).unwrap().count());
        assert!(read.unwrap() == 2, "{what}: damage ends the reading");
    }
    let cut = resealed(table(&[])[..acpi::HEADER_LEN + 11].to_vec());
    assert_eq!(summary(&cut), Err(Damaged(*b"DMAR")));
}

#[test]
fn kinds_of_records_and_scopes_are_told_apart() {
    let bytes = sample();
    let table = acpi::table(&bytes).unwrap();
    let all: Vec<_> = dmar::structures(&table).unwrap().map(Result::unwrap).collect();
    assert_eq!(all[0].kind, Kind::Unit { base: 0xfed9_0000, covers_rest: false });
    assert_eq!(all[1].kind, Kind::Unit { base: 0xfed9_1000, covers_rest: true });
    assert_eq!(all[3].kind, Kind::Reserved { base: 0xdf00_0000, limit: 0xdf1f_ffff });
    assert_eq!((all[5].kind, all[5].scopes().count()), (Kind::Other, 0));
    let kinds: Vec<_> = all[1].scopes().map(|scope| scope.unwrap().kind).collect();
    assert_eq!(kinds, [Scoped::IoApic, Scoped::IoApic, Scoped::Hpet]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// A right sum and a wrong content: nothing panics, nothing runs on, and what is found is
    /// within its bounds.
    #[test]
    fn damage_behind_a_right_sum_is_survived(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = sample();
        bytes.truncate(acpi::HEADER_LEN + cut.index(bytes.len() - acpi::HEADER_LEN + 1));
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes[..4].copy_from_slice(b"DMAR");
        if let Ok(found) = summary(&resealed(bytes)) {
            prop_assert!(found.units.values().iter().all(|base| base % 4096 == 0 && *base != 0));
            prop_assert!(found.ioapics.values().len() <= IOAPICS_MAX);
            prop_assert!(found.reserved.values().len() <= RESERVED_MAX);
        }
    }

    #[test]
    fn noise_is_survived(records in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = table(&records);
        let _ = summary(&bytes);
        let read = dmar::structures(&acpi::table(&bytes).unwrap());
        prop_assert!(read.unwrap().count() <= records.len() / 4 + 1);
    }
}
