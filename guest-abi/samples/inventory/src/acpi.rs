//! ACPI tables, if the guest was given any (ACPI 6.5, "Root System Description Pointer").
//!
//! A program guest gets none; the same inventory then says so.

use cloister_guest_rt::memory;
use crc::{CRC_32_ISCSI, Crc};

use crate::report::Report;

/// Where firmware of a PC leaves the pointer, and how far apart it may lie.
const SEARCH: core::ops::Range<u64> = 0xe_0000..0x10_0000;
const STEP: u64 = 16;
const SIGNATURE: &[u8; 8] = b"RSD PTR ";
/// Bytes of a table's header, and of the pointer.
const HEADER: usize = 36;
/// Most tables, and most bytes of one.
const TABLES: usize = 32;
const TABLE_MAX: usize = 1 << 20;

const CHECK: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Reports each table's header and a checksum of the whole.
pub fn run(report: &mut Report) {
    let mut found = SEARCH.step_by(STEP as usize).filter(|&at| read::<8>(at) == Some(*SIGNATURE));
    let Some(pointer) = found.next() else {
        return report.line(format_args!("acpi none"));
    };
    let root = read::<8>(pointer + 24).map_or(0, u64::from_le_bytes);
    let len = table(report, root);
    let entries = len.saturating_sub(HEADER) / 8;
    for entry in 0..entries.min(TABLES) {
        let at = root + (HEADER + entry * 8) as u64;
        table(report, read::<8>(at).map_or(0, u64::from_le_bytes));
    }
}

/// Reports a table; returns its length, 0 if it is none.
fn table(report: &mut Report, at: u64) -> usize {
    let Some(header) = read::<HEADER>(at) else {
        report.line(format_args!("acpi table at {at:#x} outside memory"));
        return 0;
    };
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut check = CHECK.digest();
    for offset in 0..len.min(TABLE_MAX) {
        check.update(&read::<1>(at + offset as u64).unwrap_or_default());
    }
    let name = core::str::from_utf8(&header[..4]).unwrap_or("????");
    report.line(format_args!("acpi {name} at {at:#x} len {len} crc {:08x}", check.finalize()));
    len
}

fn read<const N: usize>(at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    memory::read(at, &mut bytes).then_some(bytes)
}
