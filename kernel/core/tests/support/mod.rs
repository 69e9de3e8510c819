//! For tests of the system table: a builder of tables, two valid samples, and a slow checker that
//! shares no code and no method with the real one.

pub mod slow;
pub mod vm;

use cloister_abi::call::RIGHT_SIGNAL;
use cloister_abi::layout::{IMAGE, LOG_RING, PAGE, STACK_TOP, SYSTEM_PAGE, TASK_INFO};
use cloister_abi::table::*;
use cloister_abi::{API_VERSION, NAME_LEN};
use zerocopy::{Immutable, IntoBytes};

/// Pages of the payload that the sample refers to.
pub const PAYLOAD_PAGES: u32 = 64;

/// A table in parts; anything can be made wrong before [`Build::bytes`].
#[derive(Clone)]
pub struct Build {
    pub header: Header,
    pub tasks: Vec<Task>,
    pub threads: Vec<Thread>,
    pub regions: Vec<Region>,
    pub maps: Vec<Map>,
    pub caps: Vec<Cap>,
    pub ports: Vec<Ports>,
    pub devices: Vec<Device>,
    pub irqs: Vec<Irq>,
    pub vms: Vec<Vm>,
    pub vcpus: Vec<Vcpu>,
    pub guest_maps: Vec<GuestMap>,
    pub doorbells: Vec<Doorbell>,
}

pub fn name(text: &str) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

pub fn region(kind: RegionKind, value: u64, pages: u32) -> Region {
    Region { value, value2: 0, pages, kind: kind as u8, reserved: [0; 3] }
}

pub fn map(va: u64, region: usize, rights: u8) -> Map {
    Map { va, region: region as u16, rights, reserved: [0; 5] }
}

pub fn cap(kind: CapKind, rights: u8, bit: u8, object: u32) -> Cap {
    Cap { kind: kind as u8, rights, bit, reserved: 0, object }
}

impl Build {
    /// A table without records.
    pub fn empty() -> Build {
        let none = Section::default();
        let header = Header {
            magic: MAGIC,
            version: API_VERSION,
            len: 0,
            name: name("sample"),
            cores: 2,
            flags: FLAG_LAB,
            debug_port: 0x3f8,
            sleep_type: [0, 5],
            reserved: 0,
            ram_pages: 0,
            tasks: none,
            threads: none,
            regions: none,
            maps: none,
            caps: none,
            ports: none,
            devices: none,
            irqs: none,
            vms: none,
            vcpus: none,
            guest_maps: none,
            doorbells: none,
            reserved2: 0,
        };
        let (tasks, threads, regions, maps) = (vec![], vec![], vec![], vec![]);
        let (caps, ports, devices, irqs) = (vec![], vec![], vec![], vec![]);
        let (vms, vcpus, guest_maps, doorbells) = (vec![], vec![], vec![], vec![]);
        Build {
            header,
            tasks,
            threads,
            regions,
            maps,
            caps,
            ports,
            devices,
            irqs,
            vms,
            vcpus,
            guest_maps,
            doorbells,
        }
    }

    fn region(&mut self, region: Region) -> usize {
        self.regions.push(region);
        self.regions.len() - 1
    }

    /// A task with the usual maps, to which `maps`, `caps` and `ports` are added.
    fn task(&mut self, text: &str, role: u8, maps: &[Map], caps: &[Cap], ports: &[Ports]) {
        let ram = |pages| region(RegionKind::Ram, 0, pages);
        let page = 4 * self.tasks.len() as u64;
        let text_region = self.region(region(RegionKind::Payload, page * PAGE, 2));
        let info = self.region(region(RegionKind::Payload, (page + 2) * PAGE, 1));
        let (log, stack, data) = (self.region(ram(2)), self.region(ram(4)), self.region(ram(1)));
        let first_map = self.maps.len() as u32;
        self.maps.extend([
            map(IMAGE, text_region, MAP_READ | MAP_EXEC),
            map(TASK_INFO, info, MAP_READ),
            map(SYSTEM_PAGE, 0, MAP_READ),
            map(LOG_RING, log, MAP_READ | MAP_WRITE),
            map(STACK_TOP - 4 * PAGE, stack, MAP_READ | MAP_WRITE),
            map(IMAGE + 2 * PAGE, data, MAP_READ | MAP_WRITE),
        ]);
        self.maps.extend(maps);
        let supervisor = if role == ROLE_TASK { 1 } else { NONE };
        self.tasks.push(Task {
            name: name(text),
            first_cap: self.caps.len() as u32,
            first_map,
            first_port: self.ports.len() as u32,
            caps: caps.len() as u16,
            maps: (self.maps.len() as u32 - first_map) as u16,
            ports: ports.len() as u16,
            supervisor,
            supervisor_bit: if role == ROLE_TASK { self.tasks.len() as u8 } else { 0 },
            role,
            flags: 0,
            domain: 0,
        });
        self.caps.extend(caps);
        self.ports.extend(ports);
    }

    fn thread(&mut self, task: u16, core: u16, priority: u8, index: u8) {
        // A second thread's stack lies among the grants.
        let top = if index == 0 { STACK_TOP } else { IMAGE + 8 * PAGE };
        let bottom = if index == 0 { STACK_TOP - 4 * PAGE } else { IMAGE + 6 * PAGE };
        self.threads.push(Thread {
            entry: IMAGE + 16,
            stack_top: top,
            stack_bottom: bottom,
            budget_ns: 1_000_000,
            period_ns: 10_000_000,
            task,
            core,
            priority,
            index,
            reserved: 0,
        });
    }

