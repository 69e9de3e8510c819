//! The devices of the appliance: matched with what is on PCI, checked for isolation, bound.

use cloister_init_core::groups::Groups;
use cloister_init_core::matching::{Mismatch, bindings};
use cloister_init_core::pci::Functions;
use cloister_rt::abi::name_str;
use cloister_rt::abi::table::{DEVICE_BUS_MASTER, DEVICE_PLATFORM, Device};
use cloister_rt::boot::Boot;

use crate::failure::Failure;
use crate::iommu::Iommu;
use crate::table::SystemTable;

/// Finds and binds every device that is on PCI. `functions` is none without access to PCI.
pub fn bind(
    boot: &Boot,
    table: &SystemTable,
    functions: Option<&Functions>,
    iommu: &Iommu,
) -> Result<(), Failure> {
    iommu.check(table)?;
    let is_on_pci = |device: &Device| device.kind != DEVICE_PLATFORM;
    let Some(functions) = functions else {
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
        match binding {
            Some(at) => {
                if device.flags & DEVICE_BUS_MASTER != 0 && iommu.is_reserved(at) {
                    defmt::error!(
                        "firmware wants {=str} to reach memory (RMRR), so it stays off the bus",
                        name(index)
                    );
                    return Err(Failure::Bind(index as u32));
                }
                boot.bind(index as u32, at).map_err(|_| Failure::Bind(index as u32))?;
                let (bus, slot, function) = (at >> 8, at >> 3 & 31, at & 7);
                defmt::info!(
                    "{=str} is {=u16:02x}:{=u16:02x}.{=u16}",
                    name(index),
                    bus,
                    slot,
                    function
                );
            }
            None if is_on_pci(device) => {
                defmt::warn!("optional device {=str} is not there", name(index));
            }
            None => {}
        }
    }
    Ok(())
}
