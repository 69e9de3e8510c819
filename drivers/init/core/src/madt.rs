//! The MADT: which cores and interrupt controllers the machine has.
//!
//! ACPI Specification 6.5, "Multiple APIC Description Table (MADT)".

use crate::acpi::{Damaged, Table};
use crate::bytes::{u8_at, u16_at, u32_at};

/// Bytes between header and entries: the local APICs' address, flags.
const FIXED: usize = 8;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A core that may be started.
    Core {
        /// Its local APIC's id.
        apic_id: u32,
    },
    /// An IOAPIC.
    IoApic {
        /// Its id, by which other tables name it.
        id: u8,
        /// Physical address of its registers.
        address: u32,
        /// Its first global interrupt.
        gsi_base: u32,
    },
    /// An ISA interrupt that is not where its number says.
    Override {
        /// The ISA number.
        source: u8,
        /// The global interrupt.
        gsi: u32,
        /// It is active low.
        is_low: bool,
        /// It is level triggered.
        is_level: bool,
    },
    /// Anything else.
    Other,
}

/// The entries of a MADT. After a damaged one there are no more.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

/// The entries of a MADT.
pub fn entries<'a>(table: &Table<'a>) -> Entries<'a> {
    Entries { rest: table.body().get(FIXED..).unwrap_or_default() }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = u8_at(self.rest, 1).filter(|len| *len >= 2).map(usize::from);
        let parts = len.and_then(|len| self.rest.split_at_checked(len));
        let (entry, rest) = parts.unwrap_or((&[], &[]));
        self.rest = rest;
        Some(parse(entry).ok_or(Damaged(*b"APIC")))
    }
}

fn parse(entry: &[u8]) -> Option<Entry> {
    Some(match u8_at(entry, 0)? {
        0 => core(u8_at(entry, 3)?.into(), 0xff, u32_at(entry, 4)?),
        1 => Entry::IoApic {
            id: u8_at(entry, 2)?,
            address: u32_at(entry, 4)?,
            gsi_base: u32_at(entry, 8)?,
        },
        2 => {
            let flags = u16_at(entry, 8)?;
            Entry::Override {
                source: u8_at(entry, 3)?,
                gsi: u32_at(entry, 4)?,
                // "Conforms to the bus" means active high and edge triggered for ISA.
                is_low: flags & 3 == 3,
                is_level: flags >> 2 & 3 == 3,
            }
        }
        9 => core(u32_at(entry, 4)?, u32::MAX, u32_at(entry, 8)?),
        _ => Entry::Other,
    })
}

/// Flag bit 0 says "enabled"; "could be enabled later" is no core for us.
fn core(apic_id: u32, nobody: u32, flags: u32) -> Entry {
    if flags & 1 == 0 || apic_id == nobody { Entry::Other } else { Entry::Core { apic_id } }
}

/// The APIC ids of the first cores in the table's order, without the one that asks. `Err` if the
/// table is damaged. A core that is listed twice (both kinds of entry may name it) counts once.
pub fn other_cores<const N: usize>(
    table: &Table<'_>,
    own: u32,
) -> Result<([u32; N], usize), Damaged> {
    let mut ids = [0; N];
    let mut count = 0;
    for entry in entries(table) {
        let Entry::Core { apic_id } = entry? else {
            continue;
        };
        let known = ids.get(..count).unwrap_or_default();
        if apic_id == own || known.contains(&apic_id) {
            continue;
        }
        if let Some(place) = ids.get_mut(count) {
            *place = apic_id;
            count += 1;
        }
    }
    Ok((ids, count))
}
