//! A simulated NVMe controller ([`Sim`]) with the memory that it reaches, written from the
//! specification. It can be told to misbehave.

#![allow(dead_code, reason = "each test program uses a part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use cloister_block_testing::{DriverMemory, Machine, OWN};
use cloister_nvme_core::Registers;

const CLIENTS_LEN: usize = 1 << 20;
const PAGE: u64 = 4096;

/// What a controller is like.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub shift: u8,
    pub blocks: u64,
    pub mdts: u8,
    pub oncs: u16,
    pub cache: bool,
    pub entries: u16,
    pub stride: u8,
    pub queues: u16,
}

impl Default for Model {
    fn default() -> Model {
        let (oncs, cache) = (0b1100, true);
        Model { shift: 9, blocks: 256, mdts: 5, oncs, cache, entries: 64, stride: 0, queues: 4 }
    }
}

/// How it misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evil {
    #[default]
    No,
    /// It answers nothing.
    Silent,
    /// It reads as ones.
    Gone,
    /// It says that it has a fatal error.
    Fatal,
    /// It never becomes ready.
    Stuck,
}

#[derive(Clone, Copy, Default)]
struct Queue {
    at: u64,
    entries: u16,
    head: u16,
    tail: u16,
    phase: bool,
    of: u16,
}

#[derive(Clone)]
pub struct Pending {
    pub queue: u16,
    pub id: u16,
    words: [u32; 16],
}

/// The controller of a virtual function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    pub id: u16,
    pub online: bool,
    pub queues: u16,
    pub vectors: u16,
    pub namespaces: Vec<u32>,
    /// How often it was taken down.
    pub falls: u32,
}

pub struct State {
    /// Those of virtual functions 1, 2 and so on.
    pub seconds: Vec<Second>,
    /// What the list of them begins with, in place of their number.
    pub claimed: Option<u8>,
    /// Admin commands, as they were fetched.
    pub admin_count: u32,
    pub model: Model,
    pub evil: Evil,
    cc: u32,
    ready: bool,
    registers: [u32; 16],
    submission: [Queue; 8],
    completion: [Queue; 8],
    pub own: Vec<u8>,
    pub clients: Vec<u8>,
    pub disk: Vec<u8>,
    pub pending: VecDeque<Pending>,
    pub resets: u32,
    pub flushes: u32,
    pub deallocated: Vec<(u64, u64)>,
    /// Status that the next commands end with, type and code and "do not retry" in bit 14.
    pub statuses: VecDeque<u16>,
    pub vectors: Vec<u16>,
}

/// The controller. Clones are the same one.
#[derive(Clone)]
pub struct Sim(pub Rc<RefCell<State>>);

/// The driver's memory.
pub type SimMemory = DriverMemory<State>;

impl Sim {
    pub fn new(model: Model, pages: u64) -> Sim {
        let disk = (model.blocks << model.shift) as usize;
        Sim(Rc::new(RefCell::new(State {
            seconds: Vec::new(),
            claimed: None,
            admin_count: 0,
            model,
            evil: Evil::No,
            cc: 0,
            ready: false,
            registers: [0; 16],
            submission: [Queue::default(); 8],
            completion: [Queue::default(); 8],
            // Firmware leaves anything there.
            own: vec![0xaa; (pages * PAGE) as usize],
            clients: vec![0; CLIENTS_LEN],
            disk: (0..disk).map(|at| (at / 512 % 251) as u8).collect(),
            pending: VecDeque::new(),
            resets: 0,
            flushes: 0,
            deallocated: Vec::new(),
            statuses: VecDeque::new(),
            vectors: Vec::new(),
        })))
    }

    pub fn memory(&self) -> SimMemory {
        DriverMemory::of(&self.0)
    }

    /// Ends the command of that place among those that were fetched.
    pub fn end(&self, place: usize) {
        self.0.borrow_mut().end(place);
    }

    /// Ends all commands, the last one first.
    pub fn end_all(&self) {
        while let Some(last) = self.fetched().checked_sub(1) {
            self.end(last);
        }
    }

