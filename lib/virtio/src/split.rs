//! The device side of one split virtqueue (virtio 1.3, "Split Virtqueues"): [`Split`].
//!
//! Neighbours: [`crate::Queue`] keeps what is in flight and the broken rule, and calls this only
//! while none was broken. Invariant: the areas are copied and checked when it is made, and nothing
//! changes them afterwards.

use cloister_guestmem::{BadAddress, GuestPhys, Ram};

use crate::chain::{Chain, DESCRIPTOR, Table};
use crate::flight::Flight;
use crate::queue::{Record, Taken, area};
use crate::rule::Rule;
use crate::sync::{Ordering, fence};

/// Offset of the index in either ring; the flags stand before it.
const INDEX: u64 = 2;
/// Offset of the entries in either ring.
const ENTRIES: u64 = 4;
/// Bytes of an entry of the available ring.
const AVAILABLE: u64 = 2;
/// Bytes of an entry of the used ring.
const USED: u64 = 8;
/// Bytes of the index that either ring has behind its entries.
const EVENT: u64 = 2;

/// Set by the driver: no interrupts ("The Virtqueue Available Ring").
const NO_INTERRUPT: u16 = 1;
/// Set by the device: no notifications ("The Virtqueue Used Ring").
const NO_NOTIFY: u16 = 1;

/// Table, available ring and used ring.
#[derive(Debug)]
pub(crate) struct Split {
    table: Table,
    driver: GuestPhys,
    device: GuestPhys,
    indirect: bool,
    event_idx: bool,
    /// The next entry of the available ring.
    next_available: u16,
    /// The index of the available ring when it was last read.
    available: u16,
    /// The next entry of the used ring.
    next_used: u16,
    /// The next entry of the used ring when the driver was last considered for an interrupt.
    told: u16,
    /// Chains completed since then.
    untold: u32,
}

impl Split {
    pub(crate) fn new<M: Ram>(
        record: &Record,
        size: u16,
        (indirect, event_idx): (bool, bool),
        ram: &M,
    ) -> Result<Split, Rule> {
        if !size.is_power_of_two() {
            return Err(Rule::QueueSize);
        }
        let entries = u64::from(size);
        let ring = |entry: u64| entries.saturating_mul(entry).saturating_add(ENTRIES + EVENT);
        let table = area(record.descriptors, entries.saturating_mul(DESCRIPTOR), 16, ram)?;
        Ok(Split {
            table: Table { at: table, len: size, is_indirect: false },
            driver: area(record.driver, ring(AVAILABLE), 2, ram)?,
            device: area(record.device, ring(USED), 4, ram)?,
            indirect,
            event_idx,
            next_available: 0,
            available: 0,
            next_used: 0,
            told: 0,
            untold: 0,
        })
    }

    /// The index that the next used chain takes.
    pub(crate) fn place(&self) -> u16 {
        self.next_used
    }

