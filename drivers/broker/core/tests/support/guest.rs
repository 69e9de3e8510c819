//! The guest: [`Guest`], which makes requests on two queues and knows what each block holds.
//!
//! A block has one request in flight at most, so what a read must find is known. It looks at its
//! rings only when it is interrupted, and rings only when it is asked to.

use cloister_guest_abi::disk::{request, status};
use cloister_virtio::features;
use cloister_virtio_testing::{Driver, PackedDriver, TestRam};

use super::{BLOCKS, Rng, World};

pub const BLOCK: usize = 4096;
/// Where requests have headers and statuses, and where data.
const HEADS: u64 = 0x8000;
const DATA: u64 = 0x10000;
/// Most blocks of a request, and requests in flight.
pub const RUN: usize = 72;
const SLOTS: usize = 6;
/// Bytes of its memory.
pub const RAM: usize = DATA as usize + SLOTS * RUN * BLOCK;
const SIZE: u16 = 64;

enum Ring {
    Split(Driver),
    Packed(PackedDriver),
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: u32,
    pub block: u64,
    pub blocks: usize,
    /// What the data is, or what it has to be.
    pub stamps: Vec<u64>,
    id: (usize, u16),
}

pub struct Guest<'w> {
    world: &'w World,
    features: u64,
    rings: Vec<Ring>,
    added: [u16; 2],
    slots: Vec<Option<Asked>>,
    pub model: Vec<u64>,
    rng: Rng,
    /// Requests to be made yet, and those that ended.
    pub left: usize,
    pub completed: usize,
    pub bad: Option<u64>,
    pub failed: usize,
    pub is_live: bool,
}

