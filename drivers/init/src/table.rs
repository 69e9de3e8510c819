//! What `init` reads of the system table.

use cloister_rt::Grants;
use cloister_rt::abi::table::{
    DEVICE_BUS_MASTER, DEVICE_PLATFORM, Device, Header, Region, RegionKind, Section,
};
use cloister_rt::abi::{API_VERSION, name_str, table};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::failure::Failure;

/// What `init` reads of the system table.
pub struct SystemTable {
    /// Cores of the appliance.
    pub cores: u32,
    /// Its flags.
    pub flags: u32,
    /// Its devices.
    pub devices: &'static [Device],
    regions: &'static [Region],
}

impl SystemTable {
    /// Reads the table that the kernel has checked already.
    pub fn read(grants: Grants) -> Result<SystemTable, Failure> {
        let bytes = grants.system_table().map_err(|_| Failure::SystemTable)?;
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Failure::SystemTable)?;
        if (header.magic, header.version) != (table::MAGIC, API_VERSION) {
            return Err(Failure::SystemTable);
        }
        Ok(SystemTable {
            cores: header.cores,
            flags: header.flags,
            devices: records(bytes, header.devices)?,
            regions: records(bytes, header.regions)?,
        })
    }

    /// Whether the appliance has a device that reads and writes memory by itself.
    pub fn has_bus_master(&self) -> bool {
        self.devices.iter().any(|device| device.flags & DEVICE_BUS_MASTER != 0)
    }

    /// The platform devices whose names begin so, each with the physical address of its registers.
    pub fn platform(&self, prefix: &'static str) -> impl Iterator<Item = (&'static str, u64)> {
        let devices = (0u64..).zip(self.devices);
        devices.filter_map(move |(index, device)| {
            let name = name_str(&device.name);
            let mut regions = self.regions.iter();
            let region = regions
                .find(|region| region.kind() == Some(RegionKind::Mmio) && region.value == index)?;
            let is_it = device.kind == DEVICE_PLATFORM && name.starts_with(prefix);
            is_it.then_some((name, region.value2))
        })
    }
}

fn records<T: FromBytes + Immutable + KnownLayout>(
    bytes: &'static [u8],
    section: Section,
) -> Result<&'static [T], Failure> {
    let records = bytes.get(section.offset as usize..).ok_or(Failure::SystemTable)?;
    let read = <[T]>::ref_from_prefix_with_elems(records, section.count as usize);
    read.map(|(records, _)| records).map_err(|_| Failure::SystemTable)
}
