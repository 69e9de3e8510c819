//! The devices of the appliance: matched with what is on PCI, checked for isolation, bound.

use cloister_init_core::groups::Groups;
use cloister_init_core::matching::{Mismatch, bindings};
use cloister_init_core::pci::{Address, Functions};
use cloister_init_core::sriov::{Virtual, Wrong};
use cloister_rt::abi::name_str;
use cloister_rt::abi::table::{
    DEVICE_BUS_MASTER, DEVICE_PCI_VIRTUAL, DEVICE_PHYSICAL, DEVICE_PLATFORM, Device,
};
use cloister_rt::boot::Boot;
use cloister_rt::{Duration, Instant, sleep_until};

use crate::config::ConfigSpace;
use crate::failure::Failure;
use crate::iommu::Iommu;
use crate::table::SystemTable;

/// Virtual functions that were switched on are left alone for so long ("VF Enable").
const SETTLE: Duration = Duration::from_millis(100);

/// Finds and binds every device that is on PCI. `pci` is none without access to PCI.
pub fn bind(
    boot: &Boot,
    table: &SystemTable,
    pci: Option<(&Functions, &mut ConfigSpace)>,
    iommu: &Iommu,
) -> Result<(), Failure> {
    iommu.check(table)?;
    let is_on_pci = |device: &Device| device.kind != DEVICE_PLATFORM;
    let Some((functions, config)) = pci else {
        return if table.devices.iter().any(is_on_pci) { Err(Failure::NoConfig) } else { Ok(()) };
    };
    if functions.dropped > 0 {
        defmt::warn!("{=u64} PCI functions are too many, ignored", functions.dropped as u64);
    }
    let groups = Groups::of(functions);
    let name = |index: usize| table.devices.get(index).map_or("?", |device| name_str(&device.name));
    let bindings = bindings(table.devices, functions, &groups).map_err(|mismatch| {
        let (index, failure) = match mismatch {
            Mismatch::Missing(index) => (index, Failure::NoDevice(index as u32)),
            Mismatch::Taken(index) | Mismatch::TooMany(index) => {
                (index, Failure::Bind(index as u32))
            }
            Mismatch::SharedGroup(index) => (index, Failure::SharedGroup(index as u32)),
        };
        defmt::error!("device {=str} of the manifest cannot be had", name(index));
        failure
    })?;
    defmt::info!(
        "{=u64} PCI functions, {=u64} of them keep peers apart",
        functions.iter().count() as u64,
        functions.iter().filter(|function| function.has_acs).count() as u64
    );
    for (index, (device, binding)) in table.devices.iter().zip(bindings).enumerate() {
        let index = index as u32;
        match binding {
            Some(at) => {
                bind_one(boot, iommu, index, device, at, 0)?;
                if device.flags & DEVICE_PHYSICAL != 0 {
                    let physical = Physical { index, at, is_alone: groups.is_alone(at) };
                    physical.bind_virtual(boot, table, functions, config, iommu)?;
                }
            }
            None if is_on_pci(device) && device.kind != DEVICE_PCI_VIRTUAL => {
                defmt::warn!("optional device {=str} is not there", name_str(&device.name));
            }
            None => {}
        }
    }
    Ok(())
}

/// Binds a function. `place` is where BAR 0 of a virtual function is.
fn bind_one(
    boot: &Boot,
    iommu: &Iommu,
    index: u32,
    device: &Device,
    at: Address,
    place: u64,
) -> Result<(), Failure> {
    let name = name_str(&device.name);
    if device.flags & DEVICE_BUS_MASTER != 0 && iommu.is_reserved(at) {
        defmt::error!(
            "firmware wants {=str} to reach memory (RMRR), so it stays off the bus",
            name
        );
        return Err(Failure::Bind(index));
    }
    boot.bind(index, at, place).map_err(|_| Failure::Bind(index))?;
    let (bus, slot, function) = (at >> 8, at >> 3 & 31, at & 7);
    defmt::info!("{=str} is {=u16:02x}:{=u16:02x}.{=u16}", name, bus, slot, function);
    Ok(())
}

/// A function with virtual functions in use.
struct Physical {
    index: u32,
    at: Address,
    /// It is alone in its isolation group, so its virtual functions are apart from everything: they
    /// reach each other past the IOMMU only if they have the service that turns that off (PCI
    /// Express Base 5.0, "ACS in SR-IOV Capable and Multi-Function Devices").
    is_alone: bool,
}

impl Physical {
    /// Switches its virtual functions on and binds those that the manifest uses.
    fn bind_virtual(
        &self,
        boot: &Boot,
        table: &SystemTable,
        functions: &Functions,
        config: &mut ConfigSpace,
        iommu: &Iommu,
    ) -> Result<(), Failure> {
        let is_ours =
            |device: &Device| device.kind == DEVICE_PCI_VIRTUAL && device.select == self.index;
        let ours = || (0u32..).zip(table.devices).filter(|(_, device)| is_ours(device));
        let count = ours().map(|(_, device)| device.nth).max().unwrap_or(0);
        let pause = || sleep_until(Instant::now() + SETTLE);
        let found = Virtual::enable(config, functions, self.at, count, pause).map_err(|wrong| {
            defmt::error!("{=u8} virtual functions cannot be had: {=str}", count, text(wrong));
            Failure::Bind(self.index)
        })?;
        for (index, device) in ours() {
            let (Some(at), Some(place)) = (found.address(device.nth), found.place(device.nth))
            else {
                return Err(Failure::NoDevice(index));
            };
            if !self.is_alone {
                return Err(Failure::SharedGroup(index));
            }
            bind_one(boot, iommu, index, device, at, place)?;
        }
        Ok(())
    }
}

fn text(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::None => "no SR-IOV capability, or no way to it (`pci-ecam`)",
        Wrong::Few => "the function has fewer",
        Wrong::Place => "they are outside its slot, or where another function is",
        Wrong::Bar => "BAR 0 is no memory of whole pages up to 16 MiB",
        Wrong::Room => "there is no room for their registers behind the port",
        Wrong::Stubborn => "it does not take what is written, or they do not answer",
    }
}
