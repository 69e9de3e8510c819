//! A virtio transport with its shared words ([`Rig`]), and a model of it that was written from the
//! specification alone ([`Model`]). The model keeps what the driver wrote in a map by offset and
//! knows nothing of how the transport does it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_monitor::virtio::{Action, Virtio};
use cloister_virtio::wire;
use proptest::prelude::*;

/// Bytes of RAM.
pub const MEMORY: u64 = 1 << 20;
const SIZE: u32 = 64;
/// What the worker of the property test offers.
const OFFERS: u64 = 1 << 5 | 1 << 29 | PACKED | 1 << 38;
const VISIBLE: u64 = 1 << 5 | 1 << 29 | 1 << 32 | 1 << 33 | PACKED;
/// Rings are packed.
const PACKED: u64 = 1 << 34;

/// A page of words.
pub fn words() -> &'static [AtomicU64] {
    Vec::leak((0..wire::WORDS).map(|_| AtomicU64::new(0)).collect())
}

/// A device and the words behind it.
pub struct Rig {
    /// The device.
    pub device: Virtio<'static>,
    /// Its words.
    pub words: &'static [AtomicU64],
}

impl Rig {
    /// A device with so many queues, whose worker has not answered.
    pub fn new(queues: u16) -> Rig {
        let words = words();
        Rig { device: Virtio::new(words, queues, MEMORY).unwrap(), words }
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u16, width: u8) -> u32 {
        self.device.read(offset, width)
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u16, width: u8, value: u32) -> Action {
        self.device.write(offset, width, value)
    }

    /// The newest order.
    pub fn order(&self) -> u64 {
        self.words[wire::ORDER].load(Relaxed)
    }

    /// The worker answers the newest order.
    pub fn answer(&self) {
        self.words[wire::ANSWER].store(self.order(), Relaxed);
    }

    /// The words of a queue.
    pub fn queue(&self, queue: usize) -> [u64; 4] {
        let first = wire::QUEUES + wire::QUEUE_WORDS * queue;
        [0, 1, 2, 3].map(|word| self.words[first + word].load(Relaxed))
    }

    /// Does something to device and model, and compares them.
    pub fn check(&mut self, op: Op, model: &mut Model) -> Result<(), TestCaseError> {
        match op {
            Op::Advance => {
                let writes: &[(u16, u8, u32)] = match model.status {
                    0 => &[(0x14, 1, 1), (0x14, 1, 3)],
                    3 => &[(0x08, 4, 1), (0x0c, 4, 1), (0x14, 1, 0xb)],
                    0xb => &[(0x14, 1, 0xf)],
                    _ => &[],
                };
                for &(offset, width, value) in writes {
                    self.check(Op::Write(offset, width, value), model)?;
                }
            }
            Op::Write(offset, width, value) => {
                let action = self.write(offset, width, value);
                let signal = model.write(offset, width, value);
                prop_assert_eq!(action.signal, signal, "{:?}", op);
            }
            Op::Answer => {
                self.words[wire::OFFERS].store(OFFERS, Relaxed);
                self.words[wire::QUEUE_SIZE].store(u64::from(SIZE), Relaxed);
                self.answer();
                let _ = self.device.poll(true);
                model.answer();
            }
            Op::Broken => {
                self.words[wire::BROKEN].store(self.order(), Relaxed);
                let _ = self.device.poll(true);
                model.broken();
            }
            Op::Used(bits) => {
                self.words[wire::PENDING].fetch_or(bits, Relaxed);
                let vectors = self.device.poll(true).vectors;
                prop_assert_eq!(vectors, model.used(bits), "{:?}", op);
            }
        }
        for (offset, width) in FIELDS {
            let (there, expected) = (self.read(offset, width), model.read(offset));
            prop_assert_eq!(there, expected, "{:#x} after {:?}", offset, op);
        }
        let order = self.order();
        prop_assert_eq!(order & 1 != 0, model.live, "after {:?}", op);
        if model.live {
            model.check_published([0, 1].map(|queue| self.queue(queue)))?;
            prop_assert_eq!(self.words[wire::FEATURES].load(Relaxed), model.accepted());
        }
        Ok(())
    }
}

/// Everything that a driver can read without changing it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen(Vec<u32>, Vec<u64>);

