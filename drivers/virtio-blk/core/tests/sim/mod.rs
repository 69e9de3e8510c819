//! A simulated virtio block device ([`Sim`]) with the memory that it reaches, written from the
//! specification. It can be told to misbehave.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod driver;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use cloister_dma::{Memory, Region};
use cloister_virtio_blk_core::Registers;

/// Pages that driver and device share: rings, requests, and those of clients behind them.
pub const OWN_PAGES: usize = 60;
const CLIENT_PAGES: usize = 256;
/// Where clients' memory is in them.
pub const CLIENTS: u64 = (OWN_PAGES as u64) * 4096;

/// The BAR with the structures, and where they are in it.
const BAR: u8 = 4;
const COMMON: u64 = 0;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const BAR_BYTES: u64 = 0x4000;

pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const SEG_MAX: u64 = 1 << 2;
pub const FLUSH: u64 = 1 << 9;
pub const RANGES: u64 = 1 << 13 | 1 << 14;
/// Size and number of pieces, read-only, block size, flush, both kinds of ranges.
pub const ALL: u64 = VERSION_1 | ACCESS_PLATFORM | 1 << 1 | SEG_MAX | 1 << 6 | FLUSH | RANGES;

/// What a device is like.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub features: u64,
    pub block_size: u32,
    pub sectors: u64,
    pub size_max: u32,
    pub seg_max: u32,
    pub range_sectors: u32,
    pub queue_size: u16,
    pub multiplier: u32,
    pub notify_offset: u16,
    /// Which device of the vendor it is.
    pub device: u16,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            features: ALL,
            block_size: 512,
            sectors: 2048,
            size_max: 1 << 20,
            seg_max: 126,
            range_sectors: 4096,
            queue_size: 256,
            multiplier: 4,
            notify_offset: 0,
            device: 0x1042,
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
    /// It says that it needs a reset.
    NeedsReset,
    /// It never ends a reset.
    Stuck,
    /// It takes no features.
    Stubborn,
    /// It takes no vector.
    Vectorless,
    /// Its configuration changes all the time.
    Restless,
}

/// A request as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub head: u16,
    /// Address, length, whether it is the device's to write.
    pub buffers: Vec<(u64, u32, bool)>,
}

pub struct State {
    pub model: Model,
    pub evil: Evil,
    pub memory: Region,
    pub disk: Vec<u8>,
    pub pending: VecDeque<Pending>,
    /// Statuses that the next requests end with.
    pub statuses: VecDeque<u8>,
    pub resets: u32,
    pub bells: u32,
    pub flushes: u32,
    pub discarded: Vec<(u64, u32)>,
    pub agreed: u64,
    pub generation: Cell<u8>,
    /// What the capabilities say in place of the truth: kind, BAR, offset, length.
    pub spoilt: Option<(u8, u8, u32, u32)>,
    /// The list of capabilities has no end.
    pub endless: bool,
    /// It does not want to be told.
    pub deaf: bool,
    pub vector: u16,
    pub config_vector: u16,
    status: u8,
    select: [u32; 2],
    queue: u16,
    size: u16,
    enabled: bool,
    areas: [u64; 3],
    seen: u16,
    used: u16,
}

/// The device. Clones are the same one.
#[derive(Clone)]
pub struct Sim(pub Rc<RefCell<State>>);

impl Sim {
    /// The device, and the driver's view of the memory.
    pub fn new(model: Model) -> (Sim, Region) {
        let (driver, memory) = cloister_dma_testing::pages(OWN_PAGES + CLIENT_PAGES);
        let bytes = model.sectors.saturating_mul(512).min(8 << 20) as usize;
        let sim = Sim(Rc::new(RefCell::new(State {
            model,
            evil: Evil::No,
            memory,
            disk: (0..bytes).map(|at| (at / 512 % 251) as u8).collect(),
            pending: VecDeque::new(),
            statuses: VecDeque::new(),
            resets: 0,
            bells: 0,
            flushes: 0,
            discarded: Vec::new(),
            agreed: 0,
            generation: Cell::new(0),
            spoilt: None,
            endless: false,
            deaf: false,
            vector: 0,
            config_vector: 0,
            status: 0,
            select: [0; 2],
            queue: 0,
            size: 0,
            enabled: false,
            areas: [0; 3],
            seen: 0,
            used: 0,
        })));
        (sim, driver)
    }

