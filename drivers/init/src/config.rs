//! Configuration space: the ports that every machine has, and the mapped space beside them.
//!
//! The mapped space is a platform device of the board file, because only those are mapped. Where it
//! is depends on the firmware, so a board may have several, whose names begin with `pci-ecam`; the
//! one at the address that the firmware's own table (MCFG) tells is used. Without it the space
//! beyond 256 bytes cannot be reached, access control services stay as they are, and isolation
//! groups are as large as they may have to be.

use cloister_init_core::mcfg::Ecam;
use cloister_init_core::pci::{Address, Config};
use cloister_rt::{Grants, Port, Registers};

use crate::table::SystemTable;

/// The board file's name for the ports 0xcf8 to 0xcff.
const PORTS: &str = "pci-config";
/// What the board file's names for mapped configuration space begin with.
const MAPPED: &str = "pci-ecam";

/// Access to configuration space.
pub struct ConfigSpace {
    address: Port<u32>,
    data: Port<u32>,
    mapped: Option<(Registers, Ecam)>,
}

impl ConfigSpace {
    /// Access by what the manifest grants; `None` if it does not grant the ports.
    pub fn open(grants: Grants, table: &SystemTable, ecam: Option<Ecam>) -> Option<ConfigSpace> {
        // PCI Local Bus Specification 3.0, "Configuration Mechanism #1".
        let range = grants.ports(PORTS).ok()?;
        let (address, data) = (range.port(0).ok()?, range.port(4).ok()?);
        let mapped = ecam.and_then(|ecam| {
            let mut places = table.platform(MAPPED);
            let (name, _) = places.find(|(_, base)| *base == ecam.base)?;
            Some((grants.registers(name).ok()?, ecam))
        });
        if mapped.is_none() && table.platform(MAPPED).next().is_some() {
            defmt::warn!("PCI: the board file's configuration space is not where firmware says");
        }
        Some(ConfigSpace { address, data, mapped })
    }

    /// The registers and the offset of what is mapped.
    fn extended(&self, at: Address, register: u16) -> Option<(&Registers, u64)> {
        let (registers, ecam) = self.mapped.as_ref()?;
        Some((registers, ecam.offset(at, register)?))
    }
}

impl Config for ConfigSpace {
    fn read(&mut self, at: Address, register: u8) -> u32 {
        self.address.write(1 << 31 | u32::from(at) << 8 | u32::from(register & 0xfc));
        self.data.read()
    }

    fn read_extended(&mut self, at: Address, register: u16) -> Option<u32> {
        let (registers, offset) = self.extended(at, register)?;
        registers.read(offset)
    }

    fn write_extended(&mut self, at: Address, register: u16, value: u32) {
        // What cannot be reached is read back as not taken.
        let _ = self.extended(at, register).and_then(|(registers, at)| registers.write(at, value));
    }
}
