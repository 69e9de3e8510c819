//! A simulated AHCI controller ([`Sim`]) with one disk and the memory that it reaches, written from
//! the specification. It can be told to misbehave.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cloister_ahci_core::Registers;
use cloister_block_testing::{DriverMemory, Machine};

const CLIENTS_LEN: usize = 1 << 19;
/// The port with the disk; port 1 has a drive of another kind, port 0 nothing.
pub const PORT: u64 = 3;

/// What a controller and its disk are like.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub block: usize,
    pub blocks: u64,
    pub queues: bool,
    pub depth: u8,
    pub trim: bool,
    pub cache: bool,
    pub log: bool,
    pub wide: bool,
    pub firmware: bool,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            block: 512,
            blocks: 512,
            queues: true,
            depth: 32,
            trim: true,
            cache: true,
            log: true,
            wide: true,
            firmware: false,
        }
    }
}

/// How it misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evil {
    #[default]
    No,
    /// It reads as ones.
    Gone,
    /// Its reset never ends.
    Stuck,
    /// The log of errors has a wrong checksum, and names another command.
    Log,
    /// The log names a slot that has no command.
    LogSlot,
    /// The disk does not become ready.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub code: u8,
    pub features: u16,
    pub block: u64,
    pub count: u16,
    pub pieces: Vec<(u64, usize)>,
    pub to_disk: bool,
}

pub struct State {
    pub model: Model,
    pub evil: Evil,
    pub connected: bool,
    ghc: u32,
    host_is: u32,
    bohc: u32,
    ports: [BTreeMap<u64, u32>; 4],
    pub own: Vec<u8>,
    pub clients: Vec<u8>,
    pub disk: Vec<u8>,
    /// Commands that the disk has, by slot; those of its queue.
    pub orders: BTreeMap<u8, Order>,
    pub queued: BTreeSet<u8>,
    /// Slots whose next command of the queue or by itself fails, with the error register.
    pub bad_blocks: BTreeMap<u64, u8>,
    blamed: Option<(u8, u8)>,
    pub resets: u32,
    pub link_resets: u32,
    pub flushes: u32,
    pub logs: u32,
    pub trimmed: Vec<(u64, u64)>,
    /// All codes that were issued, the driver's own apart.
    pub codes: Vec<u8>,
    pub messages: u32,
}

/// The controller. Clones are the same one.
#[derive(Clone)]
pub struct Sim(pub Rc<RefCell<State>>);

/// The driver's memory.
pub type SimMemory = DriverMemory<State>;

impl Sim {
    pub fn new(model: Model, bytes: u64) -> Sim {
        let disk = model.blocks as usize * model.block;
        let mut ports: [BTreeMap<u64, u32>; 4] = Default::default();
        // Firmware left the ports running.
        ports[PORT as usize].insert(0x18, 0xc017);
        Sim(Rc::new(RefCell::new(State {
            model,
            evil: Evil::No,
            connected: true,
            ghc: 0,
            host_is: 0,
            bohc: u32::from(model.firmware),
            ports,
            own: vec![0xaa; bytes as usize],
            clients: vec![0; CLIENTS_LEN],
            disk: (0..disk / 512).flat_map(|sector| [(sector % 251) as u8; 512]).collect(),
            orders: BTreeMap::new(),
            queued: BTreeSet::new(),
            bad_blocks: BTreeMap::new(),
            blamed: None,
            resets: 0,
            link_resets: 0,
            flushes: 0,
            logs: 0,
            trimmed: Vec::new(),
            codes: Vec::new(),
            messages: 0,
        })))
    }

    pub fn memory(&self) -> SimMemory {
        DriverMemory::of(&self.0)
    }

    /// Ends a command of the disk.
    pub fn end(&self, slot: u8) {
        self.0.borrow_mut().end(slot);
    }

    pub fn slots(&self) -> Vec<u8> {
        self.0.borrow().orders.keys().copied().collect()
    }

    /// Ends all commands, the last first, until one fails.
    pub fn end_all(&self) {
        while let Some(slot) = self.slots().last().copied() {
            self.end(slot);
            if self.0.borrow().blamed.is_some() {
                return;
            }
        }
    }

    /// Sets bits of a register of the port.
    pub fn set(&self, register: u64, bits: u32) {
        *self.0.borrow_mut().at(register) |= bits;
    }

