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
const SIZES: [usize; 8] = [56, 48, 24, 16, 8, 4, 48, 16];

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
            assert!(start >= 136, "a section overlaps the head");
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
            for page in 0..region.u32(16) {
                let page = map.u64(0) / 4096 + page;
                assert!((0x404..0x40000).contains(&page), "page {page:#x} is out of bounds");
                assert!(pages.insert(page, map.u8(10)).is_none(), "page {page:#x} twice");
            }
        }
        pages
    }

    fn memory(&self) {
        let ram = self.sections[2].iter().filter(|r| matches!(r.u8(20), 1 | 4));
        assert_eq!(ram.map(|r| r.u32(16)).sum::<u64>(), self.ram_pages);
        for region in &self.sections[2] {
            assert!(region.u8(20) < 7);
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
                assert!(rights & 1 != 0 && rights < 8 && !(write && exec));
                assert!(!write || kind == 1 || kind == 3, "kind {kind} is writable");
                assert!(!exec || kind == 0, "kind {kind} is executable");
                assert!(task.u8(53) == 1 || (kind != 5 && kind != 6), "only init maps {kind}");
                if kind == 3 {
                    let device = self.sections[6][region.u64(0) as u32 as usize];
                    assert_eq!(device.u16(40), index as u64, "registers of another's device");
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
                    kind => panic!("kind {kind}"),
                }
            }
        }
        for (index, irq) in self.sections[7].iter().enumerate() {
            assert!((48..56).contains(&irq.u8(6)));
            set(irq.u16(2), irq.u8(6), format!("interrupt {index}"));
            let thread = self.sections[1][irq.u16(2) as usize];
            assert_eq!(thread.u16(42), 0);
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
            assert!(kind < 4);
        }
    }
}