impl Seen {
    /// All fields, and all words.
    pub fn of(rig: &mut Rig) -> Seen {
        let fields = FIELDS.map(|(offset, width)| rig.read(offset, width));
        let words = rig.words.iter().map(|word| word.load(Relaxed)).collect();
        Seen(fields.to_vec(), words)
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// The driver writes.
    Write(u16, u8, u32),
    /// The driver does what a driver does next.
    Advance,
    /// The worker answers what was ordered.
    Answer,
    /// The worker gives up.
    Broken,
    /// The worker has used buffers.
    Used(u64),
}

/// Mostly what drivers do, in any order; sometimes anything.
pub fn op() -> impl Strategy<Value = Op> {
    let status = prop::sample::select(vec![0, 1, 3, 0xb, 0xf, 0x8b, 0x4f, 7, 2, 9]);
    let address = prop_oneof![
        4 => (0u32..0x200).prop_map(|page| page << 12),
        1 => (0u32..0x200).prop_map(|part| part << 2),
        1 => any::<u32>()
    ];
    let features = prop::sample::select(vec![0, 1, 3, 5, 1 << 5, 1 << 29, 1 << 6]);
    let anything = (0u16..0x100, 1u8..5, any::<u32>());
    let size = prop::sample::select(vec![0, 1, 2, 3, 16, 64, 128, 0xffff]);
    prop_oneof![
        8 => status.prop_map(|value| Op::Write(0x14, 1, value)),
        2 => (0u32..3).prop_map(|value| Op::Write(0x08, 4, value)),
        2 => features.prop_map(|value| Op::Write(0x0c, 4, value)),
        2 => (0u32..3).prop_map(|value| Op::Write(0x00, 4, value)),
        2 => (0u32..3).prop_map(|value| Op::Write(0x16, 2, value)),
        1 => size.prop_map(|value| Op::Write(0x18, 2, value)),
        1 => (0u32..4).prop_map(|value| Op::Write(0x1a, 2, value)),
        1 => (0u32..4).prop_map(|value| Op::Write(0x10, 2, value)),
        3 => (0u32..3).prop_map(|value| Op::Write(0x1c, 2, value)),
        4 => (0u16..3, address).prop_map(|(part, value)| Op::Write(0x20 + part * 8, 4, value)),
        1 => (0u16..3, 0u32..2).prop_map(|(part, value)| Op::Write(0x24 + part * 8, 4, value)),
        1 => anything.prop_map(|(at, width, value)| Op::Write(at, width, value)),
        4 => Just(Op::Advance),
        5 => Just(Op::Answer),
        1 => Just(Op::Broken),
        2 => (0u64..8).prop_map(Op::Used),
    ]
}

/// The fields that reading does not change.
const FIELDS: [(u16, u8); 18] = [
    (0x00, 4),
    (0x04, 4),
    (0x08, 4),
    (0x0c, 4),
    (0x10, 2),
    (0x12, 2),
    (0x14, 1),
    (0x16, 2),
    (0x18, 2),
    (0x1a, 2),
    (0x1c, 2),
    (0x1e, 2),
    (0x20, 4),
    (0x24, 4),
    (0x28, 4),
    (0x2c, 4),
    (0x30, 4),
    (0x34, 4),
];

/// What the specification says that a driver sees.
pub struct Model {
    /// The worker works the queues.
    pub live: bool,
    waits: bool,
    known: bool,
    status: u32,
    selects: BTreeMap<u16, u32>,
    accepted: BTreeMap<u32, u32>,
    config_vector: u32,
    /// Per queue: field offset to value.
    queues: [BTreeMap<u16, u32>; 2],
    published: Option<[[u64; 4]; 2]>,
}

impl Model {
    /// A device that waits for its worker.
    pub fn new() -> Model {
        Model {
            live: false,
            waits: true,
            known: false,
            status: 0,
            selects: BTreeMap::new(),
            accepted: BTreeMap::new(),
            config_vector: 0xffff,
            queues: Default::default(),
            published: None,
        }
    }

    fn select(&self, at: u16) -> u32 {
        self.selects.get(&at).copied().unwrap_or(0)
    }

    /// What the driver accepts.
    pub fn accepted(&self) -> u64 {
        let half = |n| u64::from(self.accepted.get(&n).copied().unwrap_or(0));
        half(1) << 32 | half(0)
    }

    fn read(&self, offset: u16) -> u32 {
        let window = |bits: u64, n: u32| if n < 2 { (bits >> (32 * n)) as u32 } else { 0 };
        let offered = if self.known { VISIBLE } else { 3 << 32 };
        let queue = self.queues.get(self.select(0x16) as usize);
        match offset {
            0x00 | 0x08 | 0x16 => self.select(offset),
            0x1e => self.select(0x16),
            0x04 => window(offered, self.select(0)),
            0x0c => window(self.accepted(), self.select(8)),
            0x10 => self.config_vector,
            0x12 => 2,
            0x14 => self.status,
            0x18 => queue.map_or(0, |q| q.get(&0x18).copied().unwrap_or(self.size_max())),
            0x1a => queue.map_or(0xffff, |q| q.get(&0x1a).copied().unwrap_or(0xffff)),
            _ => queue.map_or(0, |q| q.get(&offset).copied().unwrap_or(0)),
        }
    }

    fn size_max(&self) -> u32 {
        if self.known { SIZE } else { 0 }
    }

