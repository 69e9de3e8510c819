//! Rules of virtual machines: whose they are, what a guest sees, whom its doorbells wake.
//!
//! What matters most here: a monitor is blind (it maps nothing that its guest writes), a guest sees
//! no memory but its own, and what the kernel writes for a vCPU is mapped by its monitor alone.

use super::memory::{bytes, overlaps};
use super::{Rule, TableError, follows};
use crate::table::Table;
use cloister_abi::call::CLIENT_BITS;
use cloister_abi::layout::{GUEST_DEVICES, MAX_VM_VCPUS, PAGE};
use cloister_abi::table::{
    GuestMap, MAP_EXEC, MAP_READ, MAP_WRITE, NONE, ROLE_TASK, Region, RegionKind, Vcpu, Vm,
};
use core::ops::Range;

/// Alignment of guests' RAM: a large page.
pub(super) const LARGE: u64 = 2 << 20;
/// First address that guest maps may not reach.
const GUEST_END: u64 = 1 << 32;
/// 32-bit counters in a page.
const COUNTERS: u16 = 1024;

pub(super) fn vms(table: &Table) -> Result<(), TableError> {
    let (mut vcpus, mut maps, mut doorbells) = (0, 0, 0);
    for (index, vm) in table.vms.iter().enumerate() {
        Rule::Reserved.when(vm.reserved == 0, index)?;
        let follows = follows(&mut vcpus, vm.first_vcpu, vm.vcpus)
            & follows(&mut maps, vm.first_map, vm.maps)
            & follows(&mut doorbells, vm.first_doorbell, vm.doorbells);
        Rule::VmRun.when(follows, index)?;
        Rule::VmVcpus.when((1..=MAX_VM_VCPUS).contains(&usize::from(vm.vcpus)), index)?;
        let mut before = table.vms.iter().take(index);
        let task = table.tasks.get(usize::from(vm.task));
        let own = task.is_some_and(|task| task.role == ROLE_TASK);
        Rule::VmTask.when(own && before.clone().all(|other| other.task != vm.task), index)?;
        let counters = match region_kind(table, vm.counters) {
            None => vm.doorbells == 0 && vm.counters == NONE,
            Some(kind) => {
                let own = before.all(|other| other.counters != vm.counters);
                vm.doorbells > 0 && kind == RegionKind::Doorbells && own
            }
        };
        Rule::VmCounters.when(counters, index)?;
    }
    let all = (table.vcpus.len(), table.guest_maps.len(), table.doorbells.len());
    Rule::VmRun.when((vcpus, maps, doorbells) == all, table.vms.len())?;
    for (index, vm) in table.vms.iter().enumerate() {
        self::vcpus(table, index, vm)?;
        guest_maps(table, vm)?;
        self::doorbells(table, vm)?;
    }
    Ok(())
}

fn region_kind(table: &Table, region: u16) -> Option<RegionKind> {
    table.regions.get(usize::from(region)).and_then(Region::kind)
}

/// The rights with which each map of a region by any task has it, and the task.
fn mapped<'a>(table: &'a Table, region: u16) -> impl Iterator<Item = (u16, u8)> + 'a {
    let tasks = (0u16..).zip(table.tasks);
    tasks.flat_map(move |(index, task)| {
        let maps = table.maps_of(task).iter().filter(move |map| map.region == region);
        maps.map(move |map| (index, map.rights))
    })
}

/// Whether RAM of so many pages is mapped by this task, writable, and by no other.
fn private(table: &Table, region: u16, task: u16, pages: u32) -> bool {
    let ram = region_kind(table, region) == Some(RegionKind::Ram);
    let record = table.regions.get(usize::from(region));
    let right = ram && record.is_some_and(|region| region.pages == pages);
    let written = mapped(table, region).any(|(_, rights)| rights & MAP_WRITE != 0);
    right && written && mapped(table, region).all(|(index, _)| index == task)
}

