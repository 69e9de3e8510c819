//! Memory as a broker reaches it: [`Memory`], whose stores burn a [`Fuse`]. When it has burnt down
//! the broker dies, and what it stored before stays.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::atomic::Ordering;

use cloister_guestmem::{BadAddress, GuestPhys, Ram, Range};
use cloister_virtio_testing::TestRam;

/// What unwinds.
pub struct Death;

/// How many stores are left.
pub struct Fuse(pub Cell<u64>);

impl Default for Fuse {
    fn default() -> Fuse {
        Fuse(Cell::new(u64::MAX))
    }
}

impl Fuse {
    fn burn(&self) {
        match self.0.get() {
            0 => resume_unwind(Box::new(Death)),
            left => self.0.set(left - 1),
        }
    }
}

#[derive(Clone, Copy)]
pub struct Memory<'w> {
    pub ram: &'w TestRam,
    pub fuse: &'w Fuse,
}

impl Ram for Memory<'_> {
    fn size(&self) -> u64 {
        self.ram.size()
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        self.ram.read_into(at, bytes)
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        self.fuse.burn();
        self.ram.write_from(at, bytes)
    }

    fn copy_to(&self, from: Range, to: &Self, at: GuestPhys) -> Result<(), BadAddress> {
        self.fuse.burn();
        let mut bytes = vec![0; from.len() as usize];
        self.ram.read_into(from.start(), &mut bytes)?;
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        to.ram.write_from(at, half)?;
        self.fuse.burn();
        to.ram.write_from(GuestPhys::new(at.get() + half.len() as u64), rest)
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        self.ram.load_u16(at, order)
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        self.fuse.burn();
        self.ram.store_u16(at, value, order)
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        self.fuse.burn();
        self.ram.store_u32(at, value, order)
    }
}
