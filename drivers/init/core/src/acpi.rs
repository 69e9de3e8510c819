//! The frame of ACPI: root pointer, table headers, the list of tables.
//!
//! ACPI Specification 6.5, "Root System Description Pointer (RSDP)" and "System Description Table
//! Header". Invariant: a [`Table`] has exactly the bytes that its header claims, and their sum is
//! zero.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Bytes of a table's header.
pub const HEADER_LEN: usize = 36;
/// Bytes of the longest root pointer that is read.
pub const ROOT_LEN: usize = 36;
/// Longest table that is believed; a real one has a few KiB.
pub const TABLE_MAX: u32 = 256 << 10;
/// Root pointers lie at multiples of this in the BIOS areas.
const ROOT_ALIGN: usize = 16;
/// Bytes of a root pointer of ACPI 1.0.
const ROOT_LEN_V1: usize = 20;

/// A table's name.
pub type Signature = [u8; 4];

/// A table is cut short, has a wrong sum, or lies about its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub Signature);

/// What the root pointer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Physical address of the list of tables.
    pub list: u64,
    /// The list has 64-bit entries (XSDT), else 32-bit ones (RSDT).
    pub is_wide: bool,
}

const ROOT_SIGNATURE: &[u8; 8] = b"RSD PTR ";

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Reads a root pointer.
pub fn root(bytes: &[u8]) -> Result<Root, Damaged> {
    let damaged = Damaged(*b"RSDP");
    let first = bytes.get(..ROOT_LEN_V1).ok_or(damaged)?;
    if !first.starts_with(ROOT_SIGNATURE) || sum(first) != 0 {
        return Err(damaged);
    }
    let narrow = Root { list: u32_at(first, 16).ok_or(damaged)?.into(), is_wide: false };
    if u8_at(first, 15).ok_or(damaged)? < 2 {
        return Ok(narrow);
    }
    let all = bytes.get(..ROOT_LEN).ok_or(damaged)?;
    let wide = Root { list: u64_at(all, 24).ok_or(damaged)?, is_wide: true };
    if sum(all) != 0 {
        return Err(damaged);
    }
    Ok(if wide.list != 0 { wide } else { narrow })
}

/// Looks for a root pointer in a BIOS area.
pub fn find_root(area: &[u8]) -> Option<Root> {
    (0..area.len()).step_by(ROOT_ALIGN).find_map(|at| root(area.get(at..)?).ok())
}

/// A table, checked.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Its name.
    pub signature: Signature,
    /// Its revision.
    pub revision: u8,
    /// All of its bytes, with the header.
    pub bytes: &'a [u8],
}

/// Name and length of the table whose first [`HEADER_LEN`] bytes these are.
pub fn header(bytes: &[u8]) -> Result<(Signature, u32), Damaged> {
    let signature = *bytes.first_chunk().ok_or(Damaged(*b"????"))?;
    let len = u32_at(bytes, 4).ok_or(Damaged(signature))?;
    if !(HEADER_LEN as u32..=TABLE_MAX).contains(&len) {
        return Err(Damaged(signature));
    }
    Ok((signature, len))
}

/// Checks a whole table.
pub fn table(bytes: &[u8]) -> Result<Table<'_>, Damaged> {
    let (signature, len) = header(bytes)?;
    let damaged = Damaged(signature);
    let bytes = bytes.get(..len as usize).ok_or(damaged)?;
    if sum(bytes) != 0 {
        return Err(damaged);
    }
    Ok(Table { signature, revision: u8_at(bytes, 8).ok_or(damaged)?, bytes })
}

impl<'a> Table<'a> {
    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// For a list of tables: the address of the `nth` one.
    pub fn entry(&self, nth: usize, is_wide: bool) -> Option<u64> {
        let width = if is_wide { 8 } else { 4 };
        let at = nth.checked_mul(width)?;
        if is_wide { u64_at(self.body(), at) } else { u32_at(self.body(), at).map(u64::from) }
    }
}

/// How many units an IOMMU's table of AMD's kind describes; it is noted and not used. The table is
/// a run of records with a length (AMD I/O Virtualization 3.08, "I/O Virtualization Reporting
/// Structure"), 12 bytes behind the header.
pub fn ivrs_units(table: &Table<'_>) -> Result<usize, Damaged> {
    let damaged = Damaged(table.signature);
    let mut rest = table.body().get(12..).ok_or(damaged)?;
    let mut units = 0;
    while !rest.is_empty() {
        let kind = u8_at(rest, 0).ok_or(damaged)?;
        units += usize::from(matches!(kind, 0x10 | 0x11 | 0x40));
        let len = u16_at(rest, 2).filter(|len| *len >= 4).ok_or(damaged)?;
        rest = rest.get(usize::from(len)..).ok_or(damaged)?;
    }
    Ok(units)
}
