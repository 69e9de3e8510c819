//! The driver's side of a packed ring (virtio 1.3, "Packed Virtqueues"): [`Packed`].
//!
//! Invariant: between `used` and `next`, and only there, descriptors are the device's; a request's
//! number has a count of descriptors while it is in flight.

use core::sync::atomic::{Ordering, fence};

use crate::area::Area;
use crate::queue::Broken;
use crate::request::Piece;
use crate::ring::{Flight, INDIRECT, NEXT, SIZE_MAX, WRITE, passes};

/// Flags of a descriptor: the driver's and the device's side of its turn.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Flags of event suppression: always, never, at one descriptor.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT: u16 = 2;
/// A place's turn stands in its highest bit.
const TURN: u16 = 1 << 15;

/// A place in the ring and whether its turn is an odd one, as the first is.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: u16,
    turn: bool,
}

impl Place {
    const FIRST: Place = Place { index: 0, turn: true };

    fn forward(self, count: u16, size: u16) -> Place {
        let index = self.index + count;
        if index >= size {
            Place { index: index - size, turn: !self.turn }
        } else {
            Place { index, turn: self.turn }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Packed<'m> {
    size: u16,
    descriptors: Area<'m>,
    driver: Area<'m>,
    device: Area<'m>,
    has_event_idx: bool,
    flights: [Flight; SIZE_MAX],
    free: u16,
    next: Place,
    /// Descriptors made available since the doorbell was last considered.
    added: u16,
    used: Place,
}

impl<'m> Packed<'m> {
    pub fn new(area: Area<'m>, size: u16, has_event_idx: bool) -> Self {
        let table = usize::from(size) * 16;
        Self {
            size,
            descriptors: area.part(0, table),
            driver: area.part(table, 4),
            device: area.part(table + 8, 4),
            has_event_idx,
            flights: [Flight::default(); SIZE_MAX],
            free: size,
            next: Place::FIRST,
            added: 0,
            used: Place::FIRST,
        }
    }

    pub fn areas(&self) -> [u64; 3] {
        [self.descriptors.at(), self.driver.at(), self.device.at()]
    }

    pub fn put(&mut self, id: u16, pieces: &[Piece], table: Option<Area<'m>>) -> bool {
        let own;
        let pieces = match table {
            Some(table) => {
                for (index, piece) in pieces.iter().enumerate() {
                    // The order in a table is that of its entries; there is nothing to link.
                    let flags = if piece.is_written { WRITE } else { 0 };
                    table.store(index * 2, piece.at, Ordering::Relaxed);
                    table.store(index * 2 + 1, second(piece.len, 0, flags), Ordering::Relaxed);
                }
                let len = pieces.len() as u32 * 16;
                own = [Piece { at: table.at(), len, is_written: false }];
                &own[..]
            }
            None => pieces,
        };
        let count = pieces.len() as u16;
        if count > self.free {
            return false;
        }
        let first = self.next;
        // From the last to the first, whose flags hand the chain over: before that, the device
        // sees none of it. Release: it then sees all.
        for (behind, piece) in (0..count).zip(pieces).rev() {
            let place = first.forward(behind, self.size);
            let mut flags = if place.turn { AVAIL } else { USED };
            flags |= if piece.is_written { WRITE } else { 0 };
            flags |= if behind + 1 < count { NEXT } else { 0 };
            flags |= if table.is_some() { INDIRECT } else { 0 };
            let at = usize::from(place.index) * 2;
            self.descriptors.store(at, piece.at, Ordering::Relaxed);
            self.descriptors.store(at + 1, second(piece.len, id, flags), Ordering::Release);
        }
        self.flights[usize::from(id)] = Flight { count };
        self.free -= count;
        self.added += count;
        self.next = first.forward(count, self.size);
        true
    }

    pub fn must_ring(&mut self) -> bool {
        let added = core::mem::take(&mut self.added);
        // As in a split ring.
        fence(Ordering::SeqCst);
        let wish = self.device.load_u32(0, Ordering::Relaxed);
        let (at, flags) = (wish as u16, (wish >> 16) as u16 & 3);
        if flags == DISABLE || added == 0 {
            return false;
        }
        if flags != AT || !self.has_event_idx {
            return true;
        }
        let (mut event, new) = (at & !TURN, self.next.index);
        if (at & TURN != 0) != self.next.turn {
            event = event.wrapping_sub(self.size);
        }
        passes(event, new, new.wrapping_sub(added))
    }

    pub fn has_used(&self) -> bool {
        self.head(Ordering::Relaxed).is_some()
    }

    /// Length and number of the next descriptor, if the device is done with it.
    fn head(&self, order: Ordering) -> Option<(u32, u16)> {
        let second = self.descriptors.load(usize::from(self.used.index) * 2 + 1, order);
        let flags = (second >> 48) as u16;
        let is_used = [AVAIL, USED].iter().all(|side| (flags & side != 0) == self.used.turn);
        is_used.then_some((second as u32, (second >> 32) as u16))
    }

    pub fn take(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        // Acquire: number, length, status and data were written before the flags.
        let Some((len, id)) = self.head(Ordering::Acquire) else {
            return Ok(None);
        };
        let found = self.flights.get_mut(usize::from(id)).filter(|flight| flight.count != 0);
        let Some(flight) = found else {
            return Err(Broken::NotInFlight(id.into()));
        };
        let count = core::mem::take(flight).count;
        self.free += count;
        self.used = self.used.forward(count, self.size);
        Ok(Some((id, len)))
    }

    pub fn listen(&mut self) -> bool {
        let turn = if self.used.turn { TURN } else { 0 };
        let at = if self.has_event_idx { self.used.index | turn } else { 0 };
        self.wish(at, if self.has_event_idx { AT } else { ENABLE });
        fence(Ordering::SeqCst);
        self.has_used()
    }

    pub fn hush(&mut self) {
        self.wish(0, DISABLE);
    }

    fn wish(&self, at: u16, flags: u16) {
        self.driver.store(0, u64::from(at) | u64::from(flags) << 16, Ordering::Relaxed);
    }
}

fn second(len: u32, id: u16, flags: u16) -> u64 {
    u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
}
