//! The device side of one packed virtqueue (virtio 1.3, "Packed Virtqueues"): [`Packed`].
//!
//! There is one ring. Driver and device go round it, each with a wrap counter, and tell by two
//! flags of a descriptor which of them wrote it last. Both areas besides are event structures.
//! Neighbours: [`crate::Queue`] keeps what is in flight and the broken rule, and calls this only
//! while none was broken. Invariant: the place of the next available chain is the place of the
//! next used one plus the descriptors in flight.

use cloister_guestmem::{BadAddress, GuestPhys, Ram};

use crate::chain::{Chain, DESCRIPTOR, Packing};
use crate::flight::Flight;
use crate::queue::{Record, Taken, area};
use crate::rule::Rule;
use crate::sync::{Ordering, fence};

/// Bytes of an event structure ("Event Suppression Structure Format").
const EVENT: u64 = 4;
/// Offset of its flags.
const EVENT_FLAGS: u64 = 2;
/// Its flags: no notifications; one when a descriptor is reached.
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// Offsets inside a descriptor.
const LEN: u64 = 8;
const ID: u64 = 12;
const FLAGS: u64 = 14;

/// The device wrote to the chain's buffers.
const WRITE: u16 = 1 << 1;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The bit of a place that has the wrap counter, as in event structures.
const WRAP: u16 = 1 << 15;

/// A place in the ring, of one of its laps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u16,
    wrap: bool,
}

impl Place {
    const FIRST: Place = Place { index: 0, wrap: true };

    fn word(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    fn from_word(word: u16, size: u16) -> Option<Place> {
        let place = Place { index: word & !WRAP, wrap: word & WRAP != 0 };
        (place.index < size).then_some(place)
    }

    /// The place so many descriptors further on, at most one lap.
    fn advanced(self, count: u16, size: u16) -> Place {
        let index = self.index.saturating_add(count);
        match index.checked_sub(size) {
            Some(index) => Place { index, wrap: !self.wrap },
            None => Place { index, wrap: self.wrap },
        }
    }

    /// How many descriptors it lies behind `later`, counted around two laps.
    fn distance(self, later: Place, size: u16) -> u32 {
        let laps = u32::from(size).saturating_mul(2);
        let number = |place: Place| {
            u32::from(place.index).saturating_add(if place.wrap { 0 } else { u32::from(size) })
        };
        let ahead = number(later).saturating_add(laps).saturating_sub(number(self));
        ahead.checked_rem(laps).unwrap_or(0)
    }
}

/// Ring and event structures.
#[derive(Debug)]
pub(crate) struct Packed {
    ring: GuestPhys,
    size: u16,
    driver: GuestPhys,
    device: GuestPhys,
    indirect: bool,
    event_idx: bool,
    /// Where the next available chain begins.
    available: Place,
    /// Where the next used chain is put.
    used: Place,
    /// Descriptors that were passed since the driver was last considered for an interrupt.
    untold: u32,
}

impl Packed {
    pub(crate) fn new<M: Ram>(
        record: &Record,
        size: u16,
        (indirect, event_idx): (bool, bool),
        ram: &M,
    ) -> Result<Packed, Rule> {
        let ring = u64::from(size).saturating_mul(DESCRIPTOR);
        Ok(Packed {
            ring: area(record.descriptors, ring, 16, ram)?,
            size,
            driver: area(record.driver, EVENT, 4, ram)?,
            device: area(record.device, EVENT, 4, ram)?,
            indirect,
            event_idx,
            available: Place::FIRST,
            used: Place::FIRST,
            untold: 0,
        })
    }

    /// The place of the next used chain.
    pub(crate) fn place(&self) -> u16 {
        self.used.word()
    }

    /// The place behind a chain of so many descriptors.
    pub(crate) fn place_behind(&self, place: u16, count: u16) -> Option<u16> {
        let place = Place::from_word(place, self.size)?;
        (1..=self.size).contains(&count).then(|| place.advanced(count, self.size).word())
    }

    /// Whether a chain was put at `place`. A driver that has seen it may have made the descriptor
    /// available again, in the next lap: its flag *used* tells, which is then still that of this
    /// lap.
    pub(crate) fn is_published<M: Ram>(&self, ram: &M, place: u16) -> Result<bool, Rule> {
        let place = Place::from_word(place, self.size).ok_or(Rule::Unfinished)?;
        Ok((self.flags(ram, place.index)? & USED != 0) == place.wrap)
    }

    /// Goes on where an earlier instance stopped.
    pub(crate) fn resume(&mut self, place: u16, descriptors: u16) -> Result<(), Rule> {
        self.used = Place::from_word(place, self.size).ok_or(Rule::Unfinished)?;
        self.available = self.used.advanced(descriptors, self.size);
        Ok(())
    }

