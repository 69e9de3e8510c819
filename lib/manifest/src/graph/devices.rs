//! Devices and disks of the authority graph: whose they are, what memory they reach by themselves,
//! which parts of a disk are offered, and through which windows.

use std::collections::BTreeSet;

use cloister_abi::name_str;
use cloister_abi::table::{
    self, DEVICE_BUS_MASTER, DEVICE_MSI, DEVICE_MSIX, DEVICE_OPTIONAL, DEVICE_PCI_CLASS,
    DEVICE_PCI_ID, DEVICE_PCI_POSITION, DEVICE_PCI_VIRTUAL, FLAG_IOMMU_ABSENT_OK,
};
use cloister_proto::volume::CIPHER_NONE;
use serde::Serialize;

use super::{Region, task_name};
use crate::compile::Compiled;
use crate::quantity::shown_bytes;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name on the board.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// Its owner.
    pub owner: String,
    /// It may be absent.
    pub optional: bool,
    /// It may read and write memory by itself.
    pub bus_master: bool,
    /// Memory that it reaches by itself: what is mapped with DMA in its owner.
    pub reaches: Vec<String>,
    /// How it interrupts: `pin`, `MSI-X` or `MSI`.
    pub interrupts_by: String,
    /// Numbers of its interrupts and how often they may come in a second.
    pub interrupts: Vec<(u16, u32)>,
}

/// Memory through which a task drives a disk that another task owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The task that works its rings.
    pub server: String,
    /// What the server calls it.
    pub name: String,
    /// The task that it is for.
    pub client: String,
    /// Its bytes.
    pub bytes: u64,
    /// The server's devices reach it.
    pub dma: bool,
}

/// A part of a disk that a task offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The export.
    pub name: String,
    /// Where it is on the disk.
    pub extent: String,
    /// Its client may write.
    pub writable: bool,
    /// Limits of rate and size, as far as there are any.
    pub limits: Vec<String>,
    /// The grant that its key comes from; none without a cipher.
    pub key: Option<String>,
}

/// Devices in the order of the table.
pub(super) fn devices(compiled: &Compiled, regions: &[Region]) -> Vec<Device> {
    let records = compiled.devices.iter().enumerate();
    records.map(|(index, record)| device(compiled, regions, index, record)).collect()
}

fn device(compiled: &Compiled, regions: &[Region], index: usize, record: &table::Device) -> Device {
    let owner = task_name(compiled, record.owner.into());
    let irqs = compiled.irqs.iter().filter(|irq| usize::from(irq.device) == index);
    let bus_master = record.flags & DEVICE_BUS_MASTER != 0;
    let may_be_free = compiled.header.flags & FLAG_IOMMU_ABSENT_OK != 0;
    let mut reaches = if bus_master { domain(regions, &owner) } else { Vec::new() };
    if bus_master && may_be_free {
        reaches.push("all memory where there is no IOMMU".to_owned());
    }
    Device {
        name: name_str(&record.name).to_owned(),
        place: place(compiled, record),
        optional: record.flags & DEVICE_OPTIONAL != 0,
        bus_master,
        reaches,
        interrupts_by: match record.flags & (DEVICE_MSIX | DEVICE_MSI) {
            0 => "pin",
            DEVICE_MSI => "MSI",
            _ => "MSI-X",
        }
        .to_owned(),
        interrupts: irqs.map(|irq| (irq.pin, irq.rate_max)).collect(),
        owner,
    }
}

fn place(compiled: &Compiled, record: &table::Device) -> String {
    let select = record.select;
    let nth = if record.nth == 0 { String::new() } else { format!(", number {}", record.nth) };
    match record.kind {
        DEVICE_PCI_POSITION => {
            format!("PCI {:02x}:{:02x}.{:x}", select >> 8, select >> 3 & 0x1f, select & 7)
        }
        DEVICE_PCI_ID => format!("PCI id {:04x}:{:04x}{nth}", select >> 16, select & 0xffff),
        DEVICE_PCI_CLASS => format!(
            "PCI class {:02x}:{:02x}:{:02x}{nth}",
            select >> 16,
            select >> 8 & 0xff,
            select & 0xff
        ),
        DEVICE_PCI_VIRTUAL => {
            let physical = compiled.devices.get(usize::try_from(select).unwrap_or(usize::MAX));
            let name = physical.map_or("nothing", |physical| name_str(&physical.name));
            format!("virtual function {} of {name}, whose reset takes it down", record.nth)
        }
        _ => "platform".to_owned(),
    }
}

/// What the devices of a task reach: each region that it maps with DMA.
fn domain(regions: &[Region], owner: &str) -> Vec<String> {
    let maps = regions.iter().flat_map(|region| region.maps.iter().map(move |map| (region, map)));
    maps.filter(|(_, map)| map.dma && map.task == owner)
        .map(|(region, map)| {
            let rights = if map.writable { "rw" } else { "r" };
            format!("{} ({rights}, {} of {})", map.name, shown_bytes(region.bytes), region.kind)
        })
        .collect()
}

/// Memory that a task serves another task through: the server's name for it has three parts.
pub(super) fn windows(compiled: &Compiled, regions: &[Region]) -> Vec<Window> {
    let monitors: BTreeSet<String> =
        compiled.vms.iter().map(|vm| task_name(compiled, vm.task.into())).collect();
    let mut windows = Vec::new();
    for region in regions.iter().filter(|region| region.kind == "ram") {
        for map in &region.maps {
            let Some(name) = map.name.strip_suffix("/ram").filter(|name| name.contains('/')) else {
                continue;
            };
            let other = region.maps.iter().find(|other| other.task != map.task);
            windows.push(Window {
                server: map.task.clone(),
                name: name.to_owned(),
                client: other.map_or_else(
                    || "nobody".to_owned(),
                    |other| {
                        let kind = if monitors.contains(&other.task) { "monitor " } else { "" };
                        format!("{kind}{}", other.task)
                    },
                ),
                bytes: region.bytes,
                dma: map.dma,
            });
        }
    }
    windows
}

/// What a task is told of the parts of its disk.
pub(super) fn volumes(compiled: &Compiled, task: usize) -> Vec<Volume> {
    let records = compiled.volumes.iter().filter(|(owner, _)| *owner == task);
    records.map(|(_, record)| volume(record)).collect()
}

fn volume(record: &cloister_proto::volume::Volume) -> Volume {
    let block = cloister_proto::volume::BLOCK_BYTES;
    let end = record.first_block.saturating_add(record.blocks);
    let least = shown_bytes(record.blocks_min.saturating_mul(block));
    let limits = [
        (record.blocks_min, format!("at least {least}")),
        (record.iops, format!("{} requests in a second", record.iops)),
        (record.bytes_per_second, format!("{} in a second", shown_bytes(record.bytes_per_second))),
    ];
    Volume {
        name: record.export_name().to_owned(),
        extent: record.partition_name().map_or_else(
            || format!("blocks {} to {}", record.first_block, end.saturating_sub(1)),
            |name| format!("partition \"{name}\""),
        ),
        writable: record.is_writable(),
        limits: limits.into_iter().filter(|(limit, _)| *limit > 0).map(|(_, text)| text).collect(),
        key: (record.cipher != CIPHER_NONE)
            .then(|| record.key_name().unwrap_or("nothing").to_owned()),
    }
}
