//! A slow and obvious checker of what matters most in a system table: who can reach what. It
//! reads fields by their offset and keeps sets of single pages, ports and bits.

use std::collections::{HashMap, HashSet};

/// Reads little-endian fields of a record.
#[derive(Clone, Copy)]
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn u8(self, at: usize) -> u64 {
        self.0[at].into()
    }
    fn u16(self, at: usize) -> u64 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap()).into()
    }
    fn u32(self, at: usize) -> u64 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap()).into()
    }
    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

/// Offset of the head's first section and the sizes of the records of each section.
const SECTIONS_AT: usize = 68;
const SIZES: [usize; 12] = [56, 48, 24, 16, 8, 4, 48, 16, 24, 8, 16, 8];

struct Slow<'a> {
    sections: Vec<Vec<Record<'a>>>,
    cores: u64,
    payload_pages: u64,
    ram_pages: u64,
}

/// Panics where an accepted table breaks a rule.
pub fn check(bytes: &[u8], payload_pages: u32) {
    let head = Record(bytes);
    assert_eq!((head.u64(0), head.u32(12) as usize), (0x656c_6261_7473_7973, bytes.len()));
    let mut used = HashSet::new();
    let sections = SIZES.iter().enumerate().map(|(index, &size)| {
        let (at, count) =
            (head.u32(SECTIONS_AT + 8 * index), head.u32(SECTIONS_AT + 8 * index + 4));
        let record = |number: usize| {
            let start = at as usize + number * size;
            assert!((start..start + size).all(|byte| used.insert(byte)), "sections overlap");
            assert!(start >= 168, "a section overlaps the head");
            Record(&bytes[start..start + size])
        };
        (0..count as usize).map(record).collect()
    });
    let sections = sections.collect();
    let (cores, ram_pages) = (head.u32(48), head.u32(64));
    let slow = Slow { sections, cores, payload_pages: payload_pages.into(), ram_pages };
    slow.tasks();
    slow.threads();
    slow.memory();
    slow.bits();
    slow.ports();
    slow.devices();
    slow.vms();
}

impl<'a> Slow<'a> {
    fn tasks_(&self) -> &[Record<'a>] {
        &self.sections[0]
    }

    fn run(&self, section: usize, first: u64, count: u64) -> &[Record<'a>] {
        let run = if count == 0 { 0..0 } else { first as usize..(first + count) as usize };
        &self.sections[section][run]
    }

    fn caps(&self, task: Record) -> &[Record<'a>] {
        self.run(4, task.u32(32), task.u16(44))
    }

    fn maps(&self, task: Record) -> &[Record<'a>] {
        self.run(3, task.u32(36), task.u16(46))
    }

    fn ports_of(&self, task: Record) -> &[Record<'a>] {
        self.run(5, task.u32(40), task.u16(48))
    }

    fn tasks(&self) {
        let roles: Vec<u64> = self.tasks_().iter().map(|task| task.u8(53)).collect();
        for role in [1, 2] {
            assert_eq!(roles.iter().filter(|&&r| r == role).count(), 1, "role {role}");
        }
        assert!(roles.iter().all(|&role| role < 3));
        let names: HashSet<&[u8]> = self.tasks_().iter().map(|task| &task.0[..32]).collect();
        assert_eq!(names.len(), roles.len(), "two tasks have one name");
        for name in names {
            let text = std::str::from_utf8(name).unwrap().trim_end_matches('\0');
            assert!(!text.is_empty() && !text.contains('\0'));
        }
    }

    fn threads(&self) {
        let threads = &self.sections[1];
        let order = |t: &Record| (t.u16(42), t.u8(44));
        assert!(threads.is_sorted_by_key(order));
        for core in 0..=u16::MAX.into() {
            let here = threads.iter().filter(|t| t.u16(42) == core).count();
            assert!(here <= if core < self.cores { 32 } else { 0 });
            if core > 16 && here == 0 {
                break;
            }
        }
        for thread in threads {
            assert!(thread.u16(42) < self.cores);
            assert!(0 < thread.u64(24) && thread.u64(24) <= thread.u64(32), "budget");
            let pages = self.pages(self.tasks_()[thread.u16(40) as usize]);
            assert_eq!(pages[&(thread.u64(0) / 4096)] & 4, 4, "entry");
            let (top, bottom) = (thread.u64(8), thread.u64(16));
            assert!(bottom < top);
            (bottom..top).step_by(4096).for_each(|at| assert_eq!(pages[&(at / 4096)] & 2, 2));
            assert!(!pages.contains_key(&(bottom / 4096 - 1)), "no guard below a stack");
        }
        for task in 0..self.tasks_().len() as u64 {
            let mine = threads.iter().filter(|t| t.u16(40) == task).map(|t| t.u8(45));
            let mut mine: Vec<u64> = mine.collect();
            mine.sort();
            assert!(!mine.is_empty() && mine.iter().copied().eq(0..mine.len() as u64));
        }
    }

