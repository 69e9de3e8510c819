//! The MCFG: where configuration space is mapped.
//!
//! PCI Firmware Specification 3.3, "MCFG Table Description".

use crate::acpi::{Damaged, Table};
use crate::bytes::{u8_at, u16_at, u64_at};

/// Bytes between header and entries, which are reserved.
const FIXED: usize = 8;
/// Bytes of an entry.
const ENTRY: usize = 16;
/// Bytes of a bus.
const BUS: u64 = 1 << 20;

/// The mapped configuration space of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address for bus 0, whether or not that bus is there.
    pub base: u64,
    /// The first bus that is there.
    pub first: u8,
    /// The last one.
    pub last: u8,
}

impl Ecam {
    /// Where a function's register is, from [`Ecam::base`] on; `None` if its bus is not there.
    pub fn offset(&self, at: crate::pci::Address, register: u16) -> Option<u64> {
        let bus = (at >> 8) as u8;
        let is_there = (self.first..=self.last).contains(&bus) && register < 0x1000;
        is_there.then_some(u64::from(at) << 12 | u64::from(register))
    }
}

/// The configuration space of segment 0, if the table lists it.
pub fn segment_0(table: &Table<'_>) -> Result<Option<Ecam>, Damaged> {
    let damaged = Damaged(table.signature);
    let entries = table.body().get(FIXED..).ok_or(damaged)?;
    if !entries.len().is_multiple_of(ENTRY) {
        return Err(damaged);
    }
    let is_first = |entry: &&[u8]| u16_at(entry, 8) == Some(0);
    let Some(entry) = entries.chunks_exact(ENTRY).find(is_first) else {
        return Ok(None);
    };
    let base = u64_at(entry, 0).ok_or(damaged)?;
    let (first, last) = (u8_at(entry, 10).ok_or(damaged)?, u8_at(entry, 11).ok_or(damaged)?);
    let end = base.checked_add((u64::from(last) + 1) * BUS);
    if base == 0 || !base.is_multiple_of(BUS) || first > last || end.is_none() {
        return Err(damaged);
    }
    Ok(Some(Ecam { base, first, last }))
}
