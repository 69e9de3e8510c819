//! The driver's side of a split ring: [`Driver`].

use crate::ram::TestRam;

/// Flag of a descriptor: another one follows.
pub const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes it.
pub const WRITE: u16 = 2;
/// Flag of a descriptor: it names a table.
pub const INDIRECT: u16 = 4;

/// A buffer: address, length, and whether the device writes it.
pub type Buffer = (u64, u32, bool);

/// A driver that keeps the rules, unless told otherwise.
pub struct Driver {
    /// Number of descriptors.
    pub size: u16,
    /// Where the three areas are.
    pub areas: [u64; 3],
    available: u16,
    seen: u16,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
}

impl Driver {
    /// A queue of that size whose areas begin at `at`, a multiple of 16.
    pub fn new(at: u64, size: u16) -> Driver {
        let n = u64::from(size);
        let driver_area = at + 16 * n;
        let device_area = (driver_area + 6 + 2 * n).next_multiple_of(4);
        Driver {
            size,
            areas: [at, driver_area, device_area],
            available: 0,
            seen: 0,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
        }
    }

    /// Bytes from the first area to the end of the last.
    pub fn len(&self) -> u64 {
        self.areas[2] + 6 + 8 * u64::from(self.size) - self.areas[0]
    }

    /// Whether the queue has no descriptors.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The words of a queue on the page: size and addresses.
    pub fn record(&self) -> [u64; 4] {
        [self.size.into(), self.areas[0], self.areas[1], self.areas[2]]
    }

    /// Writes a descriptor.
    pub fn describe(&self, ram: &TestRam, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        poke_descriptor(ram, self.areas[0] + 16 * u64::from(index), at, len, flags, next);
    }

    /// Makes a head available, whatever its descriptor says.
    pub fn offer(&mut self, ram: &TestRam, head: u16) {
        let entry = self.areas[1] + 4 + 2 * u64::from(self.available % self.size);
        ram.poke(entry, &head.to_le_bytes());
        self.set_available(ram, self.available.wrapping_add(1));
    }

    /// Sets the available index.
    pub fn set_available(&mut self, ram: &TestRam, index: u16) {
        self.available = index;
        ram.poke(self.areas[1] + 2, &index.to_le_bytes());
    }

    /// Makes a chain of these buffers available; its head, or `None` if descriptors are short.
    pub fn add(&mut self, ram: &TestRam, buffers: &[Buffer]) -> Option<u16> {
        if self.free.len() < buffers.len() {
            return None;
        }
        let taken = self.free.split_off(self.free.len() - buffers.len());
        for (place, (at, len, is_written)) in buffers.iter().enumerate() {
            let next = taken.get(place + 1);
            let flags = if *is_written { WRITE } else { 0 } | next.map_or(0, |_| NEXT);
            self.describe(ram, taken[place], *at, *len, flags, next.copied().unwrap_or(0));
        }
        let head = taken[0];
        self.chains[usize::from(head)] = taken;
        self.offer(ram, head);
        Some(head)
    }

    /// Makes a chain available whose buffers stand in a table at `table`.
    pub fn add_indirect(&mut self, ram: &TestRam, table: u64, buffers: &[Buffer]) -> Option<u16> {
        let head = self.free.pop()?;
        for (place, (at, len, is_written)) in (0u16..).zip(buffers) {
            let more = usize::from(place) + 1 < buffers.len();
            let flags = if *is_written { WRITE } else { 0 } | if more { NEXT } else { 0 };
            poke_descriptor(ram, table + 16 * u64::from(place), *at, *len, flags, place + 1);
        }
        self.describe(ram, head, table, 16 * buffers.len() as u32, INDIRECT, 0);
        self.chains[usize::from(head)] = vec![head];
        self.offer(ram, head);
        Some(head)
    }

    /// The next chain that was used, with the bytes that were written.
    pub fn used(&mut self, ram: &TestRam) -> Option<(u16, u32)> {
        if self.used_index(ram) == self.seen {
            return None;
        }
        let entry = ram.peek(self.areas[2] + 4 + 8 * u64::from(self.seen % self.size), 8);
        let [a, b, c, d, e, f, g, h] = entry.try_into().expect("an entry has eight bytes");
        self.seen = self.seen.wrapping_add(1);
        let head = u32::from_le_bytes([a, b, c, d]) as u16;
        let freed = core::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!freed.is_empty(), "head {head} was used and is not in flight");
        self.free.extend(freed);
        Some((head, u32::from_le_bytes([e, f, g, h])))
    }

    /// The used index.
    pub fn used_index(&self, ram: &TestRam) -> u16 {
        ram.peek_u16(self.areas[2] + 2)
    }

    /// What the device wants to be notified of: flags and, behind the entries, an index.
    pub fn device_wish(&self, ram: &TestRam) -> (u16, u16) {
        let event = self.areas[2] + 4 + 8 * u64::from(self.size);
        (ram.peek_u16(self.areas[2]), ram.peek_u16(event))
    }

    /// Says what the driver wants to be interrupted for.
    pub fn set_wish(&self, ram: &TestRam, flags: u16, event: u16) {
        ram.poke(self.areas[1], &flags.to_le_bytes());
        let at = self.areas[1] + 4 + 2 * u64::from(self.size);
        ram.poke(at, &event.to_le_bytes());
    }
}

fn poke_descriptor(ram: &TestRam, place: u64, at: u64, len: u32, flags: u16, next: u16) {
    ram.poke(place, &at.to_le_bytes());
    ram.poke(place + 8, &len.to_le_bytes());
    ram.poke(place + 12, &flags.to_le_bytes());
    ram.poke(place + 14, &next.to_le_bytes());
}
