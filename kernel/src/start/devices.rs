//! PCI functions and IOMMUs before the seal: `bind`, and what `hand_over` says about them.
//!
//! A bus master is bound with everything that it will ever need: its record, its pages in the window
//! of its owner's core, its place in its owner's domain. It gets the bus when its driver asks for
//! it, after the seal (`crate::device`).

use super::build::Boot;
use crate::arch::x86_64::descriptors::DEVICE_VECTOR;
use crate::arch::x86_64::iommu::{self, Mapping, Remap};
use crate::arch::x86_64::paging::{self, KERNEL_DATA, UNCACHED};
use crate::arch::x86_64::{pci, window};
use crate::core_state::Core;
use crate::device::{self, Function};
use crate::flush;
use crate::shared::shared;
use cloister_abi::call::Status;
use cloister_abi::layout::PAGE;
use cloister_abi::table::{
    BAR_CONFIG, DEVICE_BUS_MASTER, DEVICE_MSI, DEVICE_MSIX, DEVICE_PCI_VIRTUAL, DEVICE_PHYSICAL,
    DEVICE_PLATFORM, Device, FLAG_IOMMU_ABSENT_OK, MAP_DMA, MAP_WRITE, Map, Region, RegionKind,
};
use core::sync::atomic::Ordering;

/// Most functions that firmware wants to reach memory.
const RESERVED_MAX: usize = 32;
/// Most capabilities that a function can list: what fits into its configuration space.
const CAPABILITIES_MAX: usize = 48;

/// What `init` has said of PCI and of IOMMUs; nothing, so far.
#[derive(Default)]
pub struct Pci {
    /// Physical address of bus 0's configuration space, and the buses there; no bus: not known.
    ecam: u64,
    buses: core::ops::Range<u16>,
    /// Functions that firmware wants to reach memory.
    reserved: [u16; RESERVED_MAX],
    reserved_count: usize,
    /// BAR 0 of the virtual function that is being bound, 0 for another function.
    place: u64,
    /// A bus master was bound.
    has_masters: bool,
    /// The machine's IOMMU.
    pub iommu: iommu::Iommu,
}

/// Where a function's messages are, from its capabilities.
#[derive(Default)]
struct Capabilities {
    express: u8,
    msi: u8,
    msix: u8,
}

impl Boot {
    /// `hand_over` of the memory-mapped configuration space.
    pub fn add_ecam(&mut self, base: u64, buses: u64) -> Result<(), Status> {
        let (first, last) = (buses & 0xff, buses >> 8);
        let len = (last + 1) << 20;
        let is_right = last <= 0xff && first <= last && base.is_multiple_of(1 << 20);
        if !is_right || base >= 1 << 51 || base == 0 || !self.is_free_for_device(base, len) {
            return Err(Status::BadArgument);
        }
        if !self.pci.buses.is_empty() {
            return Err(Status::WrongState);
        }
        (self.pci.ecam, self.pci.buses) = (base, first as u16..last as u16 + 1);
        Ok(())
    }

    /// `hand_over` of memory that firmware wants a function to reach.
    pub fn add_reserved(&mut self, function: u16) -> Result<(), Status> {
        let pci = &mut self.pci;
        if pci.has_masters || pci.reserved_count == RESERVED_MAX {
            return Err(Status::WrongState);
        }
        pci.reserved[pci.reserved_count] = function;
        pci.reserved_count += 1;
        Ok(())
    }

    /// `hand_over` of a VT-d unit.
    pub fn add_vtd(&mut self, core: &Core, phys: u64) -> Result<(), Status> {
        let is_page = phys != 0 && phys.is_multiple_of(PAGE) && phys < 1 << 52;
        if !is_page || !self.is_free_for_device(phys, PAGE) {
            return Err(Status::BadArgument);
        }
        if self.pci.has_masters || iommu::units() == window::IOMMUS {
            return Err(Status::WrongState);
        }
        self.set_window(0, window::IOMMU + iommu::units() as u64 * PAGE, phys | UNCACHED);
        self.flush();
        let (carver, extra) = (&mut self.carver, &mut self.nested_pages);
        let mut carve = || {
            *extra += 1;
            carver.page()
        };
        // A pin's interrupts would be lost, or could be forged, without a source.
        let is_taken =
            core.ioapics.has_sources() && self.pci.iommu.add_vtd(core.clock.tsc_hz, &mut carve);
        if is_taken { Ok(()) } else { Err(Status::BadArgument) }
    }

