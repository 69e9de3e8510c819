//! The driver's side of a window's ring: [`Ring`], a split one (virtio 1.3, "Split Virtqueues").
//!
//! Each request has a *slot*: three descriptors of the table and 64 bytes for header, range and
//! status, always the same, so that a request is a few stores. Neighbours: [`crate::Link`] has the
//! page and what requests mean. A guest's own driver is `guest-abi/disk`; this one lies in less
//! memory, and reaches it through [`Ram`].
//!
//! Invariant: a slot is the device's from [`Ring::put`] to [`Ring::take`]; whatever else the device
//! writes is an error of it ([`Broken`]).

use core::sync::atomic::{Ordering, fence};

use cloister_guestmem::{BadAddress, GuestPhys, Ram};

/// Descriptors.
pub const SIZE: u16 = 128;
/// Bytes of all entries of the available and of the used ring.
const RING_BYTES: [u64; 2] = [2 * 128, 8 * 128];
/// Slots: three descriptors each.
pub const SLOTS: usize = 42;

/// Where descriptors, driver area and device area lie.
pub const AREAS: [u64; 3] = [0, 0x800, 0xa00];
/// Where the memory of the slots lies, and how much each has.
const SLOT_BASE: u64 = 0x1000;
const SLOT_BYTES: u64 = 64;
/// Where payload begins.
pub const PAYLOAD: u64 = 0x2000;

/// Offsets in a slot.
const RANGE: u64 = 16;
const STATUS: u64 = 32;
/// Bytes of a header, and of a range.
const HEAD: u32 = 16;
/// What the status is before the device has written it.
const UNWRITTEN: u8 = 0xff;

/// Offsets in either ring.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;
const USED_EVENT: u64 = AREAS[1] + ENTRIES + RING_BYTES[0];
const AVAIL_EVENT: u64 = AREAS[2] + ENTRIES + RING_BYTES[1];

const NEXT: u16 = 1;
const WRITE: u16 = 2;

const _: () = assert!(AVAIL_EVENT + 2 <= SLOT_BASE && USED_EVENT + 2 <= AREAS[2]);
const _: () = assert!(SLOT_BASE + SLOT_BYTES * 42 <= PAYLOAD && SLOTS == 42);
const _: () = assert!(SIZE == 128 && SLOTS * 3 <= 128);

/// How the device broke the rules of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It used more requests than there are.
    TooMany,
    /// It used one that is not in flight.
    NotInFlight,
    /// It wrote more bytes than there was room for.
    Length,
    /// It left no status, or one that there is not.
    Status,
    /// The window's memory is not there.
    Memory,
}

impl Broken {
    /// All of them.
    pub const ALL: [Broken; 5] =
        [Broken::TooMany, Broken::NotInFlight, Broken::Length, Broken::Status, Broken::Memory];

    /// What the disk's driver did, for a log.
    pub const fn text(self) -> &'static str {
        match self {
            Broken::TooMany => "more requests are used than are in flight",
            Broken::NotInFlight => "a request is used that is not in flight",
            Broken::Length => "more bytes are written than there is room for",
            Broken::Status => "a request has no status that there is",
            Broken::Memory => "the window's memory is not there",
        }
    }
}

impl From<BadAddress> for Broken {
    fn from(_: BadAddress) -> Broken {
        Broken::Memory
    }
}

/// What goes between header and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// A range: sectors from here on, how many, flags.
    Range(u64, u32, u32),
    /// Bytes of the window.
    Data {
        /// The first.
        at: u64,
        /// How many.
        len: u32,
        /// The device writes them.
        is_written: bool,
    },
}

impl Body {
    /// Bytes that the device may write, the status included.
    fn writable(self) -> u32 {
        match self {
            Body::Data { len, is_written: true, .. } => len.saturating_add(1),
            _ => 1,
        }
    }
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    /// The next entry of the available ring, and what it was when a doorbell was last considered.
    available: u16,
    rung: u16,
    /// The next entry of the used ring.
    seen: u16,
    /// Slots that are the device's, a bit each.
    flight: u64,
    /// What the device may write of each.
    writable: [u32; SLOTS],
}

impl Ring {
    /// A ring in which nothing is in flight. The device does not touch the memory: it was reset.
    pub fn lay<M: Ram>(ram: &M) -> Result<Ring, Broken> {
        let zeroes = [0; 64];
        let mut at = AREAS[1];
        while at < SLOT_BASE {
            ram.write_from(GuestPhys::new(at), &zeroes)?;
            at = at.saturating_add(64);
        }
        for slot in 0..SLOTS {
            let [_, _, last] = descriptors(slot);
            describe(ram, last, (status_at(slot), 1, WRITE), 0)?;
        }
        Ok(Ring { available: 0, rung: 0, seen: 0, flight: 0, writable: [1; SLOTS] })
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.flight == 0
    }

    /// A slot that is free.
    pub fn vacant(&self) -> Option<usize> {
        let slot = usize::try_from(self.flight.trailing_ones()).ok()?;
        (slot < SLOTS).then_some(slot)
    }