    pub fn fetched(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Writes the admin command *Identify* for the controller into a place of the queue.
    pub fn memory_identify(&self, place: u32) {
        let mut state = self.0.borrow_mut();
        let at = (place * 64) as usize;
        let words = [6 | place << 16, 0, 0, 0, 0, 0, OWN as u32 + 0x2000, 0, 0, 0, 1];
        for (word, at) in words.iter().zip((at..).step_by(4)) {
            state.own[at..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Puts a completion into a queue.
    pub fn post(&self, queue: u16, words: [u32; 4]) {
        self.0.borrow_mut().post(queue, words);
    }
}

impl Machine for State {
    fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    fn clients(&mut self) -> &mut Vec<u8> {
        &mut self.clients
    }
}

impl State {
    fn word(&mut self, address: u64) -> u64 {
        u64::from_le_bytes(self.memory(address, 8).try_into().unwrap())
    }

    fn doorbell(&mut self, offset: u64, value: u32) {
        let number = (offset - 0x1000) / (4 << self.model.stride);
        assert_eq!((offset - 0x1000) % (4 << self.model.stride), 0, "no doorbell at {offset:#x}");
        let queue = (number / 2) as u16;
        if number % 2 == 1 {
            let completion = &mut self.completion[queue as usize];
            assert!(value < completion.entries.into());
            completion.tail_seen(value as u16);
            return;
        }
        assert!(value < self.submission[queue as usize].entries.into(), "queue {queue}: {value}");
        self.submission[queue as usize].tail = value as u16;
        loop {
            let submission = &mut self.submission[queue as usize];
            if submission.head == submission.tail {
                break;
            }
            let at = submission.at + 64 * u64::from(submission.head);
            submission.head = (submission.head + 1) % submission.entries;
            let bytes = self.memory(at, 64).to_vec();
            let words: Vec<u32> =
                bytes.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
            let words: [u32; 16] = words.try_into().unwrap();
            let pending = Pending { queue, id: (words[0] >> 16) as u16, words };
            let twice = self.pending.iter().any(|p| p.queue == queue && p.id == pending.id);
            assert!(!twice, "identifier {:#x} is in flight already", pending.id);
            self.pending.push_back(pending);
            if queue == 0 && self.evil != Evil::Silent {
                self.end(self.pending.len() - 1);
            }
        }
    }

    fn end(&mut self, place: usize) {
        let pending = self.pending.remove(place).unwrap();
        let forced = if pending.queue == 0 { None } else { self.statuses.pop_front() };
        let (status, result) = match forced {
            Some(status) if status != 0 => (status, 0),
            _ if pending.queue == 0 => self.admin(&pending.words),
            _ => (self.io(&pending.words), 0),
        };
        let head = self.submission[pending.queue as usize].head;
        let third = u32::from(head) | u32::from(pending.queue) << 16;
        let last = u32::from(pending.id) | u32::from(status) << 17;
        self.post(pending.queue, [result, 0, third, last]);
    }

    fn post(&mut self, queue: u16, mut words: [u32; 4]) {
        let of = self.submission[queue as usize].of;
        let completion = &mut self.completion[of as usize];
        words[3] = words[3] & !(1 << 16) | u32::from(completion.phase) << 16;
        let at = completion.at + 16 * u64::from(completion.tail);
        completion.tail = (completion.tail + 1) % completion.entries;
        completion.phase ^= completion.tail == 0;
        assert_ne!(completion.tail, completion.head, "completion queue {of} is full");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.memory(at, 16).copy_from_slice(&bytes);
    }

    fn admin(&mut self, words: &[u32; 16]) -> (u16, u32) {
        let address = u64::from(words[6]) | u64::from(words[7]) << 32;
        let (id, last) = (words[10] as u16, (words[10] >> 16) as u16);
        let model = self.model;
        self.admin_count += 1;
        match words[0] as u8 {
            0x06 => {
                self.memory(address, 4096).fill(0);
                match words[10] {
                    1 => {
                        self.memory(address + 24, 8).copy_from_slice(b"sim\x07 one");
                        self.memory(address + 77, 1)[0] = model.mdts;
                        self.memory(address + 520, 2).copy_from_slice(&model.oncs.to_le_bytes());
                        self.memory(address + 525, 1)[0] = model.cache.into();
                    }
                    2 => self.memory(address, 4).copy_from_slice(&7u32.to_le_bytes()),
                    0 => {
                        assert_eq!(words[1], 7);
                        self.memory(address, 8).copy_from_slice(&model.blocks.to_le_bytes());
                        self.memory(address + 26, 1)[0] = 1;
                        self.memory(address + 128 + 4 + 2, 1)[0] = model.shift;
                    }
                    0x15 => self.list_seconds(address),
                    what => panic!("identify {what}"),
                }
                (0, 0)
            }
            0x09 => {
                assert_eq!(words[10], 7);
                let less = u32::from(model.queues - 1);
                (0, less << 16 | less)
            }
            opcode @ (0x01 | 0x05) => {
                let entries = last + 1;
                assert!(entries <= model.entries && words[11] & 1 == 1);
                let (of, vector) = ((words[11] >> 16) as u16, (words[11] >> 16) as u16);
                let queue = Queue { at: address, entries, head: 0, tail: 0, phase: true, of };
                if opcode == 0x05 {
                    assert!(words[11] & 2 == 2);
                    self.vectors.push(vector);
                    self.completion[id as usize] = queue;
                } else {
                    assert!(self.completion[of as usize].entries != 0);
                    self.submission[id as usize] = queue;
                }
                (0, 0)
            }
            0x15 => {
                assert_eq!(words[10], 0, "attach");
                let list = self.word(address);
                assert_eq!((list & 0xffff, list >> 32), (1, 0), "one controller");
                let second = self.second((list >> 16) as u16);
                let is_there = second.namespaces.contains(&words[1]);
                if !is_there {
                    second.namespaces.push(words[1]);
                }
                (if is_there { 0x118 } else { 0 }, 0)
            }
            0x1c => (self.manage(words[10], words[11]), 0),
            // A queue that is none, as in memory that was wiped.
            0x00 => (0x101, 0),
            opcode => panic!("admin command {opcode:#x}"),
        }
    }

    /// "Secondary Controller List".
    fn list_seconds(&mut self, address: u64) {
        let seconds = self.seconds.clone();
        let claimed = self.claimed.unwrap_or(seconds.len() as u8);
        self.memory(address, 1)[0] = claimed;
        for (number, second) in (1u16..).zip(seconds) {
            let at = address + 32 * u64::from(number);
            self.memory(at, 2).copy_from_slice(&second.id.to_le_bytes());
            self.memory(at + 4, 1)[0] = second.online.into();
            self.memory(at + 8, 2).copy_from_slice(&number.to_le_bytes());
        }
    }

    fn second(&mut self, id: u16) -> &mut Second {
        self.seconds.iter_mut().find(|second| second.id == id).expect("a controller that is there")
    }

    /// "Virtualization Management command".
    fn manage(&mut self, what: u32, count: u32) -> u16 {
        let second = self.second((what >> 16) as u16);
        match (what & 0xf, what >> 8 & 7) {
            (7, _) => {
                second.falls += u32::from(second.online);
                *second = Second { online: false, queues: 0, vectors: 0, ..second.clone() };
            }
            // Invalid secondary controller state.
            (8, _) if second.online => return 0x120,
            (8, 0) => second.queues = count as u16,
            (8, 1) => second.vectors = count as u16,
            (9, _) if second.queues < 2 || second.vectors == 0 => return 0x120,
            (9, _) => second.online = true,
            what => panic!("virtualization management {what:?}"),
        }
        0
    }

    /// The pages that a command names for so many bytes ("Physical Region Page Entry and List").
    fn pages(&mut self, words: &[u32; 16], mut bytes: u64) -> Vec<(u64, usize)> {
        let first = u64::from(words[6]) | u64::from(words[7]) << 32;
        let second = u64::from(words[8]) | u64::from(words[9]) << 32;
        assert_eq!(first % 4, 0);
        let mut pages = Vec::new();
        let mut push = |address: u64, bytes: &mut u64| {
            let len = (PAGE - address % PAGE).min(*bytes);
            *bytes -= len;
            pages.push((address, len as usize));
        };
        push(first, &mut bytes);
        if bytes != 0 && bytes <= PAGE {
            assert_eq!(second % PAGE, 0, "a second page that is none");
            push(second, &mut bytes);
        } else if bytes != 0 {
            assert_eq!(second % 8, 0);
            assert!(second % PAGE + bytes.div_ceil(PAGE) * 8 <= PAGE, "the list leaves its page");
            for place in 0..bytes.div_ceil(PAGE) {
                let address = u64::from_le_bytes(
                    self.own[(second + 8 * place - OWN) as usize..][..8].try_into().unwrap(),
                );
                assert_eq!(address % PAGE, 0, "a page of a list that is none");
                push(address, &mut bytes);
            }
        }
        pages
    }

    fn io(&mut self, words: &[u32; 16]) -> u16 {
        let opcode = words[0] as u8;
        assert_eq!(words[1], 7, "another namespace");
        let block = u64::from(words[10]) | u64::from(words[11]) << 32;
        let blocks = u64::from(words[12] & 0xffff) + 1;
        let bytes = blocks << self.model.shift;
        let at = (block << self.model.shift) as usize;
        match opcode {
            0x00 => self.flushes += 1,
            0x01 | 0x02 => {
                assert!(block + blocks <= self.model.blocks);
                assert!(self.model.mdts == 0 || bytes <= PAGE << self.model.mdts);
                let mut at = at;
                for (address, len) in self.pages(words, bytes) {
                    if opcode == 1 {
                        let data = self.memory(address, len).to_vec();
                        self.disk[at..][..len].copy_from_slice(&data);
                    } else {
                        let data = self.disk[at..][..len].to_vec();
                        self.memory(address, len).copy_from_slice(&data);
                    }
                    at += len;
                }
            }
            0x08 => self.disk[at..][..bytes as usize].fill(0),
            0x09 => {
                assert_eq!((words[10], words[11]), (0, 4));
                let list = u64::from(words[6]) | u64::from(words[7]) << 32;
                let (head, first) = (self.word(list), self.word(list + 8));
                self.deallocated.push((first, head >> 32));
            }
            opcode => panic!("command {opcode:#x}"),
        }
        0
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => {
                let (was, is) = (self.cc & 1, value & 1);
                self.cc = value;
                if was == 1 && is == 0 {
                    self.resets += 1;
                    self.pending.clear();
                    self.submission = [Queue::default(); 8];
                    self.completion = [Queue::default(); 8];
                    self.vectors.clear();
                    self.ready = false;
                    for second in self.seconds.iter_mut().filter(|second| second.online) {
                        (second.online, second.falls) = (false, second.falls + 1);
                    }
                }
                if was == 0 && is == 1 {
                    assert_eq!(value >> 16 & 0xff, 0x46, "entry sizes");
                    let word = |at: usize| {
                        u64::from(self.registers[at]) | u64::from(self.registers[at + 1]) << 32
                    };
                    let entries = (self.registers[9] & 0xfff) as u16 + 1;
                    let queue = Queue { entries, phase: true, ..Queue::default() };
                    self.submission[0] = Queue { at: word(10), ..queue };
                    self.completion[0] = Queue { at: word(12), ..queue };
                    self.ready = self.evil != Evil::Stuck;
                }
            }
            offset if offset >= 0x1000 => self.doorbell(offset, value),
            offset => self.registers[(offset / 4) as usize] = value,
        }
    }
}

impl Queue {
    /// The host has taken completions up to a place.
    fn tail_seen(&mut self, place: u16) {
        self.head = place;
    }
}

impl Registers for Sim {
    fn read(&self, offset: u64) -> Option<u32> {
        let state = self.0.borrow();
        if state.evil == Evil::Gone {
            return Some(u32::MAX);
        }
        Some(match offset {
            0x00 => u32::from(state.model.entries - 1) | 20 << 24,
            0x04 => 1 << 5 | u32::from(state.model.stride),
            0x14 => state.cc,
            0x28..0x38 => state.registers[(offset / 4) as usize],
            0x1c => u32::from(state.ready) | u32::from(state.evil == Evil::Fatal) << 1,
            offset => panic!("register {offset:#x} is read"),
        })
    }

    fn write(&self, offset: u64, value: u32) -> Option<()> {
        if self.0.borrow().evil != Evil::Gone {
            self.0.borrow_mut().write(offset, value);
        }
        Some(())
    }
}
