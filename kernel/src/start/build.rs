//! The objects of the system table: address spaces, cores, shared words.
//!
//! [`Boot`] is what the boot core knows until the seal: where each region's memory lies and the
//! top page table of each thread. It lives on the boot stub's stack, reached through the map of
//! physical memory, and is gone when that map goes.

use super::carve::Carver;
use super::devices::Pci;
use crate::arch::x86_64::cpu::Features;
use crate::arch::x86_64::paging::{self, KERNEL_CONST, KERNEL_DATA, Space, UNCACHED};
use crate::arch::x86_64::{apic, clock, cpu, descriptors, frame, window};
use crate::core_state::{Core, EXTENDED, IrqState, LAST, NOBODY, Place, RESET, Thread};
use crate::flush;
use crate::klog::LogState;
use crate::shared;
use cloister_abi::boot::{BootInfo, RANGE_RAM};
use cloister_abi::call::NEVER;
use cloister_abi::info::SystemPage;
use cloister_abi::layout::{
    FRAME, IO_BITMAP, KERNEL_BASE, MAX_CORES, MAX_DEVICES, MAX_IRQS, MAX_REGIONS, MAX_TASKS,
    MAX_THREADS, PAGE,
};
use cloister_abi::table::{MAP_DMA, Map, NONE, ROLE_INIT, Region, RegionKind, TASK_FPU, Task};
use cloister_core::sched::Sched;
use cloister_core::table::Table;
use core::sync::atomic::{AtomicU64, Ordering};

/// What the boot core knows until the seal.
pub struct Boot {
    /// The loader's and the stub's words.
    pub info: BootInfo,
    /// Memory.
    pub carver: Carver,
    /// The system table.
    pub table: Table<'static>,
    /// Physical address of each region's memory; 0 where it has none (yet).
    pub regions: [u64; MAX_REGIONS],
    /// Each thread's address space.
    pub spaces: [Space; MAX_THREADS],
    /// Each core's window: a page table.
    pub windows: [u64; MAX_CORES],
    /// Physical address of the system page.
    pub system_page: u64,
    /// Devices that were bound, a bit each.
    pub bound: [u64; MAX_DEVICES / 64 + 1],
    /// Next free page of the firmware window.
    pub firmware_used: u64,
    /// For each core with vCPUs: the pages for the kernel's own state.
    pub virtual_pages: [[u64; 2]; MAX_CORES],
    /// What `init` has said of PCI.
    pub pci: Pci,
    /// Pages of nested tables, and for IOMMUs.
    pub nested_pages: u64,
    /// Pages lost to alignment.
    gap: u64,
    /// The kernel's table for the last entry of a top page table.
    high: u64,
    /// An all-ones page: no port is allowed.
    no_ports: u64,
}

/// Maps a page of the kernel's half; it is the same in every address space.
fn map_high(high: u64, va: u64, phys: u64, flags: u64) {
    // SAFETY: the stub built these levels; only the boot core runs.
    let table = unsafe { paging::walk(high, &[510, 0]) };
    table[((va - KERNEL_BASE) / PAGE) as usize] = phys | flags;
}

/// Maps the system table of the payload; returns its bytes.
pub fn map_table(info: &BootInfo, offset: u64, len: u64) -> &'static [u8] {
    let pages = len.div_ceil(PAGE);
    assert!(pages <= window::TABLE_PAGES_MAX, "the system table is too long");
    for page in 0..pages {
        let phys = info.payload + offset + page * PAGE;
        map_high(high_of(info), window::TABLE + page * PAGE, phys, KERNEL_CONST);
    }
    // SAFETY: just mapped, read-only, for as long as the kernel runs.
    unsafe { core::slice::from_raw_parts(window::TABLE as *const u8, len as usize) }
}

fn high_of(info: &BootInfo) -> u64 {
    // SAFETY: the stub's top table is in use and maps the kernel's half.
    let top: &paging::Table = unsafe { paging::page(info.pml4) };
    top[511] & !(PAGE - 1)
}

