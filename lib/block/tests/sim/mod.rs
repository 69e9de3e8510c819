//! A simulated disk ([`SimDisk`]) with its machine's memory, and a driver's [`Buffers`].

use std::cell::RefCell;
use std::rc::Rc;

use cloister_block::{
    Bounce, Busy, Command, Disk, Fit, Limits, Operation, Outcome, PAGE, Request, Segment, Tag,
};

/// Where clients' memory begins.
pub const MEMORY: u64 = 0x100_0000;
/// Where the driver's own memory begins: a page of zeros, then the buffers.
const OWN: u64 = 0x10_0000;
/// Number of buffers.
pub const BUFFERS: usize = 2;
const BUFFER_PAGES: u64 = 1;
/// Commands that the disk takes at a time.
const DEPTH: usize = 5;

struct Out {
    tag: Tag,
    operation: Operation,
    block: u64,
    blocks: u64,
    segments: Vec<Segment>,
    is_cancelled: bool,
}

/// A disk that answers in any order, takes few commands, and fails at times.
pub struct SimDisk {
    limits: Limits,
    blocks: Vec<u8>,
    own: Rc<RefCell<Vec<u8>>>,
    clients: Rc<RefCell<Vec<u8>>>,
    out: Vec<Out>,
    seed: u64,
    failures: u64,
    /// It answers nothing.
    pub stuck: bool,
    /// Flushes that were done.
    pub flushes: u64,
}

impl SimDisk {
    /// A disk of zeros; `failures` of 100 commands fail.
    pub fn new(limits: Limits, seed: u64, failures: u64) -> SimDisk {
        let bytes = limits.blocks * u64::from(limits.block_size);
        let own = (1 + BUFFERS as u64 * BUFFER_PAGES) * PAGE;
        SimDisk {
            limits,
            blocks: vec![0; bytes as usize],
            own: Rc::new(RefCell::new(vec![0; own as usize])),
            clients: Rc::new(RefCell::new(vec![0; 8 << 20])),
            out: Vec::new(),
            seed: seed | 1,
            failures,
            stuck: false,
            flushes: 0,
        }
    }

    /// One of `sides` equal chances.
    pub fn coin(&mut self, sides: u64) -> bool {
        self.random(sides) == 0
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    /// A piece of the clients' memory.
    pub fn memory(&mut self, address: u64, len: u64) -> std::cell::RefMut<'_, [u8]> {
        let at = (address - MEMORY) as usize;
        std::cell::RefMut::map(self.clients.borrow_mut(), |m| &mut m[at..][..len as usize])
    }

    /// Bytes of a request's memory.
    pub fn gather(&self, segments: &[Segment], at: u64, len: u64) -> Vec<u8> {
        gather(&self.clients.borrow(), segments, at, len)
    }

    /// A block's content.
    pub fn block(&self, block: u64) -> &[u8] {
        let size = self.limits.block_size as usize;
        &self.blocks[block as usize * size..][..size]
    }

    /// Commands that were not answered.
    pub fn outstanding(&self) -> usize {
        self.out.len()
    }

    /// Those of them that are not wanted.
    pub fn cancelled(&self) -> usize {
        self.out.iter().filter(|out| out.is_cancelled).count()
    }

    /// It answers again.
    pub fn reset(&mut self) {
        self.stuck = false;
    }

    fn checked(&self, tag: Tag, command: &Command<'_>) {
        let Command { operation, block, blocks, segments } = *command;
        let bytes = u64::from(blocks) * u64::from(self.limits.block_size);
        assert!(block + u64::from(blocks) <= self.limits.blocks, "{command:?}");
        assert_eq!(operation == Operation::Flush, blocks == 0, "{command:?}");
        if operation.moves_data() {
            assert_eq!(segments.iter().map(|s| s.len).sum::<u64>(), bytes, "{command:?}");
            assert!(bytes <= self.limits.bytes_max && segments.len() <= self.limits.segments_max);
            assert!(segments.iter().all(|s| (s.address | s.len) & (self.limits.align - 1) == 0));
            let seams = segments.windows(2).all(|pair| {
                (pair[0].address + pair[0].len) % PAGE == 0 && pair[1].address % PAGE == 0
            });
            assert!(seams || self.limits.fit == Fit::Any, "{command:?}");
        } else {
            assert!(segments.is_empty());
        }
        let most = match operation {
            Operation::Zero => self.limits.zero_blocks_max,
            Operation::Discard => self.limits.discard_blocks_max,
            _ => u32::MAX,
        };
        assert!(blocks <= most, "{command:?}");
        for out in self.out.iter().filter(|out| out.tag != tag) {
            let apart = block + u64::from(blocks) <= out.block || out.block + out.blocks <= block;
            let any = operation.changes() || out.operation.changes();
            let is_flush = blocks == 0 || out.blocks == 0;
            assert!(apart || !any || is_flush, "{command:?} overlaps one in flight");
        }
    }

