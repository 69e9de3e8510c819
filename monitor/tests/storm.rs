//! A hostile guest, hostile workers and a hostile console: more than a million random exits, with
//! random registers and random words in all shared pages, end in no panic. A failure names the
//! seed, which starts the same storm again.
#![cfg(not(loom))]

mod support;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::vcpu::{Exit, FLAG_EVENT, FLAG_SHADOW, PORT_IN, PORT_STRING, STEP, VcpuState};
use cloister_monitor::bus::Bus;
use cloister_monitor::machine::Machine;
use cloister_monitor::run::{Cpu, Host, Ran};
use cloister_proto::vm::{VM_IOAPIC, VM_LEGACY, VM_V3, VM_XAPIC, VmDevice};
use cloister_ring::{Side, Stream};
use support::{TSC_HZ, config, table};

/// Exits of one storm.
const EXITS: u64 = 300_000;

/// Numbers by xorshift (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number that is small, large, or one bit.
    fn odd(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(16),
            1 => 1 << self.below(64),
            2 => u64::MAX,
            3 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }
}

/// First numbers of ranges in which something is.
const PORTS: [u64; 17] = [
    0x20, 0x40, 0x60, 0x70, 0x80, 0xa0, 0x3f8, 0x3f8, 0x4d0, 0x500, 0x508, 0xcf8, 0xcf8, 0xcfc,
    0x1000, 0x1080, 0x1100,
];
const MSRS: [u64; 10] =
    [0x10, 0x1b, 0x3a, 0x277, 0x6e0, 0x800, 0x80b, 0x830, 0xc000_0080, 0xc000_0103];
const PAGES: [u64; 6] =
    [0xfee0_0000, 0xfee0_0000, 0xfec0_0000, 0xfed0_0000, 0xfed0_1000, 0xfeff_f000];

struct Storm<'a> {
    random: Random,
    page: VcpuState,
    slots: Vec<AtomicU64>,
    shared: &'a [&'a [AtomicU64]],
    counts: &'a Counts,
    now: u64,
}

#[derive(Default)]
struct Counts {
    exits: Cell<u64>,
    /// Waits since the last exit.
    waits: Cell<u64>,
}

impl Storm<'_> {
    /// Somebody writes somewhere.
    fn disturb(&mut self) {
        for _ in 0..self.random.below(3) {
            let words = self.shared[self.random.below(self.shared.len() as u64) as usize];
            // Most of what is interesting lies in front.
            let end = if self.random.below(2) == 0 { 80 } else { words.len() as u64 };
            let word = &words[self.random.below(end) as usize];
            word.store(self.random.odd(), Ordering::Relaxed);
        }
        let slot = self.random.below(1024) as usize;
        self.slots[slot].store(self.random.odd(), Ordering::Relaxed);
        self.now = self.now.wrapping_add(match self.random.below(100) {
            0 => self.random.next() >> self.random.below(60),
            _ => self.random.below(5_000),
        });
    }
}

