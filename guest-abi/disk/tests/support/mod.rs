//! A disk on the host for the driver under test: memory, the device's side of a ring, blocks.
//!
//! [`Bench`] sleeps like a real device: it looks at a ring only after a doorbell, and says only
//! when it wants to interrupt. A driver that keeps a doorbell to itself, or a wish, stands still.

#![allow(dead_code)]

pub mod arena;

use std::collections::VecDeque;

use arena::Arena;
use cloister_guest_abi::disk::{BLOCK, SECTORS, features, request, status};
use cloister_guest_disk::{Area, Data, Layout, Options, Queue, RING_BYTES, SLOT_BYTES};
use cloister_virtio::{Chain, Head, Queue as Side, Record};

/// Where things lie in the arena.
const RING: u64 = 0x1000;
const SLOTS: u64 = 0x4000;
const BUFFERS: u64 = SLOTS + SLOT_BYTES as u64;

/// A buffer of the tests: its number.
pub type Buffer = usize;
/// Most bytes of a buffer.
pub const BUFFER: u64 = 4 * BLOCK;

/// A request as a device sees it.
pub struct Fetched {
    head: Head,
    chain: Box<Chain<128>>,
    pub readable: Vec<u8>,
    pub writable: u64,
}

/// A driver's queue and the device behind it.
pub struct Bench<'m> {
    arena: &'m Arena,
    pub queue: Queue<'m, Buffer>,
    side: Side,
    pub disk: Vec<u8>,
    /// Fetched and not completed.
    pub pending: VecDeque<Fetched>,
    rung: bool,
    pub interrupted: bool,
}

/// Memory for a bench with so many buffers.
pub fn arena(buffers: usize) -> Arena {
    Arena::new((BUFFERS + buffers as u64 * BUFFER) as usize)
}

impl<'m> Bench<'m> {
    pub fn new(arena: &'m Arena, size: u16, options: Options, blocks: u64) -> Self {
        let area = |at: u64, len: usize| Area::new(at, arena.words(at, len));
        let (ring, slots) = (area(RING, RING_BYTES), area(SLOTS, SLOT_BYTES));
        let queue = Queue::with_size(size, ring, slots, options).expect("enough memory");
        let [descriptors, driver, device] = queue.areas();
        let record = Record { size: size.into(), descriptors, driver, device };
        let mut accepted = 0;
        accepted |= if options.is_indirect { features::INDIRECT } else { 0 };
        accepted |= if options.has_event_idx { features::EVENT_IDX } else { 0 };
        let is_packed = options.layout == Layout::Packed;
        accepted |= if is_packed { features::RING_PACKED } else { 0 };
        let side = Side::new(&record, accepted, size, 1, arena).expect("a good queue");
        let disk = vec![0; (blocks * BLOCK) as usize];
        let pending = VecDeque::new();
        let mut bench = Self { arena, queue, side, disk, pending, rung: false, interrupted: false };
        bench.sleep();
        bench
    }

    /// A buffer as data of a request, with these bytes.
    pub fn data(&self, buffer: Buffer, bytes: &[u8]) -> Data<Buffer> {
        let at = BUFFERS + buffer as u64 * BUFFER;
        self.arena.poke(at, bytes);
        Data { buffer, at, len: bytes.len() as u32 }
    }

    pub fn bytes(&self, buffer: Buffer, len: usize) -> Vec<u8> {
        self.arena.peek(BUFFERS + buffer as u64 * BUFFER, len)
    }

    pub fn ring_if_wanted(&mut self) {
        self.rung |= self.queue.must_ring();
    }

    /// The device takes what there is, if its doorbell was rung, and goes to sleep again.
    pub fn device_fetches(&mut self) {
        if core::mem::take(&mut self.rung) {
            self.device_looks();
        }
    }

    /// The device takes what there is and goes to sleep.
    pub fn device_looks(&mut self) {
        loop {
            while let Some(fetched) = self.fetch() {
                self.pending.push_back(fetched);
            }
            if !self.sleep() {
                return;
            }
        }
    }

    /// Whether there is something to fetch after all.
    fn sleep(&mut self) -> bool {
        self.side.listen(self.arena).expect("a good ring")
    }

    fn fetch(&mut self) -> Option<Fetched> {
        let mut chain = Box::new(Chain::default());
        let head = self.side.fetch(self.arena, &mut chain).expect("a good ring")?;
        let mut readable = vec![0; chain.readable_len() as usize];
        chain.read(self.arena, 0, &mut readable).expect("in memory");
        let writable = chain.writable_len();
        Some(Fetched { head, chain, readable, writable })
    }

    /// The device does one of its pending requests and completes it.
    pub fn device_completes(&mut self, which: usize) {
        let fetched = self.pending.remove(which).expect("a pending request");
        let mut answer = self.execute(&fetched);
        assert!(answer.len() as u64 <= fetched.writable, "the device has room");
        self.answer(fetched, &mut answer);
    }

    /// The device completes a request with these bytes, the status last.
    pub fn answer(&mut self, fetched: Fetched, answer: &mut [u8]) {
        let written = answer.len() as u32;
        fetched.chain.write(self.arena, 0, answer).expect("in memory");
        self.side.complete(self.arena, fetched.head, written).expect("a good ring");
        let wants = self.side.wants_interrupt(self.arena).expect("a good ring");
        self.interrupted |= wants;
    }

    fn execute(&mut self, fetched: &Fetched) -> Vec<u8> {
        let le = |at: usize, len: usize| {
            let bytes = &fetched.readable[at..at + len];
            bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (kind, sector) = (le(0, 4) as u32, le(8, 8));
        let at = (sector / SECTORS * BLOCK) as usize;
        let inside = |len: usize| at + len <= self.disk.len();
        let room = fetched.writable as usize - 1;
        match kind {
            request::READ if inside(room) => {
                let mut answer = self.disk[at..at + room].to_vec();
                answer.push(status::OK);
                answer
            }
            request::WRITE if inside(fetched.readable.len() - 16) => {
                let data = &fetched.readable[16..];
                self.disk[at..at + data.len()].copy_from_slice(data);
                vec![status::OK]
            }
            request::READ => [vec![0; room], vec![status::IO_ERROR]].concat(),
            request::WRITE => vec![status::IO_ERROR],
            request::FLUSH => vec![status::OK],
            request::ID => [&b"a disk of the tests\0"[..], &[status::OK]].concat(),
            request::DISCARD | request::WRITE_ZEROES => {
                assert_eq!(fetched.readable.len(), 32, "header and one range");
                let (at, len) = ((le(16, 8) / SECTORS * BLOCK) as usize, le(24, 4) / SECTORS);
                assert_eq!(le(28, 4), 0, "no flags");
                self.disk[at..at + (len * BLOCK) as usize].fill(0);
                vec![status::OK]
            }
            _ => vec![status::UNSUPPORTED],
        }
    }
}

/// Every way in which a queue can be worked.
pub fn all_options() -> Vec<Options> {
    let mut all = Vec::new();
    for layout in [Layout::Split, Layout::Packed] {
        for (is_indirect, has_event_idx) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            all.push(Options { layout, is_indirect, has_event_idx, cut: BLOCK as u32 });
        }
    }
    all
}
