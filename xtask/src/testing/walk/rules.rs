//! What every address space of a sealed system must look like, checked against the system table
//! that the manifest was compiled to.
//!
//! [`judge`] gives every physical page at most one use. A page that two mappings claim for
//! different uses, a mapping that the table does not ask for, one that it asks for and that is not
//! there, and rights that are not exactly the table's are complaints. From "one use" follows what
//! is promised: the kernel maps no task's memory, tasks share what the manifest shares and nothing
//! else, cores share no window, nobody maps a page table.

use std::collections::BTreeMap;

use cloister_abi::info::TaskInfo;
use cloister_abi::layout::{
    CORE_WINDOW, FRAME, IO_BITMAP, KERNEL_BASE, KERNEL_MAX, PAGE, TASK_INFO, VCPU,
};
use cloister_abi::name_str;
use cloister_abi::payload::{Header, PAYLOAD_BASE, SEGMENT_EXEC, SEGMENT_WRITE, STUB_BASE};
use cloister_abi::table::{DEVICE_BUS_MASTER, DEVICE_PLATFORM, MAP_EXEC, MAP_WRITE, RegionKind};
use cloister_core::table::Table;
use zerocopy::FromBytes;

use super::guests::{self, VCPU_PAGES};
use super::spaces::{KERNEL_SLOT, Leaf, Memory, Space};

// Where the kernel puts what it builds itself: kernel/src/arch/x86_64/window.rs.
const WINDOW_END: u64 = CORE_WINDOW + 0x20_0000;
const LOG: u64 = CORE_WINDOW + 0x1_0000;
const LOG_PAGES: u64 = 4;
const APIC: u64 = CORE_WINDOW + 0x1_4000;
const IOAPIC: u64 = CORE_WINDOW + 0x1_5000;
const IOAPICS: u64 = 4;
const IOMMU: u64 = CORE_WINDOW + 0x1_a000;
const IOMMUS: u64 = 8;
const FUNCTIONS: u64 = CORE_WINDOW + 0x2_3000;
const CONFIG: u64 = CORE_WINDOW + 0x4_0000;
const SYSTEM_TABLE: u64 = KERNEL_BASE + 0x18_0000;
const IDT: u64 = KERNEL_BASE + 0x1b_f000;
const SHARED: u64 = KERNEL_BASE + 0x1c_0000;
/// Physical address of every local APIC.
const APIC_PHYSICAL: u64 = 0xfee0_0000;

/// What a physical page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A page of a region: region, page.
    Region(u16, u64),
    /// A page table.
    PageTable,
    /// A page of a core's window: core, address.
    Window(u16, u64),
    /// A thread's frame.
    Frame(usize),
    /// A page of ports that allows what this task may use, or none.
    Ports(Option<u16>, u64),
    /// A page of the kernel's half.
    Kernel(u64),
    /// A page that firmware wrote.
    Firmware,
    /// A virtual CPU's control block: thread.
    Control(usize),
    /// One of a virtual CPU's own nested tables of device pages: thread, which.
    DeviceTable(usize, u64),
    /// A nested table: virtual machine.
    Nested(u16),
    /// A table of the IOMMU.
    Unit,
    /// A page of a permission map of all virtual CPUs: whether of ports, page.
    Permissions(bool, u64),
}

/// What is known of a system before it is looked at.
pub struct System<'a> {
    /// The payload's header.
    pub header: &'a Header,
    /// Its system table.
    pub table: Table<'a>,
}

/// Everything that was found out about a system.
#[derive(Default)]
pub struct Findings {
    /// Each page's use.
    pub uses: BTreeMap<u64, Use>,
    /// What is wrong.
    pub complaints: Vec<String>,
    regions: BTreeMap<u16, u64>,
    windows: BTreeMap<u16, u64>,
}

/// Judges all spaces, which are those of the table's threads in the table's order.
pub fn judge(system: &System, memory: &Memory, roots: &[u64]) -> Findings {
    let mut findings = Findings::default();
    let threads = system.table.threads.len();
    if roots.len() != threads {
        let found = roots.len();
        findings.complain(format!("{found} address spaces for {threads} threads"));
        return findings;
    }
    let mut half = None;
    for (thread, &root) in roots.iter().enumerate() {
        match Space::walk(memory, root) {
            Ok(space) => {
                let mut judge = Judge { system, memory, thread, findings: &mut findings };
                judge.space(&space, &mut half);
            }
            Err(why) => findings.complain(format!("thread {thread}: {why}")),
        }
    }
    guests::judge(system, memory, roots, &mut findings);
    findings
}

impl Findings {
    /// Something is wrong.
    pub fn complain(&mut self, text: String) {
        self.complaints.push(text);
    }