    /// Sets an entry of a core's window, which was absent.
    #[inline(never)]
    pub(super) fn set_window(&mut self, core: usize, va: u64, phys: u64) {
        // SAFETY: the window was built; entries that were not present are not cached.
        let table: &mut paging::Table = unsafe { paging::page(self.windows[core]) };
        let entry = &mut table[(va >> 12 & 511) as usize];
        flush::changed(*entry, || *entry & !0xfff == phys & !0xfff || core == 0);
        *entry = phys | KERNEL_DATA;
    }

    /// `bind`. The header of a virtual function names no vendor and no addresses; `place` is where
    /// its BAR 0 is, and log2 of the size in the lowest bits.
    pub fn bind(&mut self, device: usize, function: u16, place: u64) -> Result<(), Status> {
        let record = *self.table.devices.get(device).ok_or(Status::BadArgument)?;
        let is_virtual = record.kind == DEVICE_PCI_VIRTUAL;
        let is_unnamed = pci::read(function, 0) & 0xffff == 0xffff;
        if record.kind == DEVICE_PLATFORM || is_unnamed != is_virtual {
            return Err(Status::BadArgument);
        }
        let physical = shared().functions.get(record.select as usize).and_then(|f| f.source());
        if is_virtual && physical.is_none_or(|at| at >> 8 != function >> 8 || at >= function) {
            return Err(Status::WrongState);
        }
        self.pci.place = if is_virtual { place } else { 0 };
        let is_master = record.flags & DEVICE_BUS_MASTER != 0;
        let capabilities = capabilities(function);
        if is_master {
            self.check_master(device, &record, function)?;
        }
        self.map_bars(device, &record, function, capabilities.msix)?;
        if is_master {
            self.bind_master(device, &record, function, &capabilities)?;
        }
        self.bound[device / 64] |= 1 << (device % 64);
        self.flush();
        Ok(())
    }

    /// Where a memory BAR of the function that is being bound is, and its size.
    fn memory_bar(&self, function: u16, bar: u8) -> Result<(u64, u64), Status> {
        let found = match (self.pci.place, bar) {
            (0, _) => pci::memory_bar(function, bar),
            (place, 0) if place < 1 << 52 => Some((place & !(PAGE - 1), 1 << (place & 31))),
            _ => None,
        };
        found.ok_or(Status::BadArgument)
    }

    /// Maps the regions of a device into its owner: never the page where its MSI-X table begins.
    fn map_bars(
        &mut self,
        device: usize,
        record: &Device,
        function: u16,
        msix: u8,
    ) -> Result<(), Status> {
        let table = if msix == 0 { u32::MAX } else { pci::read(function, msix + 4) };
        let ours = |region: &Region| {
            region.kind() == Some(RegionKind::Mmio) && region.value as u32 == device as u32
        };
        for (at, region) in self.table.regions.iter().enumerate().filter(|(_, r)| ours(r)) {
            if self.regions[at] != 0 {
                return Err(Status::WrongState);
            }
            let bar = region.value >> 32;
            let (base, size) = match (bar, record.flags & DEVICE_BUS_MASTER) {
                // `check_master` saw that its bus is there.
                (BAR_CONFIG, 1..) => (self.pci.ecam + (u64::from(function) << 12), PAGE),
                _ => self.memory_bar(function, bar as u8)?,
            };
            let len = u64::from(region.pages) * PAGE;
            let has_table = bar == u64::from(table & 7) && u64::from(table) & !(PAGE - 1) < len;
            let is_free = self.is_free_for_device(base, size);
            if len > size || !base.is_multiple_of(PAGE) || has_table || !is_free {
                return Err(Status::BadArgument);
            }
            self.regions[at] = base;
            self.map_region(usize::from(record.owner), at);
        }
        Ok(())
    }

