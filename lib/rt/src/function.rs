//! The PCI function that a driver owns: [`PciFunction`], found without knowing its name.
//!
//! The board file names it (`nvme0`), and its parts after it: registers `nvme0.bar0`, interrupts
//! `nvme0`, `nvme0.1` and so on, its configuration space `nvme0.config`. A driver's program serves whatever function it is given.

use cloister_abi::info::{GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, Grant};
use cloister_abi::name_str;
use cloister_abi::table::{CapKind, MAP_DMA, MAP_WRITE};

use crate::cap::{Cap, Irq, PciDevice};
use crate::grants::{Grants, Missing, What, registers};
use crate::registers::Registers;

/// A PCI function of this task.
pub struct PciFunction {
    /// Its name on the board.
    pub name: &'static str,
    /// The right to reset it.
    pub device: PciDevice,
    grants: Grants,
}

impl Grants {
    /// The PCI function that this task owns; the first, if there are several.
    pub fn function(&self) -> Result<PciFunction, Missing> {
        let mut entries = self.entries().iter();
        let is_it =
            |entry: &&Grant| entry.kind == GRANT_CAP && entry.cap_kind == CapKind::Device as u8;
        let missing = Missing { name: "(any)", what: What::Device };
        let entry = entries.find(is_it).ok_or(missing)?;
        let name = name_str(&entry.name);
        Ok(PciFunction { name, device: Cap::at(entry.slot), grants: *self })
    }
}

impl PciFunction {
    /// The registers behind a base address register.
    pub fn registers(&self, bar: u8) -> Result<Registers, Missing> {
        let suffix = match bar {
            0 => ".bar0",
            1 => ".bar1",
            2 => ".bar2",
            3 => ".bar3",
            4 => ".bar4",
            _ => ".bar5",
        };
        let entry = self.grants.beside(self.name, suffix, GRANT_MEMORY);
        let entry = entry.ok_or(Missing { name: self.name, what: What::Memory })?;
        self.grants.registers(name_str(&entry.name))
    }

    /// Its configuration space, which is only read; if the board file shows it.
    pub fn config(&self) -> Result<Registers, Missing> {
        let entry = self.grants.beside(self.name, ".config", GRANT_MEMORY);
        let entry = entry.filter(|entry| entry.rights & (MAP_WRITE | MAP_DMA) == 0);
        entry.map(registers).ok_or(Missing { name: self.name, what: What::Config })
    }

    /// How many of its virtual functions are used: the highest number of one.
    pub fn virtual_functions(&self) -> u64 {
        self.grants.beside(self.name, ".functions", GRANT_NUMBER).map_or(0, |entry| entry.va)
    }

    /// Its interrupt of that number, if it has so many.
    pub fn irq(&self, number: u16) -> Option<Irq> {
        if number == 0 {
            return self.grants.irq(self.name).ok();
        }
        let mut entries = self.grants.entries().iter().filter(|entry| entry.kind == GRANT_CAP);
        let is_it = |name: &&str| {
            let rest = name.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|digits| digits.parse().ok()) == Some(number)
        };
        let name = entries.find_map(|entry| Some(name_str(&entry.name)).filter(is_it))?;
        self.grants.irq(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::grants::tests::{entry, leaked_grants};
    use crate::grants::{Missing, What};
    use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, Grant};
    use cloister_abi::table::{CapKind, MAP_READ, MAP_WRITE};

    #[test]
    fn a_function_is_found_with_its_parts() {
        let cap = |name, kind: CapKind, slot| Grant {
            cap_kind: kind as u8,
            slot,
            ..entry(name, GRANT_CAP)
        };
        let bit = |name, bit| Grant { bit, ..entry(name, GRANT_BIT) };
        let rights = MAP_READ | MAP_WRITE;
        let config = |rights| {
            let entry = entry("nvme0.config", GRANT_MEMORY);
            Grant { va: 0x60_0000, len: 4096, rights, ..entry }
        };
        let entries = [
            cap("disk", CapKind::Thread, 1),
            cap("nvme0", CapKind::Device, 2),
            cap("nvme0", CapKind::Irq, 3),
            bit("nvme0", 48),
            cap("nvme0.1", CapKind::Irq, 4),
            bit("nvme0.1", 49),
            cap("nvme0.bar0", CapKind::Thread, 5),
            Grant { va: 0x50_0000, len: 8192, rights, ..entry("nvme0.bar0", GRANT_MEMORY) },
            config(MAP_READ),
        ];
        let function = leaked_grants(&entries).function().unwrap();
        assert_eq!((function.name, function.device.slot()), ("nvme0", 2));
        let bits = [0, 1].map(|number| function.irq(number).unwrap().bits().word());
        assert_eq!(bits, [1 << 48, 1 << 49]);
        assert!(function.irq(2).is_none());
        assert!(function.registers(0).is_ok() && function.registers(1).is_err());
        assert!(function.config().is_ok_and(|config| config.write(0, 1).is_none()));
        let missing = |entries| leaked_grants(entries).function().unwrap().config().err();
        let is_config = |missing: Missing| missing.what == What::Config;
        assert!(missing(&entries[..7]).is_some_and(is_config), "the board does not show it");
        assert!(missing(&[entries[1], config(rights)]).is_some_and(is_config), "no constant page");
        assert!(leaked_grants(&entries[..1]).function().is_err());
    }
}