impl Host for Storm<'_> {
    fn state(&mut self) -> &mut VcpuState {
        &mut self.page
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }

    fn run(&mut self, _deadline: u64) -> Ran {
        self.disturb();
        self.counts.waits.set(0);
        let (random, page) = (&mut self.random, &mut self.page);
        let steps = page.set & STEP != 0;
        page.set = 0;
        match random.below(20) {
            0 => return Ran::Bits(random.odd()),
            1 => return Ran::Deadline,
            _ => self.counts.exits.set(self.counts.exits.get() + 1),
        }
        page.registers = std::array::from_fn(|_| random.odd());
        (page.rflags, page.tpr) = (random.odd(), random.below(17) as u32);
        page.flags = if random.below(50) == 0 { FLAG_EVENT | FLAG_SHADOW } else { 0 };
        (page.rip, page.next_rip, page.efer) = (random.odd(), random.odd(), random.odd());
        (page.cr0, page.cr4, page.interrupt) =
            (random.odd(), random.odd(), page.interrupt * random.below(2) as u32);
        page.info = std::array::from_fn(|_| random.odd());
        // Mostly what can follow a request to step, and mostly not what ends a machine.
        let kinds: &[u64] = match (random.below(40), steps) {
            (0, _) => &[5, 8, 9, 14],
            (_, true) => &[6, 6, 8, 8, 8, 9, 1],
            (_, false) => &[1, 2, 2, 2, 3, 4, 4, 6, 6, 7, 10, 11, 12, 13],
        };
        page.exit = random.pick(kinds) as u32;
        match Exit::from_code(page.exit) {
            Some(Exit::Port) => {
                let width = random.pick(&[1, 2, 4, 1, 2, 4, 0, 3, 7]);
                let string = if random.below(30) == 0 { PORT_STRING } else { 0 };
                let port = random.pick(&PORTS) + random.below(32);
                let input = if random.below(2) == 0 { PORT_IN } else { 0 };
                page.info[0] = port & 0xffff | width << 16 | input | string;
            }
            Some(Exit::MsrRead | Exit::MsrWrite) if random.below(8) != 0 => {
                page.registers[1] = random.pick(&MSRS) + random.below(64) * random.below(2);
            }
            Some(Exit::Memory) if random.below(20) != 0 => {
                page.info[0] = random.pick(&PAGES) + random.below(4096);
                page.info[1] = random.below(2);
            }
            Some(_) if random.below(200) == 0 => page.exit = random.odd() as u32,
            _ => {}
        }
        Ran::Exit
    }

    fn wait(&mut self, _deadline: u64) -> Ran {
        self.disturb();
        self.counts.waits.set(self.counts.waits.get() + 1);
        if self.random.below(2) == 0 { Ran::Deadline } else { Ran::Bits(self.random.next()) }
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn signal(&mut self, _signals: u64) {}
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// One storm; how many exits it had and how often the machine ended.
fn storm(flags: u32, seed: u64) -> (u64, u64) {
    let mut config = config(2, flags);
    let (counts, mut ends) = (Counts::default(), 0u64);
    let [virtio, more, msix, more_msix, console] = [512, 512, 512, 512, 600].map(words);
    for (number, (kind, queues)) in [(3, 2), (4, 1)].into_iter().enumerate() {
        let mut name = [0; 32];
        name[0] = b'a' + number as u8;
        config.devices[number] = VmDevice { name, kind, queues, reserved: 0 };
    }
    let table = table(&config);
    let mut random = Random(seed);
    while counts.exits.get() < EXITS {
        let machine = Machine::new();
        machine.start(2, flags & VM_XAPIC == 0, 1_000);
        let mut bus = Bus::new(flags, TSC_HZ, random.odd(), 1_000);
        for (number, words, page) in [(0, &virtio, &msix), (1, &more, &more_msix)] {
            let device = &config.devices[number];
            let added = bus.add_device(number, 1 << number, |devices| {
                devices.add(number, device, words, page, config.memory)
            });
            added.expect("pages are large enough");
        }
        let stream = Stream::new(&console, Side::Client, random.odd());
        bus.set_console(stream.expect("a console is large enough"), 4);
        let shared: [&[AtomicU64]; 3] = [&virtio, &more, &console];
        let host = Storm {
            random: Random(random.next()),
            page: VcpuState::default(),
            slots: words(1024),
            shared: &shared,
            counts: &counts,
            now: 1_000,
        };
        let mut cpu = Cpu::new(host, 0, &machine, &config, &table, TSC_HZ, Some(&mut bus));
        // A guest that halts for good has ended too.
        while cpu.turn().is_none() && counts.waits.get() < 20 {}
        ends += 1;
    }
    (counts.exits.get(), ends)
}

#[test]
fn a_million_random_exits_end_in_no_panic() {
    let flags =
        [0, VM_XAPIC | VM_IOAPIC | VM_LEGACY | VM_V3, VM_IOAPIC | VM_V3, VM_XAPIC | VM_LEGACY];
    let mut total = 0;
    for (number, flags) in flags.into_iter().enumerate() {
        let seed = 0x9e37_79b9_7f4a_7c15 ^ number as u64;
        println!("flags {flags:#x}, seed {seed:#x}");
        let (exits, ends) = storm(flags, seed);
        // Storms reach the ends of machines, and live long in between.
        assert!(ends > 10 && exits / ends > 20, "{exits} exits, {ends} ends");
        total += exits;
    }
    assert!(total >= 1_000_000, "{total}");
}