    /// The disk is pulled out, or put in again.
    pub fn connect(&self, connected: bool) {
        let mut state = self.0.borrow_mut();
        state.connected = connected;
        *state.at(0x30) |= 1 << 16;
        state.cause(1 << 22);
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
    fn at(&mut self, register: u64) -> &mut u32 {
        self.ports[PORT as usize].entry(register).or_insert(0)
    }

    fn cause(&mut self, bits: u32) {
        *self.at(0x10) |= bits;
        if *self.at(0x14) & bits != 0 && self.ghc & 2 != 0 {
            self.host_is |= 1 << PORT;
            self.messages += 1;
        }
    }

    fn fetch(&mut self, slot: u8) -> Order {
        let heads = u64::from(*self.at(0)) | u64::from(*self.at(4)) << 32;
        assert_eq!(heads % 1024, 0);
        let head = self.memory(heads + 32 * u64::from(slot), 32).to_vec();
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let table = u64::from(word(8)) | u64::from(word(12)) << 32;
        assert_eq!((word(0) & 0x1f, word(4), table % 128), (5, 0, 0));
        let fis = self.memory(table, 20).to_vec();
        assert_eq!((fis[0], fis[1], fis[7]), (0x27, 0x80, 0x40));
        let pieces = (0..u64::from(word(0) >> 16))
            .map(|n| {
                let entry = self.memory(table + 0x80 + 16 * n, 16).to_vec();
                let address = u64::from_le_bytes(entry[..8].try_into().unwrap());
                let last = u32::from_le_bytes(entry[12..].try_into().unwrap());
                assert_eq!((address % 2, last & 0xffc0_0001, &entry[8..12]), (0, 1, &[0; 4][..]));
                (address, last as usize + 1)
            })
            .collect();
        let block = [fis[4], fis[5], fis[6], fis[8], fis[9], fis[10], 0, 0];
        Order {
            code: fis[2],
            features: u16::from_le_bytes([fis[3], fis[11]]),
            block: u64::from_le_bytes(block),
            count: u16::from_le_bytes([fis[12], fis[13]]),
            pieces,
            to_disk: word(0) & 1 << 6 != 0,
        }
    }

    fn issue(&mut self, slots: u32) {
        assert_eq!(*self.at(0x18) & 0x11, 0x11, "a command for a port that does not run");
        assert_eq!(*self.at(0x38) & slots, 0, "slots {slots:#x} have commands");
        for slot in (0..32u8).filter(|slot| slots >> slot & 1 != 0) {
            let order = self.fetch(slot);
            let is_queued = matches!(order.code, 0x60 | 0x61);
            assert_eq!(*self.at(0x34) >> slot & 1 != 0, is_queued, "SACT of {order:?}");
            if is_queued {
                assert!(order.count == u16::from(slot) << 3 && slot < self.model.depth);
                assert!(self.orders.len() == self.queued.len(), "mixed with one by itself");
                self.queued.insert(slot);
            } else {
                assert!(self.orders.is_empty(), "{order:?} is mixed with others");
                *self.at(0x38) |= 1 << slot;
            }
            if !matches!(order.code, 0xec | 0x2f) {
                self.codes.push(order.code);
            }
            let is_own = matches!(order.code, 0xec | 0x2f);
            assert!(self.orders.insert(slot, order).is_none());
            if is_own {
                self.end(slot);
            }
        }
    }

    fn end(&mut self, slot: u8) {
        let order = self.orders[&slot].clone();
        let is_queued = self.queued.contains(&slot);
        let error = match order.code {
            0x25 | 0x35 | 0x60 | 0x61 => self.bad_blocks.get(&order.block).copied(),
            0x2f if !self.model.log => Some(4),
            _ => None,
        };
        if let Some(error) = error {
            // The disk drops all it has; the port stops.
            if is_queued {
                self.blamed = Some((slot, error));
            }
            let error = if is_queued { 4 } else { error };
            *self.at(0x20) = 0x41 | u32::from(error) << 8;
            self.orders.clear();
            self.queued.clear();
            self.cause(1 << 30);
            return;
        }
        self.work(&order);
        self.orders.remove(&slot);
        *self.at(0x20) = 0x50;
        if is_queued {
            self.queued.remove(&slot);
            *self.at(0x34) &= !(1 << slot);
            self.cause(1 << 3);
        } else {
            *self.at(0x38) &= !(1 << slot);
            self.cause(1);
        }
    }

    fn give(&mut self, order: &Order, data: &[u8]) {
        assert!(!order.to_disk);
        let mut from = data;
        for (address, len) in &order.pieces {
            let (now, rest) = from.split_at(*len);
            self.memory(*address, *len).copy_from_slice(now);
            from = rest;
        }
        assert!(from.is_empty());
    }

    fn gather(&mut self, order: &Order) -> Vec<u8> {
        assert!(order.to_disk);
        order.pieces.iter().flat_map(|(a, len)| self.memory(*a, *len).to_vec()).collect()
    }

    fn work(&mut self, order: &Order) {
        let block = self.model.block;
        let count = if order.code >= 0x60 { order.features } else { order.count };
        let range = order.block as usize * block..(order.block as usize + count as usize) * block;
        match order.code {
            0xec => {
                let data = self.identity();
                self.give(order, &data);
            }
            0x2f => {
                assert_eq!((order.block, order.count), (0x10, 1));
                self.logs += 1;
                let (slot, error) = self.blamed.take().unwrap_or((0x80, 0));
                let mut page = vec![0; 512];
                (page[0], page[2], page[3]) = (slot, 0x41, error);
                match self.evil {
                    Evil::LogSlot => page[0] = 30,
                    Evil::Log => page[0] = 0,
                    _ => {}
                }
                let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                page[511] = sum.wrapping_neg().wrapping_add(u8::from(self.evil == Evil::Log));
                self.give(order, &page);
            }
            0x25 | 0x60 => {
                let data = self.disk[range].to_vec();
                self.give(order, &data);
            }
            0x35 | 0x61 => {
                let data = self.gather(order);
                self.disk[range].copy_from_slice(&data);
            }
            0xea => self.flushes += 1,
            0x06 => {
                assert_eq!((order.features, order.count, self.model.trim), (1, 1, true));
                for entry in self.gather(order).chunks(8) {
                    let entry = u64::from_le_bytes(entry.try_into().unwrap());
                    if entry >> 48 != 0 {
                        self.trimmed.push((entry & ((1 << 48) - 1), entry >> 48));
                    }
                }
            }
            code => panic!("command {code:#x}"),
        }
    }

    fn identity(&self) -> Vec<u8> {
        let model = self.model;
        let mut words = [0u16; 256];
        // Of each two characters the second stands first.
        let name = b"is\x07mo en";
        for (word, pair) in words[27..47].iter_mut().zip(name.chunks(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[49] = 1 << 8 | 1 << 9;
        words[75] = u16::from(model.depth - 1);
        words[76] = u16::from(model.queues) << 8 | 6;
        words[83] = 1 << 14 | 1 << 10 | 1 << 13;
        words[84] = 1 << 14 | u16::from(model.log) << 5;
        words[85] = u16::from(model.cache) << 5;
        words[87] = 1 << 14;
        for (at, word) in words[100..104].iter_mut().enumerate() {
            *word = (model.blocks >> (16 * at)) as u16;
        }
        if model.block != 512 {
            words[106] = 1 << 14 | 1 << 12;
            words[117] = (model.block / 2) as u16;
        }
        words[169] = model.trim.into();
        words[255] = 0xa5;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[511] = sum.wrapping_neg();
        bytes
    }

    fn drop_commands(&mut self) {
        self.orders.clear();
        self.queued.clear();
        (*self.at(0x34), *self.at(0x38)) = (0, 0);
    }

    fn write_port(&mut self, port: usize, register: u64, value: u32) {
        if port != PORT as usize {
            self.ports[port].insert(register, value);
            return;
        }
        match register {
            0x10 => *self.at(0x10) &= !value,
            0x18 => {
                let now = value & !0xc000 | (value & 1) << 15 | (value & 0x10) << 10;
                if *self.at(0x18) & 1 != 0 && value & 1 == 0 {
                    self.drop_commands();
                }
                *self.at(0x18) = now & !(0xf << 28);
            }
            0x2c => {
                if *self.at(0x2c) & 1 != 0 && value & 1 == 0 {
                    assert_eq!(*self.at(0x18) & 1, 0, "a link reset while the port runs");
                    self.link_resets += 1;
                    self.drop_commands();
                    self.blamed = None;
                    *self.at(0x20) = if self.evil == Evil::Busy { 0x80 } else { 0x50 };
                }
                *self.at(0x2c) = value;
            }
            0x30 => *self.at(0x30) &= !value,
            0x34 => *self.at(0x34) |= value,
            0x38 => {
                let slots = value;
                self.issue(slots);
            }
            register => *self.at(register) = value,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x04 if value & 1 != 0 => {
                assert_eq!(*self.at(0x18) & 0x8001, 0, "reset while a port runs");
                self.resets += 1;
                self.drop_commands();
                self.ports = Default::default();
                self.ghc = value & !u32::from(self.evil != Evil::Stuck);
            }
            0x04 => self.ghc = value,
            0x08 => self.host_is &= !value,
            0x28 => self.bohc = value & !1,
            offset if offset >= 0x100 => {
                let port = (offset - 0x100) / 0x80;
                self.write_port(port as usize, (offset - 0x100) % 0x80, value);
            }
            offset => panic!("register {offset:#x} is written"),
        }
    }

    fn read_port(&mut self, port: u64, register: u64) -> u32 {
        match (port, register) {
            (PORT, 0x28) if self.connected => 0x133,
            (PORT, 0x28) => 0,
            (PORT, 0x24) => 0x101,
            (PORT, register) => *self.at(register),
            (1, 0x28) => 0x123,
            (1, 0x24) => 0xeb14_0101,
            (_, 0x20) => 0x50,
            _ => 0,
        }
    }
}

impl Registers for Sim {
    fn read(&self, offset: u64) -> Option<u32> {
        let mut state = self.0.borrow_mut();
        if state.evil == Evil::Gone {
            return Some(u32::MAX);
        }
        let model = state.model;
        Some(match offset {
            0x00 => u32::from(model.wide) << 31 | u32::from(model.queues) << 30 | 31 << 8 | 3,
            0x04 => state.ghc,
            0x0c => 0b1011,
            0x24 => u32::from(model.firmware),
            0x28 => state.bohc,
            offset if offset >= 0x100 => {
                state.read_port((offset - 0x100) / 0x80, (offset - 0x100) % 0x80)
            }
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