    /// Takes the next chain.
    pub(crate) fn take<M: Ram, const N: usize>(
        &mut self,
        ram: &M,
        flight: &Flight,
        chain: &mut Chain<N>,
    ) -> Result<Option<Taken>, Rule> {
        let Some(flags) = self.first(ram, flight)? else {
            return Ok(None);
        };
        let free = self.size.saturating_sub(flight.descriptors());
        let packing = Packing {
            ring: self.ring,
            size: self.size,
            first: self.available.index,
            free,
            indirect: self.indirect,
        };
        let (id, count) = chain.walk_packed(ram, &packing, flags)?;
        // There are fewer chains than descriptors, so a slot below the size is vacant.
        let slot = flight.vacant().filter(|slot| *slot < self.size);
        let slot = slot.ok_or(Rule::AvailableTooFar)?;
        self.available = self.available.advanced(count, self.size);
        Ok(Some(Taken { slot, id, count }))
    }

    /// Whether there is a chain that was not fetched.
    pub(crate) fn look<M: Ram>(&mut self, ram: &M, flight: &Flight) -> Result<bool, Rule> {
        Ok(self.first(ram, flight)?.is_some())
    }

    /// The flags of the next chain's first descriptor, if it is available.
    fn first<M: Ram>(&self, ram: &M, flight: &Flight) -> Result<Option<u16>, Rule> {
        let flags = self.flags(ram, self.available.index)?;
        let (is_available, is_used) = (flags & AVAIL != 0, flags & USED != 0);
        if is_available != self.available.wrap || is_used == self.available.wrap {
            return Ok(None);
        }
        if flight.descriptors() >= self.size {
            return Err(Rule::AvailableTooFar);
        }
        Ok(Some(flags))
    }

    /// Writes a used descriptor.
    pub(crate) fn put<M: Ram>(
        &mut self,
        ram: &M,
        taken: &Taken,
        written: u32,
    ) -> Result<(), BadAddress> {
        let at = |offset| self.field(self.used.index, offset).ok_or(BadAddress::Outside);
        let mut flags = if self.used.wrap { AVAIL | USED } else { 0 };
        if written != 0 {
            flags |= WRITE;
        }
        ram.store_u32(at(LEN)?, written, Ordering::Relaxed)?;
        ram.store_u16(at(ID)?, taken.id, Ordering::Relaxed)?;
        // Release: whoever sees the flags sees the rest, and the bytes of the buffers.
        ram.store_u16(at(FLAGS)?, flags, Ordering::Release)?;
        self.used = self.used.advanced(taken.count, self.size);
        self.untold = self.untold.saturating_add(u32::from(taken.count));
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was completed since the last call.
    pub(crate) fn wants_interrupt<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        let passed = core::mem::take(&mut self.untold);
        if passed == 0 {
            return Ok(false);
        }
        // As with split rings: the driver writes its wish and then looks at the ring.
        fence(Ordering::SeqCst);
        let at = self.driver.checked_add(EVENT_FLAGS).ok_or(Rule::QueueOutside)?;
        // A driver whose new wish is seen only in part looks at the ring after the fence.
        let flags = ram.load_u16(at, Ordering::Relaxed).map_err(|_| Rule::QueueOutside)?;
        match flags & 3 {
            DISABLE => Ok(false),
            DESC if self.event_idx => {
                let word = ram.load_u16(self.driver, Ordering::Relaxed);
                let word = word.map_err(|_| Rule::QueueOutside)?;
                // A place that the ring has not is passed by every chain.
                let Some(wish) = Place::from_word(word, self.size) else {
                    return Ok(true);
                };
                let laps = u32::from(self.size).saturating_mul(2);
                let behind = wish.distance(self.used, self.size);
                Ok(passed >= laps || (1..=passed).contains(&behind))
            }
            _ => Ok(true),
        }
    }

    /// Asks the driver to notify from now on.
    pub(crate) fn listen<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        let (place, flags) = if self.event_idx { (self.available.word(), DESC) } else { (0, 0) };
        self.wish(ram, place, flags)
    }

    /// Tells the driver that no notification is needed for now.
    pub(crate) fn hush<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        self.wish(ram, 0, DISABLE)
    }

    /// Both fields by one store, so that the driver sees no half of a wish.
    fn wish<M: Ram>(&self, ram: &M, place: u16, flags: u16) -> Result<(), Rule> {
        let wish = u32::from(flags) << 16 | u32::from(place);
        ram.store_u32(self.device, wish, Ordering::Relaxed).map_err(|_| Rule::QueueOutside)
    }

    fn flags<M: Ram>(&self, ram: &M, index: u16) -> Result<u16, Rule> {
        let at = self.field(index, FLAGS).ok_or(Rule::QueueOutside)?;
        // Acquire: the rest of a descriptor was written before the flags that make it available.
        ram.load_u16(at, Ordering::Acquire).map_err(|_| Rule::QueueOutside)
    }

    fn field(&self, index: u16, offset: u64) -> Option<GuestPhys> {
        self.ring.checked_add(u64::from(index).saturating_mul(DESCRIPTOR))?.checked_add(offset)
    }
}