impl Boot {
    /// Refuses a machine with too little memory, before anything is built.
    pub fn check_memory(&self) {
        let header = self.table.header;
        // Frames, page tables and windows take less than 16 pages a thread and 24 a core.
        let threads = self.table.threads.len() as u64;
        // A vCPU takes less than 16 more, a guest's maps one for 512 of theirs and one each, and up
        // to 511 are lost where the RAM of guests is aligned.
        let maps = self.table.guest_maps.iter();
        let pages = maps.map(|m| self.table.regions[usize::from(m.region)].pages / 512 + 2);
        let guests = pages.map(u64::from).sum::<u64>() + self.table.vcpus.len() as u64 * 16 + 512;
        // A map that devices get takes tables for its pages, a function a context and a record.
        let shared = self.table.maps.iter().filter(|map| map.rights & MAP_DMA != 0);
        let tables = shared.map(|m| self.table.regions[usize::from(m.region)].pages / 512 + 4);
        let devices = tables.map(u64::from).sum::<u64>() + self.table.devices.len() as u64 * 4;
        let need = u64::from(header.ram_pages)
            + devices
            + threads * 16
            + u64::from(header.cores) * 24
            + if self.table.vms.is_empty() { 0 } else { guests }
            + 64;
        let left = self.carver.left();
        assert!(
            need <= left,
            "too little memory: {} KiB are needed behind the image, {} KiB are there",
            need * 4,
            left * 4
        );
    }

    /// Maps and fills the shared words and the interrupt table.
    pub fn build_shared(&mut self) {
        let (threads, tasks) = (self.table.threads.len(), self.table.tasks.len());
        for page in shared::pages(threads, tasks) {
            let phys = self.carver.page();
            map_high(self.high, window::SHARED + page * PAGE, phys, KERNEL_DATA);
        }
        // SAFETY: just mapped; entries that were not present are not cached.
        unsafe { shared::init(threads, tasks) };
        let (_, first) = self.places();
        for (index, task) in shared::shared().tasks()[..tasks].iter().enumerate() {
            task.first.store(first[index], Ordering::Relaxed);
            let own = self.table.threads.iter().filter(|t| usize::from(t.task) == index);
            task.threads.store(own.count() as u8, Ordering::Relaxed);
        }
        let idt = self.carver.page();
        // SAFETY: just carved.
        descriptors::fill_idt(unsafe { paging::page(idt) });
        map_high(self.high, window::IDT, idt, KERNEL_CONST);
    }

    /// Sets memory aside for each region.
    pub fn build_regions(&mut self, table_offset: u64) {
        // The RAM of guests first, one behind the other: it is aligned to 2 MiB.
        for guests in [true, false] {
            for (index, region) in self.table.regions.iter().enumerate() {
                if guests == (region.kind() == Some(RegionKind::GuestRam)) {
                    self.regions[index] = self.place(region, table_offset);
                }
            }
        }
    }

    /// Where a region's memory is; 0 for one that has none (yet).
    fn place(&mut self, region: &Region, table_offset: u64) -> u64 {
        let pages = u64::from(region.pages);
        match region.kind() {
            Some(RegionKind::GuestRam) => {
                let before = self.carver.next();
                let first = self.carver.raw_pages(pages, paging::LARGE_PAGE);
                self.gap += (first - before) / PAGE;
                first
            }
            Some(RegionKind::Ram | RegionKind::Doorbells) => self.carver.pages(pages),
            Some(RegionKind::Payload) => self.info.payload + region.value,
            Some(RegionKind::SystemPage) => self.system_page,
            Some(RegionKind::Table) => self.info.payload + table_offset,
            Some(RegionKind::Mmio) => {
                let free = self.is_free_for_device(region.value2, pages * PAGE);
                assert!(free, "a device's registers lie over memory or an interrupt controller");
                region.value2
            }
            // The rings belong to the core windows, which are built first.
            Some(RegionKind::KernelLog) => {
                assert!(pages == window::LOG_PAGES, "a kernel log ring of the wrong length");
                self.window_page(region.value as usize, window::LOG)
            }
            Some(RegionKind::FirmwareWindow) | None => 0,
        }
    }

    /// Whether an address range is neither memory nor a local APIC. 0 stands for a range that is
    /// found at boot and judged then.
    pub fn is_free_for_device(&self, base: u64, len: u64) -> bool {
        let end = base.saturating_add(len);
        let overlaps = |start: u64, len: u64| start < end && base < start.saturating_add(len);
        let ranges = &self.info.ranges[..self.info.range_count as usize];
        let is_ram = ranges.iter().any(|r| r.kind == RANGE_RAM && overlaps(r.base, r.len));
        base == 0 || !(is_ram || overlaps(apic::PHYSICAL, PAGE))
    }

