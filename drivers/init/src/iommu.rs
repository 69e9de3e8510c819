//! The IOMMU: what firmware says of it, handing it over, and what follows if there is none.
//!
//! Order: the firmware's tables are read first, because IOAPICs are handed over with their source
//! ids; then all units, before any bus master is bound. Invariant: either the kernel has every unit
//! of segment 0, or none is in use and no bus master is bound unless the manifest says so.

use cloister_init_core::acpi;
use cloister_init_core::dmar::{self, Summary};
use cloister_init_core::mcfg::{self, Ecam};
use cloister_init_core::pci::{Address, Functions};
use cloister_rt::abi::call::Part;
use cloister_rt::abi::table::FLAG_IOMMU_ABSENT_OK;
use cloister_rt::boot::Boot;

use crate::config::ConfigSpace;
use crate::failure::Failure;
use crate::firmware::{Tables, give, with_table};
use crate::table::SystemTable;

/// What firmware says of the IOMMU.
#[derive(Default)]
pub struct Iommu {
    summary: Summary,
    is_in_use: bool,
}

/// Where configuration space is mapped, if the machine says so.
pub fn ecam(boot: &mut Boot, tables: &Tables) -> Result<Option<Ecam>, Failure> {
    if tables.mcfg == 0 {
        return Ok(None);
    }
    with_table(boot, tables.mcfg, b"MCFG", |table| Ok(mcfg::segment_0(table)?))
}

impl Iommu {
    /// Reads the table of Intel's kind, and notes one of AMD's.
    pub fn read(
        boot: &mut Boot,
        tables: &Tables,
        functions: &Functions,
        config: &mut ConfigSpace,
    ) -> Result<Iommu, Failure> {
        if tables.ivrs != 0 {
            let units =
                with_table(boot, tables.ivrs, b"IVRS", |table| Ok(acpi::ivrs_units(table)?))?;
            defmt::warn!("AMD-Vi: {=u64} units, which this version does not use", units as u64);
        }
        if tables.dmar == 0 {
            return Ok(Iommu::default());
        }
        let (summary, remaps) = with_table(boot, tables.dmar, b"DMAR", |table| {
            Ok((Summary::read(table, functions, config)?, dmar::remaps_interrupts(table)))
        })?;
        if !remaps {
            defmt::warn!("VT-d: firmware says that interrupts are not remapped");
        }
        Ok(Iommu { summary, is_in_use: false })
    }

    /// The source id of the IOAPIC that the MADT calls `id`.
    pub fn source(&self, id: u8) -> Option<Address> {
        self.summary.source(id)
    }

    /// Whether firmware wants a function to reach memory.
    pub fn is_reserved(&self, function: Address) -> bool {
        self.summary.reserved.values().contains(&function)
    }

    /// Gives the units and what belongs to them to the kernel. All IOAPICs are there already.
    pub fn hand_over(&mut self, boot: &Boot, ecam: Option<Ecam>) -> Result<(), Failure> {
        if let Some(ecam) = ecam {
            let buses = u64::from(ecam.first) | u64::from(ecam.last) << 8;
            // Only bus masters need it, and each is refused by itself then.
            if let Err(refused) = boot.hand_over(Part::Ecam, ecam.base, buses) {
                defmt::warn!("PCI: no configuration space at {=u64:#x}: {}", ecam.base, refused);
            }
        }
        for function in self.summary.reserved.values() {
            give(boot, Part::Reserved, (*function).into(), 0)?;
        }
        if self.summary.is_partial {
            defmt::warn!("VT-d: firmware lists more than can be kept, or what is not there");
            return Ok(());
        }
        for (nth, unit) in self.summary.units.values().iter().enumerate() {
            match boot.hand_over(Part::VtdUnit, *unit, 0) {
                Ok(()) => self.is_in_use = true,
                // Some units without the others would confine some functions only.
                Err(_) if nth > 0 => return Err(Failure::HandOver(Part::VtdUnit as u32)),
                Err(refused) => {
                    defmt::warn!("VT-d: the unit at {=u64:#x} is not used: {}", *unit, refused);
                    return Ok(());
                }
            }
        }
        if self.is_in_use {
            defmt::info!(
                "VT-d: {=u64} units in use, {=u64} functions that firmware keeps",
                self.summary.units.values().len() as u64,
                self.summary.reserved.values().len() as u64
            );
        }
        Ok(())
    }

    /// Without an IOMMU no device may write memory by itself, unless the manifest says so.
    pub fn check(&self, table: &SystemTable) -> Result<(), Failure> {
        if self.is_in_use {
            return Ok(());
        }
        if !table.has_bus_master() {
            defmt::info!(
                "no IOMMU is in use, and no device of this appliance writes memory by itself"
            );
            return Ok(());
        }
        if table.flags & FLAG_IOMMU_ABSENT_OK == 0 {
            return Err(Failure::NoIommu);
        }
        defmt::warn!("no IOMMU is in use: devices of this appliance can reach all of memory");
        Ok(())
    }
}