    /// Whether the worker is to be signalled.
    fn write(&mut self, offset: u16, width: u8, value: u32) -> bool {
        if offset >= 0xc0 {
            return self.live;
        }
        if !FIELDS.contains(&(offset, width)) || self.waits {
            return false;
        }
        let value = value & (u32::MAX >> (32 - 8 * u32::from(width)));
        let vector = if value < 3 { value } else { 0xffff };
        let size_max = self.size_max();
        let ready = self.status & 4 != 0;
        let packed = self.status & 8 != 0 && self.accepted() & PACKED != 0;
        let selected = self.select(0x16) as usize;
        match offset {
            0x00 | 0x08 | 0x16 => drop(self.selects.insert(offset, value)),
            0x0c if self.status & 8 == 0 => {
                let window = self.select(8);
                if window < 2 || value != 0 {
                    self.accepted.insert(window, value);
                }
            }
            0x10 => self.config_vector = vector,
            0x14 => return self.write_status(value),
            0x1a..0x1c => {
                if let Some(queue) = self.queues.get_mut(selected) {
                    queue.insert(0x1a, vector);
                }
            }
            0x18 | 0x1c | 0x20.. if !ready => {
                let Some(queue) = self.queues.get_mut(selected) else { return false };
                let size = queue.get(&0x18).copied().unwrap_or(size_max);
                let enabled = queue.get(&0x1c) == Some(&1);
                let fine = match offset {
                    0x18 => value != 0 && value <= size_max && (packed || value.count_ones() == 1),
                    0x1c => value == 1 && size > 0,
                    _ => true,
                };
                if fine && !enabled {
                    queue.insert(offset, value);
                }
            }
            _ => {}
        }
        false
    }

    fn write_status(&mut self, value: u32) -> bool {
        let old = self.status;
        if value == 0 {
            self.waits = self.live;
            if !self.live {
                self.forget();
            }
            return std::mem::take(&mut self.live);
        }
        // Virtio 1.3, "Device Status Field": the driver must not clear a bit.
        if [1, 2, 4, 8, 0x80].iter().any(|bit| old & bit != 0 && value & bit == 0) {
            return false;
        }
        for bit in [1, 0x80, 2, 8, 4] {
            let has = |bits: u32| self.status & bits == bits;
            let allowed = match bit {
                2 => has(1),
                8 => has(3) && self.features_fit(),
                4 => old & 8 != 0 && self.status & 0xc0 == 0,
                _ => true,
            };
            if value & bit != 0 && allowed {
                self.status |= bit;
            }
        }
        if self.status & 4 == 0 || old & 4 != 0 {
            return false;
        }
        let queues = [0, 1].map(|queue| self.words(queue));
        let packed = self.accepted() & PACKED != 0;
        if queues.iter().all(|queue| is_valid(queue, packed)) {
            (self.live, self.published) = (true, Some(queues));
        } else {
            self.status |= 0x40;
        }
        self.live
    }

    fn features_fit(&self) -> bool {
        let beyond = self.accepted.keys().any(|window| *window > 1);
        self.accepted() & !VISIBLE == 0 && self.accepted() >> 32 & 1 != 0 && !beyond
    }

    /// What a queue is to look like in the page.
    fn words(&self, queue: usize) -> [u64; 4] {
        let get = |at: u16| u64::from(self.queues[queue].get(&at).copied().unwrap_or(0));
        if get(0x1c) != 1 {
            return [0; 4];
        }
        let size = self.queues[queue].get(&0x18).copied().unwrap_or(SIZE);
        let part = |at: u16| get(at + 4) << 32 | get(at);
        [u64::from(size), part(0x20), part(0x28), part(0x30)]
    }

    fn check_published(&self, queues: [[u64; 4]; 2]) -> Result<(), TestCaseError> {
        prop_assert_eq!(Some(queues), self.published);
        let packed = self.accepted() & PACKED != 0;
        prop_assert!(queues.iter().all(|queue| is_valid(queue, packed)), "{:x?}", queues);
        Ok(())
    }

    fn forget(&mut self) {
        let known = self.known;
        *self = Model { waits: false, known, ..Model::new() };
    }

    fn answer(&mut self) {
        if self.waits {
            self.known = true;
            self.forget();
        }
    }

    fn broken(&mut self) {
        if self.live {
            self.status |= 0x40;
        }
    }

    fn used(&self, bits: u64) -> u64 {
        let queues = self.queues.iter().enumerate().filter(|_| self.live);
        let used = queues.filter(|(n, queue)| bits & 1 << n != 0 && queue.get(&0x1c) == Some(&1));
        let vectors = used.filter_map(|(_, queue)| queue.get(&0x1a).filter(|v| **v != 0xffff));
        vectors.fold(0, |all, vector| all | 1 << vector)
    }
}

/// Virtio 1.3, "Virtqueues": the parts of a ring.
fn is_valid(queue: &[u64; 4], packed: bool) -> bool {
    let [size, descriptors, driver, device] = queue.map(u128::from);
    let inside = |start: u128, len: u128| start + len <= u128::from(MEMORY);
    let is_split = size == 0
        || size.is_power_of_two()
            && size <= u128::from(SIZE)
            && descriptors % 16 == 0
            && driver % 2 == 0
            && device % 4 == 0
            && inside(descriptors, 16 * size)
            && inside(driver, 6 + 2 * size)
            && inside(device, 6 + 8 * size);
    let is_packed = size <= u128::from(SIZE)
        && descriptors % 16 == 0
        && driver % 4 == 0
        && device % 4 == 0
        && inside(descriptors, 16 * size)
        && inside(driver, 4)
        && inside(device, 4);
    if packed { is_packed } else { is_split }
}