    pub fn fetched(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Ends the request at this place of those that were fetched, as it should.
    pub fn end(&self, place: usize) {
        let mut state = self.0.borrow_mut();
        let pending = state.pending.remove(place).expect("a request");
        let (status, written) = state.execute(&pending);
        state.finish(&pending, status, written);
    }

    pub fn end_all(&self) {
        while self.fetched() > 0 {
            self.end(0);
        }
    }
}

impl State {
    /// Where an address of the driver is in the memory.
    pub fn offset(&self, address: u64) -> u64 {
        address.checked_sub(self.memory.address(0)).expect("an address of the driver's")
    }

    fn read(&self, address: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory.read(self.offset(address), &mut bytes).expect("memory that is there");
        bytes
    }

    fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    /// Takes what is new in the available ring.
    fn fetch(&mut self) {
        let (descriptors, driver) = (self.areas[0], self.areas[1]);
        let index = self.u16(driver + 2);
        assert!(index.wrapping_sub(self.seen) <= self.size, "more than a ring has");
        while self.seen != index {
            let head = self.u16(driver + 4 + 2 * u64::from(self.seen % self.size));
            self.seen = self.seen.wrapping_add(1);
            let (mut at, mut buffers) = (head, Vec::new());
            loop {
                let bytes = self.read(descriptors + 16 * u64::from(at), 16);
                let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
                let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
                assert!(flags & !3 == 0 && len > 0 && buffers.len() <= usize::from(self.size));
                buffers.push((address, len, flags & 2 != 0));
                if flags & 1 == 0 {
                    break;
                }
                at = u16::from_le_bytes(bytes[14..16].try_into().unwrap());
            }
            let is_new = self.pending.iter().all(|other| other.head != head);
            assert!(is_new, "a chain that is in flight");
            self.pending.push_back(Pending { head, buffers });
        }
    }

    /// Does a request: its status, and the bytes of data that were written.
    pub fn execute(&mut self, pending: &Pending) -> (u8, u32) {
        let buffers = &pending.buffers;
        let first_written = buffers.iter().position(|buffer| buffer.2).expect("a status");
        assert!(buffers[first_written..].iter().all(|buffer| buffer.2), "read before written");
        let (read, written) = buffers.split_at(first_written);
        assert_eq!(written.last().map(|buffer| buffer.1), Some(1), "a status of one byte");
        assert!(read[0].1 == 16, "a header");
        assert!(buffers.len() as u32 <= self.model.seg_max + 2);
        let header = self.read(read[0].0, 16);
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        assert_eq!(header[4..8], [0; 4]);
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
        assert!(sector * 512 % u64::from(self.model.block_size) == 0);
        let mut at = (sector * 512) as usize;
        let data: u32 = written[..written.len() - 1].iter().map(|buffer| buffer.1).sum();
        match kind {
            0 => {
                assert!(data > 0 && data.is_multiple_of(self.model.block_size));
                for (address, len, _) in &written[..written.len() - 1] {
                    let offset = self.offset(*address);
                    let bytes = &self.disk[at..at + *len as usize];
                    self.memory.write(offset, bytes).expect("memory that is there");
                    at += *len as usize;
                }
            }
            1 => {
                assert_eq!(written.len(), 1);
                for (address, len, _) in &read[1..] {
                    let bytes = self.read(*address, *len);
                    self.disk[at..at + *len as usize].copy_from_slice(&bytes);
                    at += *len as usize;
                }
            }
            4 => {
                assert_eq!((buffers.len(), sector), (2, 0));
                self.flushes += 1;
            }
            11 | 13 => {
                assert_eq!((read.len(), read[1].1, written.len()), (2, 16, 1));
                let range = self.read(read[1].0, 16);
                let first = u64::from_le_bytes(range[..8].try_into().unwrap());
                let count = u32::from_le_bytes(range[8..12].try_into().unwrap());
                assert_eq!(range[12..], [0; 4], "no flags");
                assert!(count <= self.model.range_sectors);
                if kind == 11 {
                    self.discarded.push((first, count));
                } else {
                    let first = first as usize * 512;
                    self.disk[first..first + count as usize * 512].fill(0);
                }
            }
            other => panic!("request {other}"),
        }
        (self.statuses.pop_front().unwrap_or(0), data)
    }