    /// The rights of each mapped page of a task. Fails where two maps meet.
    fn pages(&self, task: Record) -> HashMap<u64, u64> {
        let mut pages = HashMap::new();
        for map in self.maps(task) {
            let region = self.sections[2][map.u16(8) as usize];
            assert!(map.u64(0) % 4096 == 0 && region.u32(16) > 0);
            let large = region.u8(20) == 7;
            let room = if large { 0x400_0000..0x800_0000 } else { 0x404..0x40000 };
            for page in (0..region.u32(16)).step_by(if large { 512 } else { 1 }) {
                let page = map.u64(0) / 4096 + page;
                assert!(!large || (page % 512 == 0 && region.u32(16).is_multiple_of(512)));
                assert!(room.contains(&page), "page {page:#x} is out of bounds");
                assert!(pages.insert(page, map.u8(10)).is_none(), "page {page:#x} twice");
            }
        }
        pages
    }

    fn memory(&self) {
        let ram = self.sections[2].iter().filter(|r| matches!(r.u8(20), 1 | 4 | 7 | 8));
        assert_eq!(ram.map(|r| r.u32(16)).sum::<u64>(), self.ram_pages);
        for region in &self.sections[2] {
            assert!(region.u8(20) < 9);
            if region.u8(20) == 0 {
                assert_eq!(region.u64(0) % 4096, 0);
                assert!(region.u64(0) / 4096 + region.u32(16) <= self.payload_pages);
            }
        }
        for (index, task) in self.tasks_().iter().enumerate() {
            self.pages(*task);
            for map in self.maps(*task) {
                let region = self.sections[2][map.u16(8) as usize];
                let (kind, rights) = (region.u8(20), map.u8(10));
                let (write, exec) = (rights & 2 != 0, rights & 4 != 0);
                assert!(rights & 1 != 0 && rights < 16 && !(write && exec));
                if rights & 8 != 0 {
                    let masters = self.sections[6].iter().filter(|d| d.u8(38) & 1 != 0);
                    assert!(masters.clone().any(|d| d.u16(40) == index as u64), "no bus master");
                    assert!(matches!(kind, 1 | 7) && task.u8(53) == 0 && map.u64(0) >= 0x45_0000);
                    let end = map.u64(0) + region.u32(16) * 4096;
                    let mine = self.sections[1].iter().filter(|t| t.u16(40) == index as u64);
                    let is_stack = |t: &Record| t.u64(16) < end && map.u64(0) < t.u64(8);
                    assert!(!mine.clone().any(is_stack), "DMA to a stack");
                }
                assert!(!write || matches!(kind, 1 | 3 | 7), "kind {kind} is writable");
                assert!(kind != 7 || task.u8(53) == 0, "a system task maps guest RAM");
                assert!(!exec || kind == 0, "kind {kind} is executable");
                assert!(task.u8(53) == 1 || (kind != 5 && kind != 6), "only init maps {kind}");
                if kind == 3 {
                    let device = self.sections[6][region.u64(0) as u32 as usize];
                    assert_eq!(device.u16(40), index as u64, "registers of another's device");
                    let bar = region.u64(0) >> 32;
                    let is_config = bar == 7 && !write && region.u32(16) == 1;
                    assert!(bar < 6 || is_config, "configuration space that is written");
                }
                assert!(kind == 2 || map.u64(0) != 0x40_8000, "not the system page");
            }
        }
    }

