//! The driver's side of a packed ring: [`PackedDriver`].

use crate::driver::{Buffer, INDIRECT, NEXT, WRITE};
use crate::ram::TestRam;

/// Flag of a packed descriptor: its value tells whether the driver made it available.
pub const AVAIL: u16 = 1 << 7;
/// Flag of a packed descriptor: its value tells whether the device used it.
pub const USED: u16 = 1 << 15;

/// A driver of a packed ring that keeps the rules, unless told otherwise.
pub struct PackedDriver {
    /// Number of descriptors.
    pub size: u16,
    /// Where the ring and the two event structures are.
    pub areas: [u64; 3],
    /// Where the next chain goes, and the wrap counter there.
    pub next: (u16, bool),
    seen: (u16, bool),
    free: u16,
    /// Descriptors of the chains in flight, by buffer id; 0: not in flight.
    chains: Vec<u16>,
}

impl PackedDriver {
    /// A queue of that size whose areas begin at `at`, a multiple of 16.
    pub fn new(at: u64, size: u16) -> PackedDriver {
        let events = at + 16 * u64::from(size);
        PackedDriver {
            size,
            areas: [at, events, events + 4],
            next: (0, true),
            seen: (0, true),
            free: size,
            chains: vec![0; size.into()],
        }
    }

    /// The words of a queue on the page: size and addresses.
    pub fn record(&self) -> [u64; 4] {
        [self.size.into(), self.areas[0], self.areas[1], self.areas[2]]
    }

    /// Where a descriptor of the ring is.
    pub fn place(&self, index: u16) -> u64 {
        self.areas[0] + 16 * u64::from(index)
    }

    /// The flags of a descriptor that is available in the lap with this wrap counter.
    pub fn available(wrap: bool) -> u16 {
        if wrap { AVAIL } else { USED }
    }

    /// Writes a descriptor, flags last, as they are.
    pub fn describe(&self, ram: &TestRam, index: u16, at: u64, len: u32, id: u16, flags: u16) {
        poke(ram, self.place(index), at, len, id, flags);
    }

    /// Makes a chain of these buffers available; its buffer id, or `None` if room is short.
    pub fn add(&mut self, ram: &TestRam, buffers: &[Buffer]) -> Option<u16> {
        let count = buffers.len() as u16;
        let id = self.vacant(count)?;
        let mut places = Vec::new();
        let (mut index, mut wrap) = self.next;
        for _ in buffers {
            places.push((index, wrap));
            (index, wrap) = self.behind((index, wrap));
        }
        // The first descriptor is written last, so that the device sees whole chains only.
        for (number, (at, len, is_written)) in buffers.iter().enumerate().rev() {
            let (place, wrap) = places[number];
            let mut flags = PackedDriver::available(wrap);
            flags |= if *is_written { WRITE } else { 0 };
            flags |= if number + 1 < buffers.len() { NEXT } else { 0 };
            self.describe(ram, place, *at, *len, id, flags);
        }
        self.next = (index, wrap);
        self.chains[usize::from(id)] = count;
        self.free -= count;
        Some(id)
    }

    /// Makes a chain available whose buffers stand in a table at `table`.
    pub fn add_indirect(&mut self, ram: &TestRam, table: u64, buffers: &[Buffer]) -> Option<u16> {
        let id = self.vacant(1)?;
        for (number, (at, len, is_written)) in (0u64..).zip(buffers) {
            let flags = if *is_written { WRITE } else { 0 };
            // Id and all other flags of a table's entry mean nothing.
            poke(ram, table + 16 * number, *at, *len, 0x5a5a, flags | NEXT | AVAIL);
        }
        let (index, wrap) = self.next;
        let flags = PackedDriver::available(wrap) | INDIRECT;
        self.describe(ram, index, table, 16 * buffers.len() as u32, id, flags);
        self.next = self.behind(self.next);
        self.chains[usize::from(id)] = 1;
        self.free -= 1;
        Some(id)
    }

    /// The next chain that was used, with the bytes that were written.
    pub fn used(&mut self, ram: &TestRam) -> Option<(u16, u32)> {
        let (index, wrap) = self.seen;
        let flags = ram.peek_u16(self.place(index) + 14);
        if (flags & AVAIL != 0) != wrap || (flags & USED != 0) != wrap {
            return None;
        }
        let id = ram.peek_u16(self.place(index) + 12);
        let len = ram.peek(self.place(index) + 8, 4).try_into().expect("four bytes");
        let count = core::mem::take(&mut self.chains[usize::from(id)]);
        assert!(count != 0, "buffer {id} was used and is not in flight");
        for _ in 0..count {
            self.seen = self.behind(self.seen);
        }
        self.free += count;
        Some((id, u32::from_le_bytes(len)))
    }

    /// Where the next used chain will be, as event structures have places.
    pub fn next_used(&self) -> u16 {
        self.seen.0 | u16::from(self.seen.1) << 15
    }

    /// What the device wants to be notified of: place with wrap counter, and flags.
    pub fn device_wish(&self, ram: &TestRam) -> (u16, u16) {
        (ram.peek_u16(self.areas[2]), ram.peek_u16(self.areas[2] + 2))
    }

    /// Says what the driver wants to be interrupted for.
    pub fn set_wish(&self, ram: &TestRam, place: u16, flags: u16) {
        ram.poke(self.areas[1], &place.to_le_bytes());
        ram.poke(self.areas[1] + 2, &flags.to_le_bytes());
    }

    /// The place behind one, in its lap.
    pub fn behind(&self, (index, wrap): (u16, bool)) -> (u16, bool) {
        if index + 1 == self.size { (0, !wrap) } else { (index + 1, wrap) }
    }

    fn vacant(&self, descriptors: u16) -> Option<u16> {
        if descriptors > self.free {
            return None;
        }
        // The highest one: a device that takes ids for places in order is found out.
        self.chains.iter().rposition(|count| *count == 0).map(|id| id as u16)
    }
}

fn poke(ram: &TestRam, place: u64, at: u64, len: u32, id: u16, flags: u16) {
    ram.poke(place, &at.to_le_bytes());
    ram.poke(place + 8, &len.to_le_bytes());
    ram.poke(place + 12, &id.to_le_bytes());
    ram.poke(place + 14, &flags.to_le_bytes());
}
