//! Scans of disks that the `gpt` crate made, whole and damaged.

use std::io::Cursor;

use cloister_volume::{Broken, Extent, Found, Scan};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use proptest::prelude::*;

const BYTES: usize = 4 << 20;
const LAST: fn(usize) -> usize = |size| BYTES / size - 1;

/// A disk with partitions of these names and MiB sizes, and where they are by the crate's word.
fn disk(size: usize, wanted: &[(&str, u64)]) -> (Vec<u8>, Vec<Extent>) {
    let block = if size == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let device = Cursor::new(vec![0; BYTES]);
    let config = GptConfig::new().writable(true).logical_block_size(block);
    let mut disk = config.create_from_device(device, None).unwrap();
    for (name, kib) in wanted {
        disk.add_partition(name, kib << 10, gpt::partition_types::LINUX_FS, 0, None).unwrap();
    }
    let extents = disk.partitions().values().map(|partition| Extent {
        first: partition.first_lba,
        blocks: partition.last_lba - partition.first_lba + 1,
    });
    let extents = extents.collect();
    (disk.write().unwrap().into_inner(), extents)
}

/// Scans, at most as many blocks as two tables can have.
fn scan(bytes: &[u8], size: usize) -> Scan {
    let blocks = bytes.len() / size;
    let mut scan = Scan::new(size as u32, blocks as u64);
    for _ in 0..5000 {
        let Some(wanted) = scan.wanted() else { return scan };
        assert!(wanted < blocks as u64, "block {wanted} of {blocks}");
        scan.give(bytes.chunks(size).nth(wanted as usize));
    }
    panic!("the scan does not end");
}

fn broken(scan: &Scan) -> Option<Broken> {
    scan.table().expect("the scan has ended").err()
}

#[test]
fn partitions_are_found_by_name_on_both_kinds_of_disks() {
    for size in [512, 4096] {
        let names = [("root", 512), ("data", 1024), ("wäb-größe", 256)];
        let (bytes, extents) = disk(size, &names);
        let scan = scan(&bytes, size);
        let (table, primary) = scan.table().unwrap().unwrap();
        assert_eq!((table.len(), primary), (3, None), "{size}");
        for ((name, kib), extent) in names.iter().zip(extents) {
            assert_eq!(table.find(name), Found::One(extent), "{size} {name}");
            assert_eq!(extent.blocks * size as u64, kib << 10);
        }
        for name in ["", "roo", "roott", "Root"] {
            assert_eq!(table.find(name), Found::Nothing, "{name}");
        }
    }
}

#[test]
fn two_of_one_name_are_several() {
    let (bytes, _) = disk(512, &[("data", 64), ("data", 64)]);
    let scan = scan(&bytes, 512);
    assert_eq!(scan.table().unwrap().unwrap().0.find("data"), Found::Several);
}

#[test]
fn the_copy_is_used_when_the_first_table_is_broken() {
    for size in [512, 4096] {
        let (whole, extents) = disk(size, &[("data", 256)]);
        for (at, expected) in [
            (size, Broken::NoSignature),
            (size + 40, Broken::HeaderChecksum),
            (2 * size + 60, Broken::EntriesChecksum),
        ] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let found = scan(&bytes, size);
            let (table, primary) = found.table().unwrap().unwrap();
            assert_eq!(primary, Some(expected));
            assert_eq!(table.find("data"), Found::One(extents[0]));
            bytes[LAST(size) * size + 40] ^= 1;
            assert_eq!(broken(&scan(&bytes, size)), Some(expected), "the first is told of");
        }
    }
}

/// Changes a table and makes its checksums right again.
fn forged(change: impl Fn(&mut [u8], &mut [u8])) -> Option<Broken> {
    let (mut bytes, _) = disk(512, &[("a", 64), ("b", 64)]);
    let (head, entries) = bytes.split_at_mut(1024);
    let header = &mut head[512..];
    change(header, &mut entries[..128 * 128]);
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let sum = crc.checksum(&entries[..128 * 128]);
    header[88..92].copy_from_slice(&sum.to_le_bytes());
    header[16..20].fill(0);
    let size = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
    let sum = crc.checksum(&header[..size.min(512)]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    bytes[LAST(512) * 512] ^= 1;
    broken(&scan(&bytes, 512))
}

#[test]
fn tables_that_lie_are_refused_by_name() {
    assert_eq!(forged(|_, _| {}), None);
    for (at, value, expected) in [
        (12, 91, Broken::HeaderSize),
        (12, 513, Broken::HeaderSize),
        (12, u32::MAX, Broken::HeaderSize),
        (80, 0, Broken::Entries),
        (80, u32::MAX, Broken::Entries),
        (84, 64, Broken::Entries),
        (84, 192, Broken::Entries),
        (84, 1024, Broken::Entries),
    ] {
        let found = forged(|header, _| header[at..at + 4].copy_from_slice(&value.to_le_bytes()));
        assert_eq!(found, Some(expected), "{value:#x} at {at}");
    }
    for (at, value, expected) in [
        (24, 2u64, Broken::WrongPlace),
        (40, 1, Broken::Bounds),
        (40, 10, Broken::Bounds),
        (48, 8192, Broken::Bounds),
        (48, u64::MAX, Broken::Bounds),
        (48, 0, Broken::Bounds),
        (72, 1, Broken::Bounds),
        (72, u64::MAX, Broken::Bounds),
        (72, 8190, Broken::Bounds),
    ] {
        let found = forged(|header, _| header[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        assert_eq!(found, Some(expected), "{value:#x} at {at}");
    }
    for (at, value) in [(32, 33u64), (40, u64::MAX), (40, 0)] {
        let found = forged(|_, entries| entries[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        assert_eq!(found, Some(Broken::Outside), "{value:#x} at {at}");
    }
    let found = forged(|_, entries| entries.copy_within(0..128, 256));
    assert_eq!(found, Some(Broken::Overlap));
}

#[test]
fn disks_that_cannot_have_a_table() {
    for (size, blocks) in [(512, 5), (0, 100), (513, 100), (8192, 100), (256, 100)] {
        let scan = Scan::new(size, blocks);
        assert_eq!((scan.wanted(), broken(&scan)), (None, Some(Broken::Disk)));
    }
    let mut scan = Scan::new(512, 6);
    while scan.wanted().is_some() {
        scan.give(None);
    }
    assert_eq!(broken(&scan), Some(Broken::Unreadable));
    let mut scan = Scan::new(512, 6);
    while scan.wanted().is_some() {
        scan.give(Some(&[0; 511]));
    }
    assert_eq!(broken(&scan), Some(Broken::Unreadable));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_do_harm(
        damage in prop::collection::vec((0usize..34 * 512, any::<u8>()), 1..20),
        behind in prop::collection::vec((1usize..34 * 512, any::<u8>()), 0..20),
        size in prop::sample::select(vec![512usize, 4096]),
    ) {
        let (mut bytes, _) = disk(size, &[("a", 64), ("b", 64)]);
        for (at, value) in damage {
            bytes[at] = value;
        }
        for (at, value) in behind {
            bytes[BYTES - at] = value;
        }
        let scan = scan(&bytes, size);
        if let Ok((table, _)) = scan.table().unwrap() {
            for name in ["a", "b"] {
                if let Found::One(Extent { first, blocks }) = table.find(name) {
                    prop_assert!(first + blocks <= (BYTES / size) as u64 && first > 1);
                }
            }
        }
    }
}