    /// Who sets which bit of which thread, and whether the object of every capability exists.
    fn bits(&self) {
        let mut setters: HashMap<(u64, u64), String> = HashMap::new();
        let mut set = |thread: u64, bit: u64, who: String| {
            assert!((thread as usize) < self.sections[1].len());
            let before = setters.insert((thread, bit), who.clone());
            assert!(before.is_none_or(|before| before == who), "bit {bit} of {thread} twice");
        };
        for (index, task) in self.tasks_().iter().enumerate() {
            if task.u8(53) == 0 {
                let supervisor = self.sections[1][task.u16(50) as usize].u16(40);
                assert_eq!(self.tasks_()[supervisor as usize].u8(53), 2);
                assert!(task.u8(52) < 48);
                set(task.u16(50), task.u8(52), format!("the kernel, for {index}"));
            }
            for cap in self.caps(*task) {
                let object = cap.u32(4);
                let irq_owner = || {
                    let irq = self.sections[7][object as usize];
                    self.sections[1][irq.u16(2) as usize].u16(40)
                };
                match cap.u8(0) {
                    0 => assert_eq!(cap.0, [0; 8]),
                    1 => {
                        assert!(cap.u8(2) < 48 && cap.u8(1) == 1);
                        set(object, cap.u8(2), format!("task {index}"));
                    }
                    2 => assert!((object as usize) < self.tasks_().len() && cap.u8(1) < 16),
                    3 => assert!(irq_owner() == index as u64 && cap.u8(1) == 1),
                    4 => assert!(cap.u8(1) < 4),
                    5 => assert_eq!(self.sections[6][object as usize].u16(40), index as u64),
                    6 => {
                        let vm = self.sections[9][object as usize].u16(0);
                        assert_eq!(self.sections[8][vm as usize].u16(18), index as u64);
                        assert_eq!((cap.u8(1), cap.u8(2)), (1, 0));
                    }
                    kind => panic!("kind {kind}"),
                }
            }
        }
        for vm in &self.sections[8] {
            for doorbell in self.run(11, vm.u32(8), vm.u16(16)) {
                assert!(doorbell.u8(4) < 48);
                set(doorbell.u16(2), doorbell.u8(4), format!("task {}", vm.u16(18)));
            }
        }
        for (index, irq) in self.sections[7].iter().enumerate() {
            assert!((48..56).contains(&irq.u8(6)));
            set(irq.u16(2), irq.u8(6), format!("interrupt {index}"));
            let thread = self.sections[1][irq.u16(2) as usize];
            let device = self.sections[6][irq.u16(0) as usize];
            let (messages, pin) = (device.u8(38) >> 2 & 3, irq.u16(4));
            let first = self.sections[1].iter().find(|t| t.u16(40) == device.u16(40)).unwrap();
            let core = if device.u8(37) == 0 { 0 } else { first.u16(42) };
            assert_eq!(thread.u16(42), core);
            assert!(device.u8(37) == 0 || (messages, pin) == (2, 0) || messages == 1 && pin < 256);
            assert_eq!(thread.u16(40), self.sections[6][irq.u16(0) as usize].u16(40));
        }
    }

    fn ports(&self) {
        let mut owners = HashMap::new();
        for (index, task) in self.tasks_().iter().enumerate() {
            for range in self.ports_of(*task) {
                assert!(range.u16(2) > 0);
                for port in range.u16(0)..range.u16(0) + range.u16(2) {
                    assert!(port < 0xfff8);
                    if task.u8(53) != 1 {
                        assert!(!(0xcf8..0xd00).contains(&port), "config port {port:#x}");
                        let before = owners.insert(port, index);
                        assert!(before.is_none_or(|b| b == index), "port {port:#x} twice");
                    }
                }
            }
        }
    }

    fn devices(&self) {
        let mut functions = HashSet::new();
        for device in &self.sections[6] {
            assert!((device.u16(40) as usize) < self.tasks_().len());
            let (select, nth, kind) = (device.u32(32), device.u8(36), device.u8(37));
            assert!(kind == 0 || functions.insert((select, nth, kind)), "one function twice");
            assert!(kind <= 4);
            let (is_master, messages) = (device.u8(38) & 1 != 0, device.u8(38) >> 2 & 3);
            if kind == 4 {
                let physical = &self.sections[6][select as usize];
                assert!(physical.u8(38) & 17 == 17 && is_master && nth != 0);
                assert!((1..=3).contains(&physical.u8(37)), "of no function that has any");
            }
            assert!(messages == 0 || is_master && messages < 3);
            assert!(!is_master || self.tasks_()[device.u16(40) as usize].u8(53) == 0);
        }
    }