impl<'w> Guest<'w> {
    pub fn new(world: &'w World, features: u64, seed: u64, left: usize) -> Guest<'w> {
        Guest {
            world,
            features,
            rings: Vec::new(),
            added: [0; 2],
            slots: vec![None; SLOTS],
            model: vec![0; BLOCKS as usize],
            rng: Rng(seed),
            left,
            completed: 0,
            bad: None,
            failed: 0,
            is_live: false,
        }
    }

    /// Begins a life of the device.
    pub fn live(&mut self) {
        let is_packed = self.features & features::RING_PACKED != 0;
        self.rings = [0x1000, 0x2000]
            .map(|at| {
                self.world.ram.poke(at, &[0; 0x1000]);
                match is_packed {
                    true => Ring::Packed(PackedDriver::new(at, SIZE)),
                    false => Ring::Split(Driver::new(at, SIZE)),
                }
            })
            .into();
        self.added = [0; 2];
        self.slots.fill(None);
        let records = self.rings.iter().map(|ring| match ring {
            Ring::Split(ring) => ring.record(),
            Ring::Packed(ring) => ring.record(),
        });
        let records: Vec<_> = records.collect();
        let all = 1 << 9 | 1 << 13 | 1 << 14 | features::VERSION_1 | self.features;
        self.world.monitor().live(all, &records);
        self.is_live = true;
    }

    /// The device was reset: what was in flight was done or not.
    pub fn forget(&mut self, disk: &[u8]) {
        for asked in self.slots.iter_mut().filter_map(Option::take) {
            for block in asked.block as usize..asked.block as usize + asked.blocks {
                let stamp = disk[block * BLOCK..][..8].try_into().unwrap();
                self.model[block] = u64::from_le_bytes(stamp);
            }
        }
        self.is_live = false;
    }

    pub fn in_flight(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// An interrupt: takes what was used and makes new requests. Whether it rings.
    pub fn interrupt(&mut self) -> bool {
        if !self.is_live {
            return false;
        }
        let pending = self.world.monitor().take_pending();
        for queue in 0..2 {
            if pending & 1 << queue != 0 {
                self.collect(queue);
            }
        }
        self.submit()
    }

    fn collect(&mut self, queue: usize) {
        let ram = &self.world.ram;
        loop {
            let used = match &mut self.rings[queue] {
                Ring::Split(ring) => ring.used(ram),
                Ring::Packed(ring) => ring.used(ram),
            };
            let Some((id, written)) = used else { break };
            let slot = self
                .slots
                .iter()
                .position(|asked| asked.as_ref().is_some_and(|asked| asked.id == (queue, id)));
            let slot = slot.expect("a completion of nothing");
            let asked = self.slots[slot].take().unwrap();
            self.check(slot, asked, written);
            self.completed += 1;
        }
        if let (Ring::Split(ring), true) =
            (&self.rings[queue], self.features & features::EVENT_IDX != 0)
        {
            ring.set_wish(ram, 0, ring.used_index(ram));
        }
    }

    fn check(&mut self, slot: usize, asked: Asked, written: u32) {
        let ram = &self.world.ram;
        let data = DATA + (slot * RUN * BLOCK) as u64;
        let found = ram.peek(HEADS + slot as u64 * 64 + 32, 1)[0];
        let blocks = asked.block..asked.block + asked.blocks as u64;
        if self.bad.is_some_and(|bad| blocks.contains(&bad) && asked.blocks != 0) {
            assert_eq!((found, written), (status::IO_ERROR, self.none(&asked)), "{asked:?}");
            self.failed += 1;
            // A failed write may have been made in part.
            if asked.kind != request::READ {
                blocks.for_each(|block| self.model[block as usize] = u64::MAX);
            }
            return;
        }
        assert_eq!(found, status::OK, "{asked:?}");
        match asked.kind {
            request::READ => {
                assert_eq!(written as usize, asked.blocks * BLOCK + 1);
                for (place, stamp) in asked.stamps.iter().enumerate() {
                    let bytes = ram.peek(data + (place * BLOCK) as u64, BLOCK);
                    if *stamp != u64::MAX {
                        assert_eq!(bytes, filled(*stamp), "{place} of {asked:?}");
                    }
                }
            }
            request::ID => {
                assert_eq!((written, &ram.peek(data, 20)[..]), (21, &b"a disk in the window"[..]));
            }
            _ => assert_eq!(written, 1),
        }
        for (block, stamp) in blocks.zip(asked.stamps) {
            self.model[block as usize] = stamp;
        }
    }

    /// What a failed request is said to have written: the status, and of data nothing.
    fn none(&self, asked: &Asked) -> u32 {
        u32::from(asked.kind != request::READ)
    }

    fn is_taken(&self, block: u64, blocks: usize) -> bool {
        let end = block + blocks as u64;
        self.slots
            .iter()
            .flatten()
            .any(|asked| asked.block < end && block < asked.block + asked.blocks as u64)
    }

    /// Makes requests while there is room. Whether it rings.
    pub fn submit(&mut self) -> bool {
        let mut rings = false;
        while self.left > 0 {
            let Some(slot) = self.slots.iter().position(Option::is_none) else { break };
            let asked = self.choose();
            let queue = self.rng.below(2);
            if self.is_taken(asked.block, asked.blocks) {
                if self.in_flight() == 0 {
                    unreachable!()
                }
                break;
            }
            self.left -= 1;
            rings |= self.ask(slot, queue, asked);
        }
        rings
    }

    fn choose(&mut self) -> Asked {
        let blocks = match self.rng.below(8) {
            0 => RUN,
            1 => 1 + self.rng.below(40),
            _ => 1 + self.rng.below(3),
        };
        let block = self.rng.below(BLOCKS as usize - blocks) as u64;
        let place = block as usize..block as usize + blocks;
        let id = (0, 0);
        let none = Asked { kind: 0, block: 0, blocks: 0, stamps: Vec::new(), id };
        match self.rng.below(12) {
            0 => Asked { kind: request::FLUSH, ..none },
            1 => Asked { kind: request::ID, ..none },
            2 => Asked { kind: request::DISCARD, block, blocks, stamps: vec![0; blocks], id },
            3 => Asked { kind: request::WRITE_ZEROES, block, blocks, stamps: vec![0; blocks], id },
            4..=7 => {
                let stamps = self.model[place].to_vec();
                Asked { kind: request::READ, block, blocks, stamps, id }
            }
            _ => {
                let stamps = place.map(|_| self.rng.below(1 << 30) as u64 + 1).collect();
                Asked { kind: request::WRITE, block, blocks, stamps, id }
            }
        }
    }

    /// Puts a request into a ring. Whether it rings.
    fn ask(&mut self, slot: usize, queue: usize, mut asked: Asked) -> bool {
        let ram = &self.world.ram;
        let head = HEADS + slot as u64 * 64;
        let data = DATA + (slot * RUN * BLOCK) as u64;
        let is_range = matches!(asked.kind, request::DISCARD | request::WRITE_ZEROES);
        let sector = if is_range { 0 } else { asked.block * 8 };
        ram.poke(head, &asked.kind.to_le_bytes());
        ram.poke(head + 8, &sector.to_le_bytes());
        ram.poke(head + 32, &[0xee]);
        let mut buffers = vec![(head, 16, false)];
        let len = if asked.kind == request::ID { 20 } else { asked.blocks * BLOCK };
        if is_range {
            ram.poke(head + 16, &(asked.block * 8).to_le_bytes());
            ram.poke(head + 24, &(asked.blocks as u32 * 8).to_le_bytes());
            buffers.push((head + 16, 16, false));
        } else if len != 0 && asked.kind != request::FLUSH {
            let is_written = asked.kind != request::WRITE;
            for (place, stamp) in asked.stamps.iter().enumerate() {
                let bytes = if is_written { vec![0xdd; BLOCK] } else { filled(*stamp) };
                ram.poke(data + (place * BLOCK) as u64, &bytes);
            }
            let mut at = 0;
            // Pieces that are no blocks, and odd ones.
            while at < len {
                let most = if buffers.len() > 20 { len } else { 1 + self.rng.below(3 * BLOCK) };
                let piece = most.min(len - at);
                buffers.push((data + at as u64, piece as u32, is_written));
                at += piece;
            }
        }
        buffers.push((head + 32, 1, true));
        let (id, rings) = self.add(ram, queue, &buffers);
        asked.id = (queue, id);
        self.slots[slot] = Some(asked);
        if rings {
            self.world.monitor().ring(queue);
        }
        rings
    }

    /// The id of the chain, and whether the device wants a doorbell.
    fn add(&mut self, ram: &TestRam, queue: usize, buffers: &[(u64, u32, bool)]) -> (u16, bool) {
        let before = self.added[queue];
        self.added[queue] = before.wrapping_add(1);
        let has_events = self.features & features::EVENT_IDX != 0;
        match &mut self.rings[queue] {
            Ring::Split(ring) => {
                let id = ring.add(ram, buffers).expect("room");
                let (flags, event) = ring.device_wish(ram);
                (id, if has_events { event == before } else { flags == 0 })
            }
            Ring::Packed(ring) => {
                let id = ring.add(ram, buffers);
                (id.expect("room"), ring.device_wish(ram).1 == 0)
            }
        }
    }
}

/// A block with a stamp.
pub fn filled(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK / 8)
}
