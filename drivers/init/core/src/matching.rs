//! Which PCI function each device of the manifest is.

use cloister_abi::table::{
    DEVICE_OPTIONAL, DEVICE_PCI_CLASS, DEVICE_PCI_ID, DEVICE_PCI_POSITION, DEVICE_PCI_VIRTUAL,
    DEVICE_PLATFORM, Device,
};

use crate::groups::Groups;
use crate::pci::{Address, Function, Functions};

/// Most devices of a system.
pub const DEVICES_MAX: usize = 64;

/// Why devices cannot be bound; the number is the device's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Nothing fits.
    Missing(usize),
    /// What fits is another device already.
    Taken(usize),
    /// It shares its isolation group with a function of another task.
    SharedGroup(usize),
    /// There are more devices than [`DEVICES_MAX`].
    TooMany(usize),
}

/// The function of each device; `None` for platform devices and absent optional ones.
/// Virtual functions are found later, by their physical ones.
pub type Bindings = [Option<Address>; DEVICES_MAX];

/// Finds the function of each device.
pub fn bindings(
    devices: &[Device],
    functions: &Functions,
    groups: &Groups,
) -> Result<Bindings, Mismatch> {
    let mut bindings = [None; DEVICES_MAX];
    for (index, device) in devices.iter().enumerate() {
        if matches!(device.kind, DEVICE_PLATFORM | DEVICE_PCI_VIRTUAL) {
            continue;
        }
        let mut fitting = functions.iter().filter(|function| fits(device, function));
        let Some(function) = fitting.nth(nth(device)) else {
            if device.flags & DEVICE_OPTIONAL != 0 {
                continue;
            }
            return Err(Mismatch::Missing(index));
        };
        if bindings.contains(&Some(function.address)) {
            return Err(Mismatch::Taken(index));
        }
        let neighbours =
            bindings.iter().zip(devices).filter_map(|(bound, d)| Some((*bound.as_ref()?, d)));
        let group = groups.group(function.address);
        for (address, neighbour) in neighbours {
            if groups.group(address) == group && neighbour.owner != device.owner {
                return Err(Mismatch::SharedGroup(index));
            }
        }
        *bindings.get_mut(index).ok_or(Mismatch::TooMany(index))? = Some(function.address);
    }
    Ok(bindings)
}

/// A position names one function; the others count from 0.
fn nth(device: &Device) -> usize {
    if device.kind == DEVICE_PCI_POSITION { 0 } else { device.nth.into() }
}

fn fits(device: &Device, function: &Function) -> bool {
    match device.kind {
        DEVICE_PCI_POSITION => device.select == u32::from(function.address),
        DEVICE_PCI_ID => device.select == function.identity,
        DEVICE_PCI_CLASS => device.select == function.class,
        _ => false,
    }
}