fn vcpus(table: &Table, vm_index: usize, vm: &Vm) -> Result<(), TableError> {
    for (vcpu, index) in table.vcpus_of(vm).iter().zip(first(vm.first_vcpu)..) {
        Rule::VcpuVm.when(usize::from(vcpu.vm) == vm_index, index)?;
        let before = table.vcpus.iter().take(index);
        let thread = table.threads.get(usize::from(vcpu.thread));
        let own = thread.is_some_and(|thread| thread.task == vm.task);
        let free = before.clone().all(|other| other.thread != vcpu.thread);
        Rule::VcpuThread.when(own && free, index)?;
        let same = |other: &Vcpu| other.state == vcpu.state || other.slots == vcpu.slots;
        let pages =
            private(table, vcpu.state, vm.task, 1) && private(table, vcpu.slots, vm.task, 2);
        Rule::VcpuPages.when(pages && !before.clone().any(same), index)?;
    }
    Ok(())
}

fn guest_maps(table: &Table, vm: &Vm) -> Result<(), TableError> {
    let maps = table.guest_maps_of(vm);
    for (place, (map, index)) in maps.iter().zip(first(vm.first_map)..).enumerate() {
        Rule::Reserved.when(map.reserved == [0; 5], index)?;
        let kind = region_kind(table, map.region).ok_or(Rule::GuestMapRegion.at(index))?;
        let (align, may) = match kind {
            RegionKind::GuestRam => (LARGE, MAP_READ | MAP_WRITE | MAP_EXEC),
            RegionKind::Payload => (PAGE, MAP_READ | MAP_EXEC),
            RegionKind::Ram => (PAGE, MAP_READ),
            _ => return Err(Rule::GuestMapKind.at(index)),
        };
        Rule::GuestMapKind.when(map.rights & MAP_READ != 0 && map.rights & !may == 0, index)?;
        let mine = guest_range(table, map);
        let inside = GUEST_DEVICES.start <= mine.start && mine.end <= GUEST_DEVICES.end;
        let placed = match kind {
            RegionKind::Ram => inside,
            _ => mine.end <= GUEST_END && !overlaps(&mine, &GUEST_DEVICES),
        };
        Rule::GuestMapRange.when(placed && map.gpa.is_multiple_of(align), index)?;
        let mut later = maps.iter().skip(place.saturating_add(1));
        let meets = |other: &GuestMap| overlaps(&mine, &guest_range(table, other));
        Rule::GuestMapOverlap.when(!later.any(meets), index)?;
        // Payload never changes, so who else sees it does not matter.
        let mut users = table.guest_maps.iter().filter(|other| other.region == map.region);
        let alone = kind == RegionKind::Payload || users.nth(1).is_none();
        Rule::GuestMapShared.when(alone, index)?;
        let by_monitor = |(task, _)| task == vm.task;
        let owned = match kind {
            RegionKind::GuestRam => !mapped(table, map.region).any(by_monitor),
            RegionKind::Ram => mapped(table, map.region).all(by_monitor),
            _ => true,
        };
        Rule::GuestMapOwner.when(owned, index)?;
    }
    Ok(())
}

fn guest_range(table: &Table, map: &GuestMap) -> Range<u64> {
    let len = table.regions.get(usize::from(map.region)).map_or(0, bytes);
    map.gpa..map.gpa.saturating_add(len)
}

/// Whose bit a doorbell sets is a rule of capabilities: the monitor's task is its client.
fn doorbells(table: &Table, vm: &Vm) -> Result<(), TableError> {
    let mut before = None;
    for (doorbell, index) in table.doorbells_of(vm).iter().zip(first(vm.first_doorbell)..) {
        Rule::Reserved.when(doorbell.reserved == 0, index)?;
        let thread = usize::from(doorbell.thread) < table.threads.len();
        Rule::DoorbellThread.when(thread && u32::from(doorbell.bit) < CLIENT_BITS, index)?;
        Rule::DoorbellCounter.when(doorbell.counter < COUNTERS, index)?;
        Rule::DoorbellOrder.when(before.is_none_or(|port| port < doorbell.port), index)?;
        before = Some(doorbell.port);
    }
    Ok(())
}

fn first(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