    /// Writes a status and tells that the request ended.
    pub fn finish(&mut self, pending: &Pending, status: u8, written: u32) {
        let (address, _, _) = pending.buffers.last().expect("a status");
        self.memory.write(self.offset(*address), &[status]).unwrap();
        self.use_chain(pending.head.into(), written + 1);
    }

    /// Puts an element into the used ring.
    pub fn use_chain(&mut self, id: u32, len: u32) {
        let ring = self.offset(self.areas[2]);
        let at = ring + 4 + 8 * u64::from(self.used % self.size);
        self.memory.store_u32(at, id).unwrap();
        self.memory.store_u32(at + 4, len).unwrap();
        self.set_used(self.used.wrapping_add(1));
    }

    /// Tells how many elements the used ring has.
    pub fn set_used(&mut self, used: u16) {
        self.used = used;
        let flags = u32::from(self.deaf);
        let ring = self.offset(self.areas[2]);
        self.memory.store_u32(ring, u32::from(used) << 16 | flags).unwrap();
    }

    pub fn used(&self) -> u16 {
        self.used
    }

    fn reset(&mut self) {
        self.resets += 1;
        (self.status, self.enabled, self.areas) = (0, false, [0; 3]);
        (self.seen, self.used, self.agreed) = (0, 0, 0);
        self.pending.clear();
    }

    fn capability(&self, register: u8) -> u32 {
        // Another capability, then one for each structure.
        let structures: [(u8, u64, u64); 4] =
            [(1, COMMON, 0x38), (3, 0x1000, 1), (4, DEVICE, 0x40), (2, NOTIFY, 0x1000)];
        if register < 0x50 {
            return [0x5005, 0, 0, 0][usize::from((register - 0x40) / 4)];
        }
        let index = usize::from((register - 0x50) / 0x14);
        let Some((kind, offset, len)) = structures.get(index).copied() else { return 0 };
        let next = match index {
            3 if self.endless => 0x50,
            3 => 0,
            _ => register + 0x14,
        };
        let (bar, offset, len) = match self.spoilt {
            Some((spoilt, bar, offset, len)) if spoilt == kind => (bar, offset, len),
            _ => (BAR, offset as u32, len as u32),
        };
        match (register - 0x50) % 0x14 / 4 {
            0 => u32::from(kind) << 24 | 0x14 << 16 | u32::from(next) << 8 | 9,
            1 => bar.into(),
            2 => offset,
            3 => len,
            _ => self.model.multiplier,
        }
    }

    fn feature(&self, features: u64, select: u32) -> u32 {
        match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        }
    }

    fn field(&self, offset: u64) -> u32 {
        if self.evil == Evil::Restless {
            self.generation.set(self.generation.get().wrapping_add(1));
        }
        let Model { sectors, size_max, seg_max, block_size, range_sectors, .. } = self.model;
        match offset {
            0 => sectors as u32,
            4 => (sectors >> 32) as u32,
            8 => size_max,
            12 => seg_max,
            20 => block_size,
            36 | 48 => range_sectors,
            40 | 52 => 1,
            _ => panic!("field {offset}"),
        }
    }
}

impl Registers for Sim {
    fn config(&self, register: u8) -> Option<u32> {
        assert!(register.is_multiple_of(4));
        let state = self.0.borrow();
        Some(match register {
            _ if state.evil == Evil::Gone => u32::MAX,
            0x00 => u32::from(state.model.device) << 16 | 0x1af4,
            0x04 => 1 << 20 | 6,
            0x34 => 0x40,
            0x40.. => state.capability(register),
            _ => 0,
        })
    }

