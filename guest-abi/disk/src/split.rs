//! The driver's side of a split ring (virtio 1.3, "Split Virtqueues"): [`Split`].
//!
//! Invariant: a descriptor is in `free` or in the chain of one head, and a head has a number while
//! its chain is the device's.

use core::sync::atomic::{Ordering, fence};

use crate::area::Area;
use crate::queue::Broken;
use crate::request::Piece;
use crate::ring::{Flight, INDIRECT, NEXT, SIZE_MAX, WRITE, passes};

/// Offset of the index in either ring, of the entries, and bytes of an entry.
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const AVAILABLE: usize = 2;
const USED: usize = 8;
/// Flag of the available ring: no interrupts. Flag of the used ring: no doorbells.
const QUIET: u16 = 1;

#[derive(Debug)]
pub(crate) struct Split<'m> {
    size: u16,
    descriptors: Area<'m>,
    driver: Area<'m>,
    device: Area<'m>,
    has_event_idx: bool,
    free: [u16; SIZE_MAX],
    free_len: usize,
    /// The descriptor behind each in its chain.
    links: [u16; SIZE_MAX],
    /// By head: the number of the request and its chain.
    heads: [(u16, Flight); SIZE_MAX],
    in_flight: u16,
    /// The next entry of the available ring, and what it was when the doorbell was last considered.
    available: u16,
    rung: u16,
    /// The next entry of the used ring.
    seen: u16,
}

impl<'m> Split<'m> {
    pub fn new(area: Area<'m>, size: u16, has_event_idx: bool) -> Self {
        let entries = usize::from(size);
        let table = entries * 16;
        let available = (ENTRIES + entries * AVAILABLE + 2).next_multiple_of(8);
        let used = ENTRIES + entries * USED + 2;
        let mut free = [0; SIZE_MAX];
        // The lowest is taken first.
        for (place, index) in free.iter_mut().zip((0..size).rev()) {
            *place = index;
        }
        Self {
            size,
            descriptors: area.part(0, table),
            driver: area.part(table, available),
            device: area.part(table + available, used),
            has_event_idx,
            free,
            free_len: entries,
            links: [0; SIZE_MAX],
            heads: [(0, Flight::default()); SIZE_MAX],
            in_flight: 0,
            available: 0,
            rung: 0,
            seen: 0,
        }
    }

    pub fn areas(&self) -> [u64; 3] {
        [self.descriptors.at(), self.driver.at(), self.device.at()]
    }

    pub fn put(&mut self, id: u16, pieces: &[Piece], table: Option<Area<'m>>) -> bool {
        let count = if table.is_some() { 1 } else { pieces.len() };
        let Some(rest) = self.free_len.checked_sub(count) else {
            return false;
        };
        let mut taken = [0; SIZE_MAX];
        let taken = &mut taken[..count];
        taken.copy_from_slice(&self.free[rest..self.free_len]);
        taken.reverse();
        self.free_len = rest;
        match table {
            Some(table) => {
                for (index, piece) in pieces.iter().enumerate() {
                    let next = (index + 1 < pieces.len()).then_some(index as u16 + 1);
                    describe(&table, index, piece, next);
                }
                let len = pieces.len() as u32 * 16;
                let piece = Piece { at: table.at(), len, is_written: false };
                write(&self.descriptors, usize::from(taken[0]), &piece, INDIRECT, 0);
            }
            None => {
                for (place, piece) in pieces.iter().enumerate() {
                    let next = taken.get(place + 1).copied();
                    describe(&self.descriptors, usize::from(taken[place]), piece, next);
                    self.links[usize::from(taken[place])] = next.unwrap_or(0);
                }
            }
        }
        let head = taken[0];
        self.heads[usize::from(head)] = (id, Flight { count: count as u16 });
        self.in_flight += 1;
        let entry = usize::from(self.available % self.size);
        self.driver.store_u16(ENTRIES + entry * AVAILABLE, head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        // Release: whoever sees the index sees entry, descriptors and what they describe.
        self.driver.store_u16(INDEX, self.available, Ordering::Release);
        true
    }

    pub fn must_ring(&mut self) -> bool {
        let before = core::mem::replace(&mut self.rung, self.available);
        // The device writes its wish and then looks at the index; here it is the other way round.
        fence(Ordering::SeqCst);
        if self.has_event_idx {
            let at = ENTRIES + usize::from(self.size) * USED;
            let event = self.device.load_u16(at, Ordering::Relaxed);
            passes(event, self.available, before)
        } else {
            before != self.available && self.device.load_u16(0, Ordering::Relaxed) & QUIET == 0
        }
    }

    pub fn has_used(&self) -> bool {
        self.device.load_u16(INDEX, Ordering::Relaxed) != self.seen
    }

    pub fn take(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        // Acquire: entries, status and data were written before the index.
        let index = self.device.load_u16(INDEX, Ordering::Acquire);
        let waiting = index.wrapping_sub(self.seen);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.in_flight {
            return Err(Broken::TooMany(waiting));
        }
        let at = ENTRIES + usize::from(self.seen % self.size) * USED;
        let head = self.device.load_u32(at, Ordering::Relaxed);
        let len = self.device.load_u32(at + 4, Ordering::Relaxed);
        let found = self.heads.get_mut(head as usize).filter(|(_, flight)| flight.count != 0);
        let Some((id, flight)) = found else {
            return Err(Broken::NotInFlight(head));
        };
        let (id, count) = (*id, core::mem::take(flight).count);
        let mut index = head as u16;
        for _ in 0..count {
            self.free[self.free_len] = index;
            self.free_len += 1;
            index = self.links[usize::from(index)];
        }
        self.in_flight -= 1;
        self.seen = self.seen.wrapping_add(1);
        Ok(Some((id, len)))
    }

    pub fn listen(&mut self) -> bool {
        self.wish(0, self.seen);
        fence(Ordering::SeqCst);
        self.has_used()
    }

    pub fn hush(&mut self) {
        // An index that was passed already asks for nothing more.
        self.wish(QUIET, self.seen.wrapping_sub(1));
    }

    fn wish(&self, flags: u16, event: u16) {
        if self.has_event_idx {
            let at = ENTRIES + usize::from(self.size) * AVAILABLE;
            self.driver.store_u16(at, event, Ordering::Relaxed);
        } else {
            self.driver.store_u16(0, flags, Ordering::Relaxed);
        }
    }
}

fn describe(table: &Area<'_>, index: usize, piece: &Piece, next: Option<u16>) {
    let flags = if piece.is_written { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
    write(table, index, piece, flags, next.unwrap_or(0));
}

fn write(table: &Area<'_>, index: usize, piece: &Piece, flags: u16, next: u16) {
    let second = u64::from(piece.len) | u64::from(flags) << 32 | u64::from(next) << 48;
    table.store(index * 2, piece.at, Ordering::Relaxed);
    table.store(index * 2 + 1, second, Ordering::Relaxed);
}