    fn execute(&mut self, out: &Out) {
        let size = u64::from(self.limits.block_size);
        let range = (out.block * size) as usize..((out.block + out.blocks) * size) as usize;
        let mut at = range.start;
        match out.operation {
            Operation::Flush => self.flushes += 1,
            Operation::Zero | Operation::Discard => self.blocks[range].fill(0),
            Operation::Read | Operation::Write => {
                for segment in &out.segments {
                    let (memory, base) = match segment.address {
                        address if address < MEMORY => (&self.own, OWN),
                        _ => (&self.clients, MEMORY),
                    };
                    let mut memory = memory.borrow_mut();
                    let len = segment.len as usize;
                    let memory = &mut memory[(segment.address - base) as usize..][..len];
                    let blocks = &mut self.blocks[at..][..len];
                    match out.operation {
                        Operation::Read => memory.copy_from_slice(blocks),
                        _ => blocks.copy_from_slice(memory),
                    }
                    at += len;
                }
            }
        }
    }
}

/// The pieces of memory between the bytes `at` and `at + len` of all of them together.
fn parts(segments: &[Segment], mut at: u64, mut len: u64) -> Vec<std::ops::Range<usize>> {
    let mut parts = Vec::new();
    for segment in segments {
        let skip = at.min(segment.len);
        let now = (segment.len - skip).min(len);
        let start = (segment.address + skip - MEMORY) as usize;
        parts.push(start..start + now as usize);
        (at, len) = (at - skip, len - now);
    }
    parts
}

fn gather(memory: &[u8], segments: &[Segment], at: u64, len: u64) -> Vec<u8> {
    parts(segments, at, len).into_iter().flat_map(|part| memory[part].to_vec()).collect()
}

impl Disk for SimDisk {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        if self.out.len() >= DEPTH || self.coin(8) {
            return Err(Busy);
        }
        self.checked(tag, command);
        self.out.push(Out {
            tag,
            operation: command.operation,
            block: command.block,
            blocks: command.blocks.into(),
            segments: command.segments.to_vec(),
            is_cancelled: false,
        });
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if self.out.is_empty() || self.stuck || self.coin(3) {
            return None;
        }
        let place = self.random(self.out.len() as u64) as usize;
        let out = self.out.swap_remove(place);
        let failures = self.failures;
        if self.random(100) < failures {
            // It may have been done all the same.
            if self.coin(2) {
                self.execute(&out);
            }
            return Some((out.tag, Outcome::Failed));
        }
        self.execute(&out);
        Some((out.tag, Outcome::Done))
    }

    fn cancel(&mut self, tag: Tag) {
        for out in self.out.iter_mut().filter(|out| out.tag == tag) {
            out.is_cancelled = true;
        }
    }
}

/// A driver's buffers.
pub struct Buffers {
    own: Rc<RefCell<Vec<u8>>>,
    clients: Rc<RefCell<Vec<u8>>>,
    is_free: [bool; BUFFERS],
}

impl Buffers {
    /// Those of a disk's machine.
    pub fn new(disk: &SimDisk) -> Buffers {
        Buffers { own: disk.own.clone(), clients: disk.clients.clone(), is_free: [true; BUFFERS] }
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.is_free.iter().filter(|free| **free).count()
    }
}

fn place(buffer: u8) -> u64 {
    PAGE + u64::from(buffer) * BUFFER_PAGES * PAGE
}

impl Bounce for Buffers {
    fn zeros(&self) -> u64 {
        OWN
    }

    fn take(&mut self, _: u64) -> Option<(u8, Segment)> {
        let free = self.is_free.iter().position(|free| *free)?;
        self.is_free[free] = false;
        let buffer = free as u8;
        Some((buffer, Segment { address: OWN + place(buffer), len: BUFFER_PAGES * PAGE }))
    }

    fn fill(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        assert!(client == 3 && !self.is_free[buffer as usize]);
        let bytes = gather(&self.clients.borrow(), request.segments(), at, len);
        self.own.borrow_mut()[place(buffer) as usize..][..len as usize].copy_from_slice(&bytes);
        true
    }

    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        assert!(client == 3 && !self.is_free[buffer as usize]);
        let mut clients = self.clients.borrow_mut();
        let own = self.own.borrow();
        let mut from = place(buffer) as usize;
        for part in parts(request.segments(), at, len) {
            let bytes = part.len();
            clients[part].copy_from_slice(&own[from..][..bytes]);
            from += bytes;
        }
        true
    }

    fn release(&mut self, buffer: u8) {
        assert!(!self.is_free[buffer as usize]);
        self.is_free[buffer as usize] = true;
    }
}