    /// Two cores; `init`, a supervisor, a driver with two threads, a device on the bus and one
    /// beside it, and a client.
    pub fn sample() -> Build {
        let mut build = Build::empty();
        let grants = IMAGE + 4 * PAGE;
        build.region(region(RegionKind::SystemPage, 0, 1));
        let table = build.region(region(RegionKind::Table, 0, 2));
        let window = build.region(region(RegionKind::FirmwareWindow, 0, 16));
        let klog = [0, 1].map(|core| build.region(region(RegionKind::KernelLog, core, 4)));
        let bar = build.region(region(RegionKind::Mmio, 2 << 32, 1));
        let mut registers = region(RegionKind::Mmio, 1, 1);
        registers.value2 = 0xfed0_0000;
        let registers = build.region(registers);
        let mailbox = build.region(region(RegionKind::Ram, 0, 1));
        let stack = build.region(region(RegionKind::Ram, 0, 2));
        let read_write = MAP_READ | MAP_WRITE;

        let maps = [map(grants, table, MAP_READ), map(grants + 2 * PAGE, window, MAP_READ)];
        build.task("init", ROLE_INIT, &maps, &[], &[Ports { first: 0xcf8, count: 8 }]);
        let caps = [cap(CapKind::Task, 15, 0, 2), cap(CapKind::Power, 3, 0, 0)];
        build.task("supervisor", ROLE_SUPERVISOR, &[], &caps, &[]);
        let maps = [
            map(grants, mailbox, read_write),
            map(grants + 2 * PAGE, stack, read_write),
            map(grants + 6 * PAGE, bar, read_write),
            map(grants + 7 * PAGE, registers, read_write),
        ];
        let caps =
            [cap(CapKind::Irq, 1, 0, 0), cap(CapKind::Irq, 1, 0, 1), cap(CapKind::Device, 1, 0, 0)];
        build.task("driver", ROLE_TASK, &maps, &caps, &[Ports { first: 0x60, count: 5 }]);
        let maps = [
            map(grants, mailbox, read_write),
            map(grants + 2 * PAGE, klog[0], MAP_READ),
            map(grants + 8 * PAGE, klog[1], MAP_READ),
        ];
        let signal = cap(CapKind::Thread, RIGHT_SIGNAL, 5, 2);
        let caps = [signal, cap(CapKind::Empty, 0, 0, 0), signal];
        build.task("client", ROLE_TASK, &maps, &caps, &[Ports { first: 0x3f8, count: 8 }]);

        build.thread(0, 0, 0, 0);
        build.thread(1, 0, 0, 0);
        build.thread(2, 0, 2, 0);
        build.thread(2, 1, 2, 1);
        build.thread(3, 1, 4, 0);
        build.devices();
        build.count_ram();
        build
    }

    fn count_ram(&mut self) {
        let pages = |region: &&Region| matches!(region.kind, 1 | 4 | 7 | 8);
        self.header.ram_pages = self.regions.iter().filter(pages).map(|r| r.pages).sum();
    }

    fn devices(&mut self) {
        let device = Device {
            name: name("nic0"),
            select: 0x8086_100e,
            nth: 0,
            kind: DEVICE_PCI_ID,
            flags: DEVICE_BUS_MASTER | DEVICE_MSIX,
            reserved: 0,
            owner: 2,
            reserved2: [0; 3],
        };
        let platform = Device { select: 0, kind: DEVICE_PLATFORM, flags: 0, ..device };
        self.devices = vec![device, Device { name: name("hpet0"), ..platform }];
        let (pin, bit, rate_max) = (11, 48, 1000);
        let irq = Irq { device: 0, thread: 2, pin, bit, reserved: 0, rate_max, reserved2: 0 };
        self.irqs = vec![irq, Irq { device: 1, pin: 2, bit: 55, ..irq }];
    }

    /// The table's words, in memory that is aligned as a table must be.
    pub fn bytes(&self) -> Aligned {
        let mut header = self.header;
        let mut all = vec![0; size_of::<Header>()];
        header.tasks = append(&mut all, &self.tasks);
        header.threads = append(&mut all, &self.threads);
        header.regions = append(&mut all, &self.regions);
        header.maps = append(&mut all, &self.maps);
        header.caps = append(&mut all, &self.caps);
        header.ports = append(&mut all, &self.ports);
        header.devices = append(&mut all, &self.devices);
        header.irqs = append(&mut all, &self.irqs);
        header.vms = append(&mut all, &self.vms);
        header.vcpus = append(&mut all, &self.vcpus);
        header.guest_maps = append(&mut all, &self.guest_maps);
        header.doorbells = append(&mut all, &self.doorbells);
        header.len = all.len() as u32;
        all[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        Aligned::new(&all)
    }
}

fn append<T: IntoBytes + Immutable>(all: &mut Vec<u8>, records: &[T]) -> Section {
    let section = Section { offset: all.len() as u32, count: records.len() as u32 };
    all.extend(records.as_bytes());
    all.resize(all.len().next_multiple_of(8), 0);
    section
}

/// Bytes at an address that is a multiple of 8.
#[derive(Clone)]
pub struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    pub fn new(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned { words: vec![0; bytes.len().div_ceil(8)], len: bytes.len() };
        aligned.bytes_mut().copy_from_slice(bytes);
        aligned
    }

    pub fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.len]
    }
}