    /// The physical address behind an address of a core's window.
    pub(super) fn window_page(&self, core: usize, va: u64) -> u64 {
        // SAFETY: the window's page table was filled by `build_window`.
        let table: &paging::Table = unsafe { paging::page(self.windows[core]) };
        table[(va >> 12 & 511) as usize] & paging::ADDRESS
    }

    /// Builds a core's window: stacks, objects, log ring, APIC registers.
    pub fn build_window(&mut self, core: usize, x2apic: bool) {
        let root = self.carver.page();
        self.windows[core] = root;
        let parts = [
            (window::STACK, window::STACK_PAGES),
            (window::CORE, window::CORE_PAGES),
            (window::LOG, window::LOG_PAGES),
        ];
        // SAFETY: just carved, and the only reference to it.
        let table: &mut paging::Table = unsafe { paging::page(root) };
        for (va, pages) in parts {
            let phys = self.carver.pages(pages);
            for page in 0..pages {
                table[((va >> 12 & 511) + page) as usize] = (phys + page * PAGE) | KERNEL_DATA;
            }
        }
        if !x2apic {
            table[(window::APIC >> 12 & 511) as usize] = apic::PHYSICAL | KERNEL_DATA | UNCACHED;
        }
    }

    /// Builds a thread's address space: the kernel, its core's window, its frame, its task's maps.
    pub fn build_space(&mut self, index: usize) {
        let thread = self.table.threads[index];
        let task = self.table.tasks[usize::from(thread.task)];
        let window = self.windows[usize::from(thread.core)];
        // SAFETY: physical memory is mapped and the pages are fresh.
        let space = unsafe { Space::new(|| self.carver.page(), self.high, window) };
        self.spaces[index] = space;
        let frame = self.carver.page();
        // SAFETY: the frame was just carved.
        let bytes: &mut [u8; PAGE as usize] = unsafe { paging::page(frame) };
        // SAFETY: the page can be written at this address.
        unsafe { frame::init(bytes.as_mut_ptr(), task.ports != 0) };
        self.map_leaf(space, FRAME, frame | KERNEL_DATA);
        if task.ports != 0 {
            self.build_ports(space, &task);
        }
        for map in self.table.maps_of(&task) {
            self.map(space, map);
        }
    }

    /// Maps a region. One without memory still gets its page tables, for `bind` and the firmware
    /// window.
    fn map(&mut self, space: Space, map: &Map) {
        let region = &self.table.regions[usize::from(map.region)];
        let phys = self.regions[usize::from(map.region)];
        let (size, more) = match region.kind() {
            Some(RegionKind::GuestRam) => (paging::LARGE_PAGE, paging::LARGE),
            Some(RegionKind::Mmio) => (PAGE, UNCACHED),
            _ => (PAGE, 0),
        };
        let flags = paging::user_flags(map.rights) | more;
        for at in (0..u64::from(region.pages) * PAGE).step_by(size as usize) {
            let entry = if phys == 0 { 0 } else { (phys + at) | flags };
            self.map_leaf(space, map.va + at, entry);
        }
    }

    pub(super) fn map_leaf(&mut self, space: Space, va: u64, entry: u64) {
        // SAFETY: only the boot core runs, and the leaf is not kept.
        let leaf = unsafe { space.leaf(va, || self.carver.page()) };
        flush::changed(*leaf, || space.root == self.init_space().root);
        *leaf = entry;
    }

    /// The bitmap allows what the table grants; pages without a granted port are the shared one.
    fn build_ports(&mut self, space: Space, task: &Task) {
        for half in 0..2u64 {
            let ports = self.table.ports_of(task).iter();
            let bits = ports.flat_map(|p| p.first..p.first + p.count);
            let mut bits = bits.filter(|port| u64::from(*port >> 15) == half).peekable();
            let phys = if bits.peek().is_none() { self.no_ports } else { self.carver.page() };
            if phys != self.no_ports {
                // SAFETY: just carved.
                let bitmap: &mut [u8; PAGE as usize] = unsafe { paging::page(phys) };
                bitmap.fill(0xff);
                bits.for_each(|port| {
                    bitmap[usize::from(port >> 3 & 0xfff)] &= !(1 << (port & 7));
                });
            }
            self.map_leaf(space, IO_BITMAP + half * PAGE, phys | KERNEL_CONST);
        }
    }