    /// Makes a request of a slot that is free.
    pub fn put<M: Ram>(
        &mut self,
        ram: &M,
        slot: usize,
        (kind, sector): (u32, u64),
        body: Body,
    ) -> Result<(), Broken> {
        let at = slot_at(slot);
        let [first, middle, last] = descriptors(slot);
        let [a, b, c, d] = kind.to_le_bytes();
        let [e, f, g, h, i, j, k, l] = sector.to_le_bytes();
        ram.write_from(GuestPhys::new(at), &[a, b, c, d, 0, 0, 0, 0, e, f, g, h, i, j, k, l])?;
        ram.write_from(GuestPhys::new(status_at(slot)), &[UNWRITTEN])?;
        let next = match body {
            Body::None => last,
            Body::Range(sector, sectors, flags) => {
                let [a, b, c, d, e, f, g, h] = sector.to_le_bytes();
                let [i, j, k, l] = sectors.to_le_bytes();
                let [m, n, o, p] = flags.to_le_bytes();
                let range = at.saturating_add(RANGE);
                let bytes = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
                ram.write_from(GuestPhys::new(range), &bytes)?;
                describe(ram, middle, (range, HEAD, NEXT), last)?;
                middle
            }
            Body::Data { at, len, is_written } => {
                let flags = if is_written { NEXT | WRITE } else { NEXT };
                describe(ram, middle, (at, len, flags), last)?;
                middle
            }
        };
        describe(ram, first, (at, HEAD, NEXT), next)?;
        let entry = entry(AREAS[1], self.available, 2);
        ram.write_from(entry, &first.to_le_bytes())?;
        self.available = self.available.wrapping_add(1);
        if let Some(writable) = self.writable.get_mut(slot) {
            *writable = body.writable();
        }
        self.flight |= bit(slot);
        // Release: whoever sees the index sees entry, descriptors and what they describe.
        let index = GuestPhys::new(AREAS[1].saturating_add(INDEX));
        Ok(ram.store_u16(index, self.available, Ordering::Release)?)
    }

    /// Whether the device wants a doorbell for what was put since the last call.
    pub fn must_ring<M: Ram>(&mut self, ram: &M) -> Result<bool, Broken> {
        let before = core::mem::replace(&mut self.rung, self.available);
        if before == self.available {
            return Ok(false);
        }
        // The device writes its wish and then looks at the index; here it is the other way round.
        fence(Ordering::SeqCst);
        let event = ram.load_u16(GuestPhys::new(AVAIL_EVENT), Ordering::Relaxed)?;
        let passed = self.available.wrapping_sub(event).wrapping_sub(1);
        Ok(passed < self.available.wrapping_sub(before))
    }

    /// The next request that was used: its slot and its status.
    pub fn take<M: Ram>(&mut self, ram: &M) -> Result<Option<(usize, u8)>, Broken> {
        // Acquire: entries, status and data were written before the index.
        let index = ram.load_u16(index_of_used(), Ordering::Acquire)?;
        let waiting = index.wrapping_sub(self.seen);
        if waiting == 0 {
            return Ok(None);
        }
        if u32::from(waiting) > self.flight.count_ones() {
            return Err(Broken::TooMany);
        }
        let [a, b, c, d, e, f, g, h] = ram.read_u64(entry(AREAS[2], self.seen, 8))?.to_le_bytes();
        let head = u32::from_le_bytes([a, b, c, d]);
        let slot = usize::try_from(head / 3).map_err(|_| Broken::NotInFlight)?;
        if !head.is_multiple_of(3) || slot >= SLOTS || self.flight & bit(slot) == 0 {
            return Err(Broken::NotInFlight);
        }
        let room = self.writable.get(slot).copied().unwrap_or(0);
        if u32::from_le_bytes([e, f, g, h]) > room {
            return Err(Broken::Length);
        }
        let mut status = [UNWRITTEN];
        ram.read_into(GuestPhys::new(status_at(slot)), &mut status)?;
        let [status] = status;
        if status > 2 {
            return Err(Broken::Status);
        }
        self.flight &= !bit(slot);
        self.seen = self.seen.wrapping_add(1);
        Ok(Some((slot, status)))
    }

    /// Asks for a signal for the next request that is used; whether there is one already.
    pub fn listen<M: Ram>(&mut self, ram: &M) -> Result<bool, Broken> {
        ram.store_u16(GuestPhys::new(USED_EVENT), self.seen, Ordering::Relaxed)?;
        // The device uses a request and then reads the wish; see `must_ring`.
        fence(Ordering::SeqCst);
        Ok(ram.load_u16(index_of_used(), Ordering::Relaxed)? != self.seen)
    }
}

fn index_of_used() -> GuestPhys {
    GuestPhys::new(AREAS[2].saturating_add(INDEX))
}

/// Where a ring has the entry for an index, which counts without end.
fn entry(ring: u64, index: u16, bytes: u64) -> GuestPhys {
    let place = u64::from(index & (SIZE.saturating_sub(1))).saturating_mul(bytes);
    GuestPhys::new(ring.saturating_add(ENTRIES).saturating_add(place))
}

fn slot_at(slot: usize) -> u64 {
    let slot = u64::try_from(slot).unwrap_or(0);
    slot.saturating_mul(SLOT_BYTES).saturating_add(SLOT_BASE)
}

fn status_at(slot: usize) -> u64 {
    slot_at(slot).saturating_add(STATUS)
}

/// The descriptors of a slot: header, body, status.
fn descriptors(slot: usize) -> [u16; 3] {
    let first = u16::try_from(slot).unwrap_or(0).saturating_mul(3);
    [first, first.saturating_add(1), first.saturating_add(2)]
}

fn describe<M: Ram>(
    ram: &M,
    index: u16,
    (at, len, flags): (u64, u32, u16),
    next: u16,
) -> Result<(), BadAddress> {
    let [a, b, c, d, e, f, g, h] = at.to_le_bytes();
    let [i, j, k, l] = len.to_le_bytes();
    let ([m, n], [o, p]) = (flags.to_le_bytes(), next.to_le_bytes());
    let place = GuestPhys::new(u64::from(index).saturating_mul(16));
    ram.write_from(place, &[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

fn bit(slot: usize) -> u64 {
    u32::try_from(slot).ok().and_then(|slot| 1u64.checked_shl(slot)).unwrap_or(0)
}