    /// Whether an entry that was to take the index `place` was published, by the used index.
    pub(crate) fn is_published<M: Ram>(&self, ram: &M, place: u16) -> Result<bool, Rule> {
        match self.used_index(ram)?.wrapping_sub(place) {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Rule::UsedChanged),
        }
    }

    /// Goes on where an earlier instance stopped: `place` is the next used index, `chains` are in
    /// flight.
    pub(crate) fn resume<M: Ram>(&mut self, ram: &M, place: u16, chains: u16) -> Result<(), Rule> {
        // Before the first chain is used the driver may have anything there.
        if place != 0 && self.used_index(ram)? != place {
            return Err(Rule::UsedChanged);
        }
        (self.next_used, self.told) = (place, place);
        self.next_available = place.wrapping_add(chains);
        self.available = self.next_available;
        Ok(())
    }

    /// Takes the next chain.
    pub(crate) fn take<M: Ram, const N: usize>(
        &mut self,
        ram: &M,
        flight: &Flight,
        chain: &mut Chain<N>,
    ) -> Result<Option<Taken>, Rule> {
        if self.available == self.next_available && !self.look(ram, flight)? {
            return Ok(None);
        }
        let at = self.entry(self.driver, self.next_available, AVAILABLE);
        let index = at.and_then(|at| ram.load_u16(at, Ordering::Relaxed).ok());
        let index = index.ok_or(Rule::QueueOutside)?;
        if index >= self.table.len {
            return Err(Rule::HeadTooLarge);
        }
        if flight.has(index) {
            return Err(Rule::HeadInFlight);
        }
        chain.walk(ram, self.table, index, self.indirect)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(Taken { slot: index, id: index, count: 1 }))
    }

    /// Whether the index that was last read says of a chain that was not fetched.
    pub(crate) fn has_more(&self) -> bool {
        self.available != self.next_available
    }

    /// Reads the available index. Whether there is a chain that was not fetched.
    pub(crate) fn look<M: Ram>(&mut self, ram: &M, flight: &Flight) -> Result<bool, Rule> {
        let at = self.driver.checked_add(INDEX).ok_or(Rule::QueueOutside)?;
        // Acquire: entries and descriptors that the driver wrote before the index are seen.
        let index = ram.load_u16(at, Ordering::Acquire).map_err(|_| Rule::QueueOutside)?;
        let pending = index.wrapping_sub(self.next_available);
        if pending > self.table.len.saturating_sub(flight.chains()) {
            return Err(Rule::AvailableTooFar);
        }
        self.available = index;
        Ok(pending != 0)
    }

    /// Puts a chain into the used ring.
    pub(crate) fn put<M: Ram>(
        &mut self,
        ram: &M,
        taken: &Taken,
        written: u32,
    ) -> Result<(), BadAddress> {
        let entry = self.entry(self.device, self.next_used, USED).ok_or(BadAddress::Outside)?;
        let len = entry.checked_add(4).ok_or(BadAddress::Outside)?;
        let at = self.device.checked_add(INDEX).ok_or(BadAddress::Outside)?;
        ram.store_u32(entry, u32::from(taken.id), Ordering::Relaxed)?;
        ram.store_u32(len, written, Ordering::Relaxed)?;
        self.next_used = self.next_used.wrapping_add(1);
        // Release: whoever sees the index sees the entry, and the bytes of the buffers.
        ram.store_u16(at, self.next_used, Ordering::Release)?;
        self.untold = self.untold.saturating_add(1);
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was completed since the last call.
    pub(crate) fn wants_interrupt<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        let (before, count) = (self.told, self.untold);
        (self.told, self.untold) = (self.next_used, 0);
        if count == 0 {
            return Ok(false);
        }
        // The driver writes its wish and then looks at the index; here it is the other way round.
        // Without the fence both could see the old value, and nobody would wake the driver.
        fence(Ordering::SeqCst);
        let wish = if self.event_idx { self.used_event() } else { Some(self.driver) };
        let wish = wish.and_then(|at| ram.load_u16(at, Ordering::Relaxed).ok());
        let wish = wish.ok_or(Rule::QueueOutside)?;
        if !self.event_idx {
            return Ok(wish & NO_INTERRUPT == 0);
        }
        // Indices wrap: after a whole turn of them, they cannot say what has been passed.
        let passed = self.next_used.wrapping_sub(wish).wrapping_sub(1);
        Ok(count > u32::from(u16::MAX) || passed < self.next_used.wrapping_sub(before))
    }

    /// Asks the driver to notify from now on.
    pub(crate) fn listen<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        let (at, wish) = if self.event_idx {
            (self.available_event(), self.next_available)
        } else {
            (Some(self.device), 0)
        };
        store(ram, at, wish)
    }

    /// Tells the driver that no notification is needed for now.
    pub(crate) fn hush<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        // With event indices the old wish, once passed, asks for nothing more.
        if self.event_idx { Ok(()) } else { store(ram, Some(self.device), NO_NOTIFY) }
    }

    fn used_index<M: Ram>(&self, ram: &M) -> Result<u16, Rule> {
        let at = self.device.checked_add(INDEX).ok_or(Rule::QueueOutside)?;
        // The device's own: nothing else is read by what it says.
        ram.load_u16(at, Ordering::Relaxed).map_err(|_| Rule::QueueOutside)
    }

    /// Where a ring has the entry for an index, which counts without end.
    fn entry(&self, ring: GuestPhys, index: u16, bytes: u64) -> Option<GuestPhys> {
        let place = u64::from(index & self.table.len.saturating_sub(1));
        ring.checked_add(ENTRIES)?.checked_add(place.checked_mul(bytes)?)
    }

    /// The driver's wish stands behind the entries of its ring.
    fn used_event(&self) -> Option<GuestPhys> {
        let entries = u64::from(self.table.len).checked_mul(AVAILABLE)?;
        self.driver.checked_add(entries.checked_add(ENTRIES)?)
    }

    /// The device's wish stands behind the entries of its ring.
    fn available_event(&self) -> Option<GuestPhys> {
        let entries = u64::from(self.table.len).checked_mul(USED)?;
        self.device.checked_add(entries.checked_add(ENTRIES)?)
    }
}

fn store<M: Ram>(ram: &M, at: Option<GuestPhys>, value: u16) -> Result<(), Rule> {
    let stored = at.and_then(|at| ram.store_u16(at, value, Ordering::Relaxed).ok());
    stored.ok_or(Rule::QueueOutside)
}