    /// Fills a core's objects.
    pub fn build_core(&mut self, index: usize, clock: clock::Clock, features: Features) {
        let mut sched = Sched::new();
        let range = self.table.threads_on(index as u16);
        let mut threads = [Thread::default(); _];
        for (rank, global) in range.clone().enumerate() {
            let thread = self.table.threads[global];
            let task = self.table.tasks[usize::from(thread.task)];
            let mut vcpus = self.table.vcpus.iter();
            let vcpu = vcpus.position(|vcpu| usize::from(vcpu.thread) == global);
            sched.add(rank as u32, clock.ticks(thread.budget_ns), clock.ticks(thread.period_ns));
            threads[rank] = Thread {
                cr3: self.spaces[global].root,
                caps: self.table.caps_of(&task),
                global: global as u16,
                task: thread.task,
                flags: RESET,
                // The state of a guest is that of its thread.
                kind: match task.flags & TASK_FPU != 0 || vcpu.is_some() {
                    true => u16::from(task.domain) | EXTENDED,
                    false => u16::from(task.domain),
                },
                vcpu: vcpu.map_or(NONE, |vcpu| vcpu as u16),
                role: task.role,
                ..Thread::default()
            };
        }
        let core = Core {
            gdt: descriptors::gdt(),
            nmi_count: AtomicU64::new(0),
            host_block: self.virtual_pages[index][0],
            host_save: self.virtual_pages[index][1],
            current: NOBODY,
            caps: threads[self.first_rank(index) as usize].caps,
            loaded: self.first_rank(index),
            since: 0,
            armed: NEVER,
            sched,
            count: range.len() as u32,
            index: index as u32,
            places: self.places().0,
            apic_id: 0,
            started: false,
            clock,
            features,
            barriers: 0,
            nmi_reported: 0,
            table: self.table,
            threads,
            ioapics: Default::default(),
            irqs: [IrqState::default(); MAX_IRQS],
        };
        let at = window::PHYSICAL + self.window_page(index, window::CORE);
        // SAFETY: the window's pages for the core's objects, contiguous and not in use yet.
        unsafe { (at as *mut Core).write(core) };
        let log = (at + crate::klog::LOG_STATE - window::CORE) as *mut LogState;
        // SAFETY: behind the objects, inside the same pages, which are zeroed; LOG_STATE is an
        // address for plain bytes, so any alignment does.
        unsafe { (*log).core = index as u8 };
    }

    /// Where each thread lives, and the first thread of each task.
    fn places(&self) -> ([Place; MAX_THREADS], [u8; MAX_TASKS]) {
        let (mut places, mut first) = ([Place::default(); _], [LAST; _]);
        for (global, thread) in self.table.threads.iter().enumerate().rev() {
            let rank = global - self.table.threads_on(thread.core).start;
            let next = &mut first[usize::from(thread.task)];
            places[global] = Place { core: thread.core as u8, rank: rank as u8, next: *next };
            *next = global as u8;
        }
        (places, first)
    }

    /// Where a part of a thread's frame can be reached through the map of physical memory.
    pub(super) fn frame_at<T>(&self, thread: usize, va: u64) -> *mut T {
        // SAFETY: the space was built, with its frame; only the boot core runs.
        let leaf = unsafe { self.spaces[thread].leaf(FRAME, || 0) };
        (window::PHYSICAL + (*leaf & paging::ADDRESS) + va - FRAME) as *mut T
    }

    /// The rank of the thread whose address space a core begins with: `init` on its core, else
    /// the most urgent one.
    fn first_rank(&self, core: usize) -> u32 {
        let rank = self.table.threads_on(core as u16).position(|thread| self.is_init(thread));
        rank.unwrap_or(0) as u32
    }

    /// Whether a core has anything to run; one without is never started.
    pub fn is_used(&self, core: usize) -> bool {
        !self.table.threads_on(core as u16).is_empty()
    }

    /// The top page table with which a core that is used begins.
    pub fn first_space(&self, core: usize) -> u64 {
        let first = self.table.threads_on(core as u16).start;
        self.spaces[first + self.first_rank(core) as usize].root
    }

