//! The devices of the appliance: found on PCI, checked for isolation, bound.

use cloister_init_core::groups::Groups;
use cloister_init_core::matching::{Mismatch, bindings};
use cloister_init_core::pci::{Address, Config, Functions};
use cloister_rt::abi::info::NO_IOMMU;
use cloister_rt::abi::name_str;
use cloister_rt::abi::table::{
    DEVICE_BUS_MASTER, DEVICE_PLATFORM, Device, FLAG_IOMMU_ABSENT_OK, Header,
};
use cloister_rt::abi::{API_VERSION, table};
use cloister_rt::boot::Boot;
use cloister_rt::{Grants, OutOfRange, Port, system};
use zerocopy::FromBytes;

use crate::failure::Failure;

/// The board file's name for the ports 0xcf8 to 0xcff.
const CONFIG: &str = "pci-config";

/// What `init` reads of the system table.
pub struct SystemTable {
    /// Cores of the appliance.
    pub cores: u32,
    /// Its flags.
    pub flags: u32,
    devices: &'static [Device],
}

impl SystemTable {
    /// Reads the table that the kernel has checked already.
    pub fn read(grants: Grants) -> Result<SystemTable, Failure> {
        let bytes = grants.system_table().map_err(|_| Failure::SystemTable)?;
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Failure::SystemTable)?;
        if (header.magic, header.version) != (table::MAGIC, API_VERSION) {
            return Err(Failure::SystemTable);
        }
        let section = header.devices;
        let records = bytes.get(section.offset as usize..).ok_or(Failure::SystemTable)?;
        let (devices, _) = <[Device]>::ref_from_prefix_with_elems(records, section.count as usize)
            .map_err(|_| Failure::SystemTable)?;
        Ok(SystemTable { cores: header.cores, flags: header.flags, devices })
    }
}

/// Finds and binds every device that is on PCI.
pub fn bind(boot: &Boot, grants: Grants, table: &SystemTable) -> Result<(), Failure> {
    check_iommu(table)?;
    let is_on_pci = |device: &Device| device.kind != DEVICE_PLATFORM;
    let Ok(mut ports) = Ports::open(grants) else {
        return if table.devices.iter().any(is_on_pci) { Err(Failure::NoConfig) } else { Ok(()) };
    };
    let functions = Functions::enumerate(&mut ports);
    if functions.dropped > 0 {
        defmt::warn!("{=u64} PCI functions are too many, ignored", functions.dropped as u64);
    }
    let groups = Groups::of(&functions);
    let name = |index: usize| table.devices.get(index).map_or("?", |device| name_str(&device.name));
    let bindings = bindings(table.devices, &functions, &groups).map_err(|mismatch| {
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
    defmt::info!("{=u64} PCI functions", functions.iter().count() as u64);
    for (index, (device, binding)) in table.devices.iter().zip(bindings).enumerate() {
        match binding {
            Some(at) => {
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

/// Without an IOMMU no device may write memory by itself, unless the manifest says so.
fn check_iommu(table: &SystemTable) -> Result<(), Failure> {
    if system().cpu & NO_IOMMU == 0 {
        return Ok(());
    }
    let has_master = table.devices.iter().any(|device| device.flags & DEVICE_BUS_MASTER != 0);
    if has_master && table.flags & FLAG_IOMMU_ABSENT_OK == 0 {
        return Err(Failure::NoIommu);
    }
    if has_master {
        defmt::warn!("no IOMMU is in use: devices of this appliance can reach all of memory");
    } else {
        defmt::info!("no IOMMU is in use, and no device of this appliance writes memory by itself");
    }
    Ok(())
}

/// Configuration space by the two ports of the PCI Local Bus Specification 3.0, "Configuration
/// Mechanism #1". Extended configuration space is beyond them.
struct Ports {
    address: Port<u32>,
    data: Port<u32>,
}

/// Why the ports cannot be used.
enum Unusable {
    Missing,
    Range,
}

impl From<OutOfRange> for Unusable {
    fn from(_: OutOfRange) -> Self {
        Unusable::Range
    }
}

impl Ports {
    fn open(grants: Grants) -> Result<Ports, Unusable> {
        let range = grants.ports(CONFIG).map_err(|_| Unusable::Missing)?;
        Ok(Ports { address: range.port(0)?, data: range.port(4)? })
    }
}

impl Config for Ports {
    fn read(&mut self, at: Address, register: u8) -> u32 {
        self.address.write(1 << 31 | u32::from(at) << 8 | u32::from(register & 0xfc));
        self.data.read()
    }

    fn read_extended(&mut self, _at: Address, _register: u16) -> Option<u32> {
        None
    }
}