    /// Whether a function can be a bus master here at all.
    fn check_master(&self, device: usize, record: &Device, function: u16) -> Result<(), Status> {
        let is_allowed = self.pci.iommu.is_usable()
            || self.pci.iommu.is_whole() && self.table.header.flags & FLAG_IOMMU_ABSENT_OK != 0;
        let is_bound = self.bound[device / 64] >> (device % 64) & 1 != 0;
        let reserved = &self.pci.reserved[..self.pci.reserved_count];
        let is_taken = shared().functions.iter().any(|f| f.source() == Some(function));
        let is_reserved = reserved.contains(&function) || is_taken;
        // Its configuration space has to be reached after the seal, and it is no bridge.
        let is_reached = self.pci.buses.contains(&(function >> 8));
        if !is_allowed || is_bound || is_reserved || !is_reached {
            return Err(Status::WrongState);
        }
        let is_endpoint = pci::read(function, 0x0c) >> 16 & 0x7f == 0;
        let is_owned = usize::from(record.owner) < self.table.tasks.len();
        if is_endpoint && is_owned { Ok(()) } else { Err(Status::BadArgument) }
    }

    fn bind_master(
        &mut self,
        device: usize,
        record: &Device,
        function: u16,
        capabilities: &Capabilities,
    ) -> Result<(), Status> {
        let (state, table) = self.record(device, record, function, capabilities)?;
        let task = usize::from(record.owner);
        let first = usize::from(shared().task(task).first.load(Ordering::Relaxed));
        let core = usize::from(self.table.threads[first].core);
        let functions = &shared().cores[core].functions;
        let mine = functions.load(Ordering::Relaxed);
        if mine == 0 {
            self.nested_pages += 1;
            let page = self.carver.page();
            self.set_window(core, window::FUNCTIONS, page);
        }
        let page = self.window_page(core, window::FUNCTIONS);
        // SAFETY: carved for this; the core does not look at it before the seal.
        let states: &mut [Function; cloister_abi::layout::MAX_DEVICES] =
            unsafe { paging::page(page) };
        states[device] = state;
        let config = window::CONFIG + device as u64 * 2 * PAGE;
        let ecam = self.pci.ecam + (u64::from(function) << 12);
        self.set_window(core, config, ecam | UNCACHED);
        if let Some(table) = table {
            self.set_window(core, config + PAGE, table | UNCACHED);
        }
        if !self.attach(function, task) {
            return Err(Status::WrongState);
        }
        self.pci.has_masters = true;
        shared().functions[device].set(function, task);
        functions.store(mine | 1 << device, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a function into the domain of its owner.
    fn attach(&mut self, function: u16, task: usize) -> bool {
        let (table, regions) = (self.table, &self.regions);
        let maps = table.maps_of(&table.tasks[task]).iter();
        let mappings = maps.filter(|map| map.rights & MAP_DMA != 0).map(|map: &Map| {
            let region = &table.regions[usize::from(map.region)];
            Mapping {
                at: map.va,
                phys: regions[usize::from(map.region)],
                len: u64::from(region.pages) * PAGE,
                write: map.rights & MAP_WRITE != 0,
                is_large: region.kind() == Some(RegionKind::GuestRam),
            }
        });
        let (carver, extra) = (&mut self.carver, &mut self.nested_pages);
        self.pci.iommu.attach(function, task, mappings, &mut || {
            *extra += 1;
            carver.page()
        })
    }

    /// What is to be remembered of a function, and where its MSI-X table begins.
    fn record(
        &self,
        device: usize,
        record: &Device,
        function: u16,
        capabilities: &Capabilities,
    ) -> Result<(Function, Option<u64>), Status> {
        let read = |register: u8| pci::read(function, register);
        let &Capabilities { express, msi, msix } = capabilities;
        let has_express = express != 0;
        let express_word = |offset: u8| if has_express { read(express + offset) } else { 0 };
        let command = read(pci::COMMAND) & 0xffff & !pci::BUS_MASTER;
        let mut state = Function {
            bars: core::array::from_fn(|n| read(pci::BARS + 4 * n as u8)),
            command: (command | pci::MEMORY_SPACE | pci::NO_PIN) as u16,
            express,
            msi,
            msix,
            has_reset: express_word(4) >> 28 & 1 != 0,
            express_control: express_word(8) as u16 & 0x7fff,
            ..Function::default()
        };
        let wants = |flag: u8| record.flags & flag != 0;
        state.has_reset &= !wants(DEVICE_PHYSICAL);
        if wants(DEVICE_MSI) && msi == 0 {
            return Err(Status::BadArgument);
        }
        if !wants(DEVICE_MSIX) {
            return Ok((state, None));
        }
        let (count, place) = (read(msix) >> 16 & 0x7ff, if msix == 0 { 7 } else { read(msix + 4) });
        let (base, size) = self.memory_bar(function, place as u8 & 7)?;
        let offset = u64::from(place & !7);
        let at = base + offset;
        state.table = (at % PAGE) as u16;
        let fit = (PAGE - at % PAGE) / device::ENTRY;
        state.entries = fit.min(u64::from(count) + 1) as u16;
        let irqs = self.table.irqs.iter();
        let mut mine = irqs.filter(|irq| usize::from(irq.device) == device);
        let is_inside = base.is_multiple_of(PAGE) && offset < size;
        let is_free = self.is_free_for_device(base, size);
        if msix == 0 || !is_inside || !is_free || mine.any(|irq| irq.pin >= state.entries) {
            return Err(Status::BadArgument);
        }
        Ok((state, Some(at & !(PAGE - 1))))
    }

    /// At the seal, when all cores run: sends each interrupt to its owner's core, still masked.
    pub fn route(&mut self, core: &mut Core) -> Result<(), Status> {
        for (index, irq) in self.table.irqs.iter().enumerate() {
            let vector = DEVICE_VECTOR + index as u8;
            let device = usize::from(irq.device);
            if self.table.devices[device].kind != DEVICE_PLATFORM {
                let thread = &self.table.threads[usize::from(irq.thread)];
                let target = &shared().cores[usize::from(thread.core)];
                let apic_id = target.apic_id.load(Ordering::Relaxed);
                // An optional one that is not there has none.
                if let Some(source) = shared().functions[device].source() {
                    let to = Remap { source, vector, apic_id, level: false };
                    self.pci.iommu.remap(index, to);
                }
                continue;
            }
            let route = core.route_of(index);
            let source = core.ioapics.source(route).ok_or(Status::BadArgument)?;
            let to = Remap { source, vector, apic_id: core.apic_id, level: route.level };
            self.pci.iommu.remap(index, to);
            let remapped = (iommu::units() > 0).then_some(index as u32);
            core.ioapics.route(route, vector, core.apic_id, remapped);
        }
        if self.pci.iommu.finish() { Ok(()) } else { Err(Status::WrongState) }
    }
}

/// Walks a function's list of capabilities, as far as it can be one.
fn capabilities(function: u16) -> Capabilities {
    let mut found = Capabilities::default();
    let has_list = pci::read(function, 4) >> 20 & 1 != 0;
    let mut at = if has_list { pci::read(function, 0x34) as u8 & !3 } else { 0 };
    for _ in 0..CAPABILITIES_MAX {
        if at < 0x40 {
            break;
        }
        let head = pci::read(function, at);
        // Each reaches at most 24 bytes beyond its head.
        let place = match head & 0xff {
            0x05 => &mut found.msi,
            0x10 => &mut found.express,
            0x11 => &mut found.msix,
            _ => &mut 0,
        };
        if *place == 0 && at <= 0xe8 {
            *place = at;
        }
        at = (head >> 8) as u8 & !3;
    }
    found
}