    fn bytes(&self, bar: u8) -> u64 {
        if bar == BAR { BAR_BYTES } else { 0 }
    }

    fn read8(&self, bar: u8, offset: u64) -> Option<u8> {
        assert_eq!(bar, BAR);
        let state = self.0.borrow();
        Some(match offset {
            _ if state.evil == Evil::Gone => u8::MAX,
            0x14 if state.evil == Evil::NeedsReset && state.status & 4 != 0 => state.status | 64,
            0x14 if state.evil == Evil::Stuck => state.status | 1,
            0x14 => state.status,
            0x15 => state.generation.get(),
            _ => panic!("8 bits at {offset:#x}"),
        })
    }

    fn read16(&self, bar: u8, offset: u64) -> Option<u16> {
        assert_eq!(bar, BAR);
        let state = self.0.borrow();
        Some(match offset {
            _ if state.evil == Evil::Gone => u16::MAX,
            0x18 if state.size == 0 => state.model.queue_size,
            0x18 => state.size,
            0x1a if state.evil == Evil::Vectorless => 0xffff,
            0x1a => state.vector,
            0x1c => state.enabled.into(),
            0x1e => state.model.notify_offset,
            _ => panic!("16 bits at {offset:#x}"),
        })
    }

    fn read32(&self, bar: u8, offset: u64) -> Option<u32> {
        assert_eq!(bar, BAR);
        let state = self.0.borrow();
        Some(match offset {
            _ if state.evil == Evil::Gone => u32::MAX,
            0x00 => state.select[0],
            0x04 => state.feature(state.model.features, state.select[0]),
            DEVICE.. => state.field(offset - DEVICE),
            _ => panic!("32 bits at {offset:#x}"),
        })
    }

    fn write8(&self, bar: u8, offset: u64, value: u8) -> Option<()> {
        assert_eq!((bar, offset), (BAR, 0x14));
        let mut state = self.0.borrow_mut();
        if value == 0 {
            state.reset();
            return Some(());
        }
        let takes = state.agreed & !state.model.features == 0 && state.evil != Evil::Stubborn;
        let features_ok = if takes { 8 } else { 0 };
        assert!(value & 4 == 0 || state.enabled, "a device begins with its queue");
        state.status = value & !8 | value & features_ok;
        Some(())
    }

    fn write16(&self, bar: u8, offset: u64, value: u16) -> Option<()> {
        assert_eq!(bar, BAR);
        let mut state = self.0.borrow_mut();
        assert!(offset >= NOTIFY || !state.enabled || offset == 0x16, "a queue in use");
        match offset {
            0x10 => state.config_vector = value,
            0x16 => state.queue = value,
            0x18 => state.size = value,
            0x1a => state.vector = value,
            0x1c => state.enabled = value == 1,
            NOTIFY.. => {
                let Model { multiplier, notify_offset, .. } = state.model;
                let bell = NOTIFY + u64::from(multiplier) * u64::from(notify_offset);
                assert_eq!((offset, value, state.status & 4), (bell, 0, 4));
                state.bells += 1;
                state.fetch();
            }
            _ => panic!("16 bits at {offset:#x}"),
        }
        Some(())
    }

    fn write32(&self, bar: u8, offset: u64, value: u32) -> Option<()> {
        assert_eq!(bar, BAR);
        let mut state = self.0.borrow_mut();
        let select = state.select[1];
        match offset {
            0x00 => state.select[0] = value,
            0x08 => state.select[1] = value,
            0x0c if select == 0 => state.agreed = state.agreed >> 32 << 32 | u64::from(value),
            0x0c => state.agreed = state.agreed & 0xffff_ffff | u64::from(value) << 32,
            0x20 | 0x28 | 0x30 => {
                let area = &mut state.areas[(offset as usize - 0x20) / 8];
                *area = *area >> 32 << 32 | u64::from(value);
            }
            0x24 | 0x2c | 0x34 => {
                let area = &mut state.areas[(offset as usize - 0x24) / 8];
                *area = *area & 0xffff_ffff | u64::from(value) << 32;
            }
            _ => panic!("32 bits at {offset:#x}"),
        }
        Some(())
    }
}