    /// The system page, which every task can read.
    pub fn system_page(&mut self) -> &mut SystemPage {
        // SAFETY: the page was carved for this; tasks only read it, and none runs but `init`.
        unsafe { paging::page(self.system_page) }
    }

    /// Starts: everything that needs no table yet.
    pub fn new(info: &BootInfo, table: Table<'static>) -> Boot {
        let mut carver = Carver::new(info);
        let (system_page, no_ports) = (carver.page(), carver.page());
        // SAFETY: just carved.
        unsafe { paging::page::<[u8; PAGE as usize]>(no_ports) }.fill(0xff);
        let high = high_of(info);
        Boot {
            info: info.clone(),
            carver,
            table,
            regions: [0; MAX_REGIONS],
            spaces: [Space { root: 0 }; MAX_THREADS],
            windows: [0; MAX_CORES],
            system_page,
            bound: [0; _],
            firmware_used: 0,
            virtual_pages: [[0; 2]; MAX_CORES],
            pci: Pci::default(),
            nested_pages: 0,
            gap: 0,
            high,
            no_ports,
        }
    }
}

/// Changes before the seal. Each is followed by [`Boot::flush`] before its next use.
impl Boot {
    /// Maps a region, whose memory is known now, into all of a task's address spaces.
    pub fn map_region(&mut self, task: usize, region: usize) {
        let maps = self.table.maps_of(&self.table.tasks[task]);
        for (index, thread) in self.table.threads.iter().enumerate() {
            let own =
                |map: &&Map| usize::from(thread.task) == task && usize::from(map.region) == region;
            maps.iter().filter(own).for_each(|map| self.map(self.spaces[index], map));
        }
    }

    /// Forgets translations of the address space of `init`, which is loaded.
    pub fn flush(&self) {
        // SAFETY: the same space again.
        unsafe { cpu::load_space(self.init_space().root, 0) };
    }

    fn is_init(&self, thread: usize) -> bool {
        let task = self.table.threads[thread].task;
        self.table.tasks[usize::from(task)].role == ROLE_INIT
    }

    /// The address space of `init`'s one thread.
    pub fn init_space(&self) -> Space {
        let thread = (0..self.table.threads.len()).find(|&thread| self.is_init(thread));
        self.spaces[thread.unwrap_or(0)]
    }

    /// Lets `init`'s address space reach physical memory until the seal.
    pub fn map_physical(&mut self) {
        let root = self.init_space().root;
        // SAFETY: the stub's top table is in use.
        let stub = unsafe { paging::page::<paging::Table>(self.info.pml4) };
        // SAFETY: a fresh space, not loaded yet.
        let top: &mut paging::Table = unsafe { paging::page(root) };
        top[window::PHYSICAL_SLOT] = stub[window::PHYSICAL_SLOT];
    }

    /// Bytes of memory that the kernel uses: image, stacks, objects, frames, page tables; without
    /// the memory of tasks and the log rings.
    pub fn kernel_bytes(&self) -> u64 {
        use RegionKind::{Doorbells, GuestRam, Ram};
        let is_ram = |r: &&Region| matches!(r.kind(), Some(Ram | GuestRam | Doorbells));
        let regions = self.table.regions.iter();
        let ram: u64 = regions.filter(is_ram).map(|r| u64::from(r.pages)).sum();
        let logs = u64::from(self.table.header.cores) * window::LOG_PAGES;
        let carved = (self.carver.next() - self.info.free) / PAGE;
        let image = crate::image_pages();
        // The stub's page tables of the kernel's half stay in use.
        (carved - self.gap - ram - logs - self.nested_pages + image + 3) * PAGE
    }

    /// The end: physical memory is mapped no longer.
    ///
    /// # Safety
    /// `self` is reached through the map of physical memory and not used afterwards.
    pub unsafe fn end(&mut self) {
        let root = self.init_space().root;
        // SAFETY: the space is loaded, and this entry is removed from it.
        let top: &mut paging::Table = unsafe { paging::page(root) };
        flush::changed(top[window::PHYSICAL_SLOT], || true);
        top[window::PHYSICAL_SLOT] = 0;
        // SAFETY: the same space again, without the translations of physical memory.
        unsafe { cpu::load_space(root, 0) };
    }
}