    /// Gives a page a use; the two exceptions are pages that the kernel itself shows to tasks.
    fn claim(&mut self, phys: u64, what: Use, kernel_logs: &[Option<u16>]) {
        let Some(known) = self.uses.insert(phys, what) else { return };
        let is_log = |region: u16| kernel_logs.get(usize::from(region)).copied().flatten();
        let shown = match (known, what) {
            (Use::Region(region, page), Use::Window(core, va))
            | (Use::Window(core, va), Use::Region(region, page)) => {
                is_log(region) == Some(core) && va == LOG + page * PAGE
            }
            (Use::Region(region, page), Use::Kernel(va))
            | (Use::Kernel(va), Use::Region(region, page)) => {
                is_log(region) == Some(u16::MAX) && va == SYSTEM_TABLE + page * PAGE
            }
            (one, other) => one == other,
        };
        if !shown {
            self.complain(format!("the page {phys:#x} is {known:?} and {what:?}"));
        }
    }
}

/// Judges what belongs to one thread.
pub struct Judge<'a> {
    /// What is known.
    pub system: &'a System<'a>,
    /// What is there.
    pub memory: &'a Memory,
    /// The thread.
    pub thread: usize,
    /// What was found.
    pub findings: &'a mut Findings,
}

impl Judge<'_> {
    /// Something of this thread is wrong.
    pub fn complain(&mut self, text: &str) {
        let task = usize::from(self.system.table.threads[self.thread].task);
        let name = name_str(&self.system.table.tasks[task].name).to_owned();
        self.findings.complain(format!("task {name}, thread {}: {text}", self.thread));
    }

    /// Which regions show pages of the kernel: a core's log ring, or (65535) the system table.
    fn shown(&self) -> Vec<Option<u16>> {
        let regions = self.system.table.regions.iter();
        let shown = regions.map(|region| match region.kind {
            k if k == RegionKind::KernelLog as u8 => u16::try_from(region.value).ok(),
            k if k == RegionKind::Table as u8 => Some(u16::MAX),
            _ => None,
        });
        shown.collect()
    }

    /// Gives a page a use.
    pub fn claim(&mut self, phys: u64, what: Use) {
        let shown = self.shown();
        self.findings.claim(phys, what, &shown);
    }

    fn space(&mut self, space: &Space, half: &mut Option<u64>) {
        if space.top_slots != [0, KERNEL_SLOT] {
            let slots = &space.top_slots;
            self.complain(&format!("entries {slots:?} of the top table are in use, not 0 and 511"));
        }
        for &table in &space.tables {
            self.claim(table, Use::PageTable);
        }
        // The same table for everybody: the kernel's half is judged once, and is the same.
        let kernel = self.memory.word(space.root + KERNEL_SLOT as u64 * 8).map(|e| e & !0xfff);
        if half.is_some() && *half != kernel {
            self.complain("its kernel half is a table of its own");
        }
        *half = kernel;
        self.identity(space);
        for leaf in &space.leaves {
            let (va, phys) = (leaf.va, leaf.phys);
            if leaf.is_writable && leaf.is_executable {
                self.complain(&format!("{va:#x} is writable and executable"));
            }
            if !leaf.is_user && leaf.is_large {
                self.complain(&format!("the kernel maps a large page at {va:#x}"));
            }
            if !leaf.is_user && self.in_stub(phys) {
                self.complain(&format!("{va:#x} maps the boot stub's memory at {phys:#x}"));
            }
            match va {
                _ if leaf.is_user => {}
                KERNEL_BASE.. => self.kernel_page(leaf),
                CORE_WINDOW..WINDOW_END => self.window_page(leaf),
                FRAME => self.frame(leaf),
                va if (IO_BITMAP..IO_BITMAP + 2 * PAGE).contains(&va) => {}
                va if (VCPU..VCPU + VCPU_PAGES * PAGE).contains(&va) => self.vcpu_page(leaf),
                _ => self.complain(&format!("the kernel maps {phys:#x} at {va:#x}")),
            }
        }
        self.ports(space);
        self.user_pages(space);
    }

    fn in_stub(&self, phys: u64) -> bool {
        (STUB_BASE..PAYLOAD_BASE).contains(&phys)
    }

    /// The space is that of the thread that it is taken for: its task says so, and its core's
    /// window is that of the other threads of its core and of no other core.
    fn identity(&mut self, space: &Space) {
        let thread = self.system.table.threads[self.thread];
        let info = space.leaf(TASK_INFO).and_then(|leaf| self.memory.page(leaf.phys));
        let info = info.and_then(|page| TaskInfo::read_from_prefix(page).ok());
        if info.map(|(info, _)| info.task) != Some(thread.task) {
            self.complain("its task information is another task's");
        }
        let Some(window) = space.leaf(CORE_WINDOW + PAGE) else {
            return self.complain("it has no kernel stack");
        };
        let table = window.entry_at & !(PAGE - 1);
        let known = *self.findings.windows.entry(thread.core).or_insert(table);
        let others = self.findings.windows.iter().filter(|(core, _)| **core != thread.core);
        let is_shared = others.into_iter().any(|(_, other)| *other == table);
        if known != table || is_shared {
            self.complain("its window is not that of its core alone");
        }
    }

    fn kernel_page(&mut self, leaf: &Leaf) {
        let at = leaf.va - KERNEL_BASE;
        let segments = &self.system.header.kernel;
        let mut zero = PAYLOAD_BASE + self.system.header.payload_len;
        let mut found = None;
        for segment in segments {
            let (pages, zeros) = (u64::from(segment.pages), u64::from(segment.zero_pages));
            let page = leaf.va.wrapping_sub(segment.va) / PAGE;
            if leaf.va >= segment.va && page < pages {
                found = Some((segment.flags, PAYLOAD_BASE + segment.offset + page * PAGE));
            } else if leaf.va >= segment.va && page < pages + zeros {
                found = Some((segment.flags, zero + (page - pages) * PAGE));
            }
            zero += zeros * PAGE;
        }
        let (write, exec) = match (leaf.va, found) {
            (_, Some((flags, phys))) if phys == leaf.phys => {
                (flags & SEGMENT_WRITE != 0, flags & SEGMENT_EXEC != 0)
            }
            (SYSTEM_TABLE..=IDT, None) => (false, false),
            (SHARED.., None) if at < KERNEL_MAX => (true, false),
            _ => {
                let phys = leaf.phys;
                return self.complain(&format!("the kernel maps {phys:#x} at {:#x}", leaf.va));
            }
        };
        if (leaf.is_writable, leaf.is_executable) != (write, exec) {
            self.complain(&format!(
                "the kernel page {:#x} has other rights than its segment",
                leaf.va
            ));
        }
        self.claim(leaf.phys, Use::Kernel(leaf.va));
    }

    fn window_page(&mut self, leaf: &Leaf) {
        let core = self.system.table.threads[self.thread].core;
        let va = leaf.va;
        let is_shared_unit = (IOAPIC..IOAPIC + IOAPICS * PAGE).contains(&va)
            || (IOMMU..IOMMU + IOMMUS * PAGE).contains(&va);
        let in_log = (LOG..LOG + LOG_PAGES * PAGE).contains(&va);
        let is_own = va < LOG || in_log || va == FUNCTIONS && self.masters(core).next().is_some();
        let is_right = match self.memory.holds(leaf.phys) {
            true => is_own && !leaf.is_uncached,
            false if va == APIC => leaf.phys == APIC_PHYSICAL && leaf.is_uncached,
            // Of a function: its configuration space, then its table of messages.
            false if va >= CONFIG => {
                let device = ((va - CONFIG) / PAGE / 2) as usize;
                self.masters(core).any(|mine| mine == device) && leaf.is_uncached
            }
            false => is_shared_unit && core == 0 && leaf.is_uncached,
        };
        if !is_right || leaf.is_executable || !leaf.is_writable {
            self.complain(&format!("the window maps {:#x} at {va:#x}", leaf.phys));
        }
        if self.memory.holds(leaf.phys) {
            self.claim(leaf.phys, Use::Window(core, va));
        }
    }

    /// The device records of a core's bus masters: those whose owner's first thread is there.
    fn masters(&self, core: u16) -> impl Iterator<Item = usize> {
        let table = &self.system.table;
        let devices = table.devices.iter().enumerate();
        let here = move |owner: u16| {
            table.threads.iter().find(|t| t.task == owner).is_some_and(|t| t.core == core)
        };
        let masters = devices.filter(|(_, device)| device.flags & DEVICE_BUS_MASTER != 0);
        masters.filter(move |(_, device)| here(device.owner)).map(|(index, _)| index)
    }

    fn frame(&mut self, leaf: &Leaf) {
        if leaf.is_executable || !self.memory.holds(leaf.phys) {
            self.complain("its frame is executable or no memory");
        }
        self.claim(leaf.phys, Use::Frame(self.thread));
    }

    /// The bitmap allows exactly the ports that the table grants.
    fn ports(&mut self, space: &Space) {
        let thread = self.system.table.threads[self.thread];
        let task = self.system.table.tasks[usize::from(thread.task)];
        let granted = self.system.table.ports_of(&task);
        for half in 0..2 {
            let leaf = space.leaf(IO_BITMAP + half * PAGE).copied();
            let Some(leaf) = leaf.filter(|leaf| !leaf.is_user) else {
                if task.ports != 0 {
                    self.complain("its bitmap of ports is missing");
                }
                continue;
            };
            let page = self.memory.page(leaf.phys).unwrap_or_default().to_vec();
            let is_allowed =
                |port: u64| page.get(port as usize / 8).is_none_or(|b| b >> (port % 8) & 1 == 0);
            let is_granted = |port: u64| {
                let port = half << 15 | port;
                granted.iter().any(|p| {
                    let first = u64::from(p.first);
                    (first..first + u64::from(p.count)).contains(&port)
                })
            };
            let wrong = (0..1 << 15).find(|&port| is_allowed(port) != is_granted(port));
            if let Some(port) = wrong {
                self.complain(&format!(
                    "port {:#x} is allowed or denied wrongly",
                    half << 15 | port
                ));
            }
            if leaf.is_writable || leaf.is_executable || task.ports == 0 {
                self.complain("its bitmap of ports has other rights, or is there without a port");
            }
            let owner = page.iter().any(|byte| *byte != 0xff).then_some(thread.task);
            self.claim(leaf.phys, Use::Ports(owner, if owner.is_some() { half } else { 0 }));
        }
    }

    /// Exactly the maps of the table, with exactly their rights.
    fn user_pages(&mut self, space: &Space) {
        let thread = self.system.table.threads[self.thread];
        let task = self.system.table.tasks[usize::from(thread.task)];
        let mut left: BTreeMap<u64, Leaf> =
            space.leaves.iter().filter(|leaf| leaf.is_user).map(|leaf| (leaf.va, *leaf)).collect();
        for map in self.system.table.maps_of(&task) {
            let region = self.system.table.regions[usize::from(map.region)];
            let is_firmware = region.kind == RegionKind::FirmwareWindow as u8;
            for page in 0..u64::from(region.pages) {
                let va = map.va + page * PAGE;
                let Some(leaf) = left.remove(&va) else {
                    if !is_firmware && !self.may_be_absent(map.region) {
                        self.complain(&format!("{va:#x} is not mapped"));
                    }
                    continue;
                };
                let wanted = (map.rights & MAP_WRITE != 0, map.rights & MAP_EXEC != 0);
                if (leaf.is_writable, leaf.is_executable) != wanted {
                    self.complain(&format!("{va:#x} has other rights than the manifest gives"));
                }
                if leaf.is_large != (region.kind == RegionKind::GuestRam as u8) {
                    self.complain(&format!("{va:#x} is part of a page of a wrong size"));
                }
                if is_firmware {
                    // Any number of tables, as often as they are mapped, and never anything else.
                    self.claim(leaf.phys, Use::Firmware);
                } else {
                    self.region_page(map.region, page, &leaf);
                }
            }
        }
        for leaf in left.values() {
            self.complain(&format!(
                "{:#x} is mapped at {:#x}, not by the manifest",
                leaf.phys, leaf.va
            ));
        }
    }

    /// Registers of a PCI function that is not there.
    fn may_be_absent(&self, region: u16) -> bool {
        let region = self.system.table.regions[usize::from(region)];
        let device = self.system.table.devices.get(region.value as u32 as usize);
        region.kind == RegionKind::Mmio as u8
            && device.is_some_and(|device| device.kind != DEVICE_PLATFORM)
    }

    /// Every mapping of a region leads to the same pages, which lie where its kind says.
    pub fn region_page(&mut self, index: u16, page: u64, leaf: &Leaf) {
        let region = self.system.table.regions[usize::from(index)];
        let base = leaf.phys.wrapping_sub(page * PAGE);
        let is_registers = region.kind == RegionKind::Mmio as u8;
        let wanted = match region.kind {
            k if k == RegionKind::Payload as u8 => Some(PAYLOAD_BASE + region.value),
            k if k == RegionKind::Table as u8 => {
                Some(PAYLOAD_BASE + self.system.header.system_table)
            }
            _ if is_registers && region.value2 != 0 => Some(region.value2),
            _ => None,
        };
        let wanted = wanted.unwrap_or_else(|| *self.findings.regions.entry(index).or_insert(base));
        if base != wanted {
            self.complain(&format!(
                "{:#x} leads to {:#x}, not into its region",
                leaf.va, leaf.phys
            ));
        }
        if is_registers == self.memory.holds(leaf.phys) || is_registers != leaf.is_uncached {
            self.complain(&format!("{:#x} is registers and memory at once", leaf.va));
        }
        self.claim(leaf.phys, Use::Region(index, page));
    }
}
