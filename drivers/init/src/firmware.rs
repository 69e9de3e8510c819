//! Finding the firmware's tables, and handing over to the kernel what they name.
//!
//! A mapped table is gone with the next mapping, so only addresses are kept ([`Tables`]); each
//! table is mapped again where it is used.

use cloister_init_core::acpi::{self, HEADER_LEN, ROOT_LEN, Root, Signature, Table};
use cloister_init_core::{fadt, madt};
use cloister_rt::abi::call::Part;
use cloister_rt::boot::Boot;
use cloister_rt::system;

use crate::failure::Failure;
use crate::iommu::Iommu;

/// Most tables that a list may have.
const LIST_MAX: usize = 256;
/// Most IOAPICs and overrides together that are handed over; there are 16 ISA interrupts.
const PARTS_MAX: usize = 48;
/// Word of the BIOS data area with the segment of the extended one.
const EBDA_SEGMENT: u64 = 0x40e;
/// Where BIOSes keep the root pointer: the first KiB of the extended data area, and the ROMs.
const EBDA_LEN: u64 = 1024;
const ROMS: (u64, u64) = (0xe_0000, 0x2_0000);

/// Where the tables that matter are; 0 for those that the machine does not have.
#[derive(Default)]
pub struct Tables {
    /// Cores and interrupt controllers.
    pub madt: u64,
    /// Mapped configuration space.
    pub mcfg: u64,
    /// IOMMUs of Intel's kind.
    pub dmar: u64,
    /// IOMMUs of AMD's kind.
    pub ivrs: u64,
    fadt: u64,
}

/// Finds the tables.
pub fn find(boot: &mut Boot) -> Result<Tables, Failure> {
    let root = find_root(boot)?;
    let mut tables = Tables::default();
    let list_name = if root.is_wide { b"XSDT" } else { b"RSDT" };
    for nth in 0..LIST_MAX {
        let entry =
            with_table(boot, root.list, list_name, |list| Ok(list.entry(nth, root.is_wide)))?;
        let Some(address) = entry else { break };
        // A table that cannot be mapped is one that nobody asked for, or missed below.
        let Ok(head) = boot.map_firmware(address, HEADER_LEN as u64) else {
            continue;
        };
        let Ok((signature, _)) = acpi::header(head) else {
            continue;
        };
        let place = match &signature {
            b"APIC" => &mut tables.madt,
            b"FACP" => &mut tables.fadt,
            b"MCFG" => &mut tables.mcfg,
            b"DMAR" => &mut tables.dmar,
            b"IVRS" => &mut tables.ivrs,
            _ => continue,
        };
        *place = address;
    }
    if tables.madt == 0 {
        return Err(Failure::NoTables(*b"APIC"));
    }
    Ok(tables)
}

fn find_root(boot: &mut Boot) -> Result<Root, Failure> {
    let nothing = Failure::NoTables([0; 4]);
    let told = system().rsdp;
    if told != 0 {
        let bytes = boot.map_firmware(told, ROOT_LEN as u64).map_err(|_| nothing)?;
        return Ok(acpi::root(bytes)?);
    }
    let segment = boot.map_firmware(EBDA_SEGMENT, 2).ok().and_then(|bytes| bytes.first_chunk());
    let ebda = segment.map_or(0, |bytes| u64::from(u16::from_le_bytes(*bytes)) << 4);
    for (start, len) in [(ebda, EBDA_LEN), ROMS] {
        let area = boot.map_firmware(start, len);
        if let Some(root) = area.ok().and_then(acpi::find_root) {
            return Ok(root);
        }
    }
    Err(nothing)
}

/// Maps a table, checks it, and reads from it.
pub fn with_table<T>(
    boot: &mut Boot,
    address: u64,
    signature: &Signature,
    read: impl FnOnce(&Table<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let damaged = Failure::Damaged(*signature);
    let head = boot.map_firmware(address, HEADER_LEN as u64).map_err(|_| damaged)?;
    let (found, len) = acpi::header(head)?;
    if found != *signature {
        return Err(damaged);
    }
    let bytes = boot.map_firmware(address, len.into()).map_err(|_| damaged)?;
    read(&acpi::table(bytes)?)
}

/// Tells the kernel of IOAPICs, interrupt overrides and power registers. The clock's register
/// with the century, if there is one.
pub fn hand_over(boot: &mut Boot, tables: &Tables, iommu: &Iommu) -> Result<Option<u8>, Failure> {
    // The mapping borrows the handle, so the entries are copied out before any is handed over.
    let mut parts = [madt::Entry::Other; PARTS_MAX];
    let found = with_table(boot, tables.madt, b"APIC", |table| {
        let mut found = 0;
        for entry in madt::entries(table) {
            let entry = entry?;
            if matches!(entry, madt::Entry::Core { .. } | madt::Entry::Other) {
                continue;
            }
            if let Some(place) = parts.get_mut(found) {
                *place = entry;
            }
            found += 1;
        }
        Ok(found)
    })?;
    if found > PARTS_MAX {
        defmt::warn!("the MADT lists {=u64} interrupt parts, too many", found as u64);
    }
    for part in parts {
        match part {
            madt::Entry::IoApic { id, address, gsi_base } => {
                let source = iommu.source(id).map_or(0, |at| u64::from(at) << 32 | 1 << 48);
                give(boot, Part::IoApic, address.into(), u64::from(gsi_base) | source)?;
            }
            madt::Entry::Override { source, gsi, is_low, is_level } => {
                let route = u64::from(gsi) | u64::from(is_low) << 16 | u64::from(is_level) << 17;
                give(boot, Part::PinRoute, source.into(), route)?;
            }
            madt::Entry::Core { .. } | madt::Entry::Other => {}
        }
    }
    hand_over_power(boot, tables)
}

/// Tells the kernel of the power registers. The clock's register with the century, if there is one.
fn hand_over_power(boot: &mut Boot, tables: &Tables) -> Result<Option<u8>, Failure> {
    if tables.fadt == 0 {
        defmt::warn!("no FADT: this machine cannot be powered off, only halted");
        return Ok(None);
    }
    let power = with_table(boot, tables.fadt, b"FACP", |table| Ok(fadt::power(table)?))?;
    match power.pm1a {
        Some(pm1a) => {
            let pm1b = power.pm1b.unwrap_or(0);
            give(boot, Part::PowerOff, pm1a.into(), pm1b.into())?;
        }
        None => defmt::warn!("the FADT names no port that powers off; the machine will halt"),
    }
    if let Some((port, value)) = power.reset {
        give(boot, Part::Reset, port.into(), value.into())?;
    }
    Ok(power.century)
}

/// Gives the kernel a part that it must take.
pub fn give(boot: &Boot, part: Part, a: u64, b: u64) -> Result<(), Failure> {
    boot.hand_over(part, a, b).map_err(|_| Failure::HandOver(part as u32))
}