    /// Who sees a guest's memory, page by page, and what a guest sees.
    fn vms(&self) {
        let mut monitors = HashSet::new();
        let (mut threads, mut own_pages) = (HashSet::new(), HashSet::new());
        let mut in_guests: HashMap<u64, usize> = HashMap::new();
        let mut owned = [0, 0, 0];
        for (index, vm) in self.sections[8].iter().enumerate() {
            let monitor = vm.u16(18);
            assert!(monitors.insert(monitor), "two virtual machines of one task");
            assert_eq!(self.tasks_()[monitor as usize].u8(53), 0);
            assert!((1..9).contains(&vm.u16(12)));
            for (sum, count) in owned.iter_mut().zip([12, 14, 16].map(|at| vm.u16(at))) {
                *sum += count;
            }
            for vcpu in self.run(9, vm.u32(0), vm.u16(12)) {
                assert_eq!(vcpu.u16(0), index as u64);
                assert!(threads.insert(vcpu.u16(2)), "a thread runs two vCPUs");
                assert_eq!(self.sections[1][vcpu.u16(2) as usize].u16(40), monitor);
                for (at, pages) in [(4, 1), (6, 2)] {
                    let region = vcpu.u16(at);
                    assert!(own_pages.insert(region), "pages of two vCPUs");
                    let record = self.sections[2][region as usize];
                    assert_eq!((record.u8(20), record.u32(16)), (1, pages));
                    let users = self.users(region);
                    assert!(users.iter().all(|(task, _)| *task == monitor));
                    assert!(users.iter().any(|(_, rights)| rights & 2 != 0));
                }
            }
            self.guest_pages(vm, &mut in_guests);
            let bells = self.run(11, vm.u32(8), vm.u16(16));
            assert!(bells.windows(2).all(|pair| pair[0].u16(0) < pair[1].u16(0)));
            assert!(bells.iter().all(|bell| bell.u16(6) < 1024));
            if !bells.is_empty() {
                let counters = self.sections[2][vm.u16(20) as usize];
                assert_eq!((counters.u8(20), counters.u32(16)), (8, 1));
            }
        }
        let all = [9, 10, 11].map(|section| self.sections[section].len() as u64);
        assert_eq!(owned, all, "a record belongs to no virtual machine");
    }

    /// The tasks that map a region, and their rights.
    fn users(&self, region: u64) -> Vec<(u64, u64)> {
        let tasks = self.tasks_().iter().enumerate();
        let maps = tasks.flat_map(|(index, task)| self.maps(*task).iter().map(move |m| (index, m)));
        let here = maps.filter(|(_, map)| map.u16(8) == region);
        here.map(|(index, map)| (index as u64, map.u8(10))).collect()
    }

    fn guest_pages(&self, vm: &Record, in_guests: &mut HashMap<u64, usize>) {
        let monitor = vm.u16(18);
        let mut pages = HashSet::new();
        for map in self.run(10, vm.u32(4), vm.u16(14)) {
            let (first, region, rights) = (map.u64(0), map.u16(8), map.u8(10));
            let record = self.sections[2][region as usize];
            let kind = record.u8(20);
            assert!(rights & 1 == 1 && rights < 8);
            assert!(kind == 7 || rights & 2 == 0, "a guest writes what is not its RAM");
            assert!(kind == 7 || kind == 0 || rights == 1);
            assert_eq!(first % if kind == 7 { 0x20_0000 } else { 4096 }, 0);
            let by_monitor = |(task, _): &(u64, u64)| *task == monitor;
            match kind {
                0 => {}
                1 => assert!(self.users(region).iter().all(by_monitor), "another's RAM"),
                7 => assert!(!self.users(region).iter().any(by_monitor), "the monitor sees it"),
                _ => panic!("kind {kind} in a guest"),
            }
            let count = in_guests.entry(region).or_default();
            *count += 1;
            assert!(kind == 0 || *count == 1, "RAM is twice in guests");
            for page in first / 4096..first / 4096 + record.u32(16) {
                assert!(pages.insert(page), "two things at guest page {page:#x}");
                assert!(page < 0x10_0000);
                assert_eq!((0xfec00..0xff000).contains(&page), kind == 1, "page {page:#x}");
            }
        }
    }
}
