//! Rules of regions and maps: what may be mapped where, by whom, with which rights.

use super::{Rule, TableError, vm};
use crate::table::Table;
use cloister_abi::layout::{
    GUEST_RAM, GUEST_RAM_END, GUEST_SEGMENTS, IMAGE, LOG_RING, LOG_RING_MAX, PAGE, STACK_MAX,
    STACK_TOP, SYSTEM_PAGE, TASK_INFO, TASK_INFO_PAGES, USER_END,
};
use cloister_abi::table::{
    BAR_CONFIG, DEVICE_BUS_MASTER, DEVICE_PLATFORM, Device, MAP_DMA, MAP_EXEC, MAP_READ, MAP_WRITE,
    Map, ROLE_INIT, ROLE_TASK, Region, RegionKind,
};
use core::ops::Range;

/// Physical addresses have at most 52 bits.
const PHYS_END: u64 = 1 << 52;
/// Base address registers of a PCI function.
const BARS: u64 = 6;

/// Bytes of a region. 32 bits of pages cannot overflow.
pub(super) fn bytes(region: &Region) -> u64 {
    u64::from(region.pages).wrapping_mul(PAGE)
}

pub(super) fn overlaps<T: Ord>(a: &Range<T>, b: &Range<T>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The addresses of a map; empty if its region does not exist.
pub(super) fn range(table: &Table, map: &Map) -> Range<u64> {
    let len = table.regions.get(usize::from(map.region)).map_or(0, bytes);
    map.va..map.va.saturating_add(len)
}

pub(super) fn regions(table: &Table, payload_pages: u32) -> Result<(), TableError> {
    let mut ram_pages = 0u64;
    let mut logs = 0u64;
    for (index, region) in table.regions.iter().enumerate() {
        Rule::Reserved.when(region.reserved == [0; 3], index)?;
        let kind = region.kind().ok_or(Rule::Region.at(index))?;
        let len = bytes(region);
        let sized = match kind {
            RegionKind::SystemPage | RegionKind::Doorbells => len == PAGE,
            RegionKind::GuestRam => len.is_multiple_of(vm::LARGE) && len <= GUEST_SEGMENTS,
            _ => len <= USER_END,
        };
        Rule::Region.when(len > 0 && sized, index)?;
        Rule::RegionValue.when(value_fits(table, region, kind), index)?;
        match kind {
            RegionKind::Payload => {
                let end = region.value.checked_add(bytes(region));
                let most = u64::from(payload_pages).wrapping_mul(PAGE);
                Rule::PayloadRange.when(end.is_some_and(|end| end <= most), index)?;
            }
            RegionKind::KernelLog => {
                let core = u32::try_from(region.value).ok();
                let bit = core.and_then(|core| 1u64.checked_shl(core)).unwrap_or_default();
                Rule::KernelLogTwice.when(logs & bit == 0, index)?;
                logs |= bit;
            }
            _ => {}
        }
        use RegionKind::{Doorbells, GuestRam, KernelLog, Ram};
        if matches!(kind, Ram | KernelLog | GuestRam | Doorbells) {
            ram_pages = ram_pages.saturating_add(u64::from(region.pages));
        }
    }
    Rule::RamPages.when(u64::from(table.header.ram_pages) == ram_pages, 0)
}

/// Whether `value` and `value2` are what the region's kind defines.
fn value_fits(table: &Table, region: &Region, kind: RegionKind) -> bool {
    let (value, value2) = (region.value, region.value2);
    match kind {
        RegionKind::Payload => value.is_multiple_of(PAGE) && value2 == 0,
        RegionKind::KernelLog => value < u64::from(table.header.cores) && value2 == 0,
        RegionKind::Mmio => {
            let (index, bar) = (value & 0xffff_ffff, value >> 32);
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            let end = value2.checked_add(bytes(region));
            match table.devices.get(index) {
                None => false,
                Some(device) if device.kind == DEVICE_PLATFORM => {
                    let inside = end.is_some_and(|end| end <= PHYS_END);
                    bar == 0 && value2.is_multiple_of(PAGE) && inside
                }
                Some(_) => (bar < BARS || bar == BAR_CONFIG && region.pages == 1) && value2 == 0,
            }
        }
        _ => value == 0 && value2 == 0,
    }
}

pub(super) fn maps(table: &Table) -> Result<(), TableError> {
    for (task_index, task) in table.tasks.iter().enumerate() {
        let maps = table.maps_of(task);
        let first = usize::try_from(task.first_map).unwrap_or(usize::MAX);
        for (place, map) in maps.iter().enumerate() {
            let index = first.saturating_add(place);
            Rule::Reserved.when(map.reserved == [0; 5], index)?;
            let region = table.regions.get(usize::from(map.region));
            let region = region.ok_or(Rule::MapRegion.at(index))?;
            let kind = region.kind().ok_or(Rule::Region.at(index))?;
            rights(map, region, kind, index)?;
            let owner = match kind {
                RegionKind::Mmio => {
                    let device = usize::try_from(region.value & 0xffff_ffff).unwrap_or(usize::MAX);
                    let device = table.devices.get(device);
                    device.is_some_and(|device| usize::from(device.owner) == task_index)
                }
                RegionKind::Table | RegionKind::FirmwareWindow => task.role == ROLE_INIT,
                RegionKind::GuestRam => task.role == ROLE_TASK,
                _ => true,
            };
            Rule::MapOwner.when(owner, index)?;
            let mine = range(table, map);
            let (room, align) = match kind {
                RegionKind::GuestRam => (GUEST_RAM..GUEST_RAM_END, vm::LARGE),
                _ => (TASK_INFO..USER_END, PAGE),
            };
            let inside = mine.start >= room.start && mine.end <= room.end;
            Rule::MapRange.when(inside && map.va.is_multiple_of(align), index)?;
            Rule::MapFixed.when(placed(&mine, kind, map.rights), index)?;
            Rule::MapDma.when(may_dma(table, task_index, map, kind), index)?;
            let mut later = maps.iter().skip(place.saturating_add(1)).map(|map| range(table, map));
            Rule::MapOverlap.when(!later.any(|other| overlaps(&mine, &other)), index)?;
        }
    }
    Ok(())
}

/// Readable always; writable only where nobody else relies on the content; executable only what
/// no map anywhere can write: the payload. Configuration space has the kernel's registers as well.
fn rights(map: &Map, region: &Region, kind: RegionKind, index: usize) -> Result<(), TableError> {
    let known = map.rights & !(MAP_READ | MAP_WRITE | MAP_EXEC | MAP_DMA) == 0;
    let both = MAP_WRITE | MAP_EXEC;
    let sane = known && map.rights & MAP_READ != 0 && map.rights & both != both;
    Rule::MapRights.when(sane, index)?;
    let may = match kind {
        RegionKind::Payload => MAP_READ | MAP_EXEC,
        RegionKind::Mmio if region.value >> 32 == BAR_CONFIG => MAP_READ,
        RegionKind::Ram | RegionKind::Mmio | RegionKind::GuestRam => MAP_READ | MAP_WRITE,
        _ => MAP_READ,
    };
    Rule::MapKind.when(map.rights & !(may | MAP_DMA) == 0, index)
}

/// What a task's bus masters may reach: memory that it was granted for that. Neither what it starts
/// from nor what it tells of itself is: text, pristine data, log, stacks.
fn may_dma(table: &Table, task: usize, map: &Map, kind: RegionKind) -> bool {
    if map.rights & MAP_DMA == 0 {
        return true;
    }
    let is_memory = matches!(kind, RegionKind::Ram | RegionKind::GuestRam);
    let owns = |device: &Device| {
        usize::from(device.owner) == task && device.flags & DEVICE_BUS_MASTER != 0
    };
    let mine = range(table, map);
    let mut threads = table.threads.iter().filter(|thread| usize::from(thread.task) == task);
    let is_stack = threads.any(|t| overlaps(&mine, &(t.stack_bottom..t.stack_top)));
    is_memory && table.devices.iter().any(owns) && mine.start >= IMAGE && !is_stack
}

// Device addresses are the task's, and three levels of an IOMMU's tables reach them.
const _: () = assert!(GUEST_RAM_END <= 1 << 39 && USER_END <= 1 << 39);

/// Below the image each part of the address space has its purpose: `cloister_abi::layout`.
fn placed(range: &Range<u64>, kind: RegionKind, rights: u8) -> bool {
    let len = range.end.saturating_sub(range.start);
    if range.start >= IMAGE {
        return kind != RegionKind::SystemPage;
    }
    match kind {
        RegionKind::SystemPage => range.start == SYSTEM_PAGE,
        RegionKind::Payload => {
            let fits = len <= TASK_INFO_PAGES.wrapping_mul(PAGE);
            range.start == TASK_INFO && fits && rights & MAP_EXEC == 0
        }
        RegionKind::Ram => {
            let log = range.start == LOG_RING && len <= LOG_RING_MAX;
            log || (range.end == STACK_TOP && len <= STACK_MAX)
        }
        _ => false,
    }
}
