//! The device side of one split virtqueue (virtio 1.3, "Split Virtqueues").
//!
//! [`Record`] is what the monitor wrote of a queue, [`Queue`] a live one: its addresses are copied
//! and checked when it is made and nothing changes them afterwards. [`Queue::fetch`] takes chains
//! from the available ring, [`Queue::complete`] puts them into the used ring; [`Head`] is the right
//! to do that, once. The other two are about silence: [`Queue::wants_interrupt`] after using
//! buffers, [`Queue::listen`] before sleeping.
//!
//! Invariants: a head is in flight from its fetch until it is complete, and no head twice; after a
//! broken rule every call returns that rule and touches nothing.

use cloister_guestmem::{BadAddress, GuestPhys, Ram, Range};

use crate::chain::{Chain, DESCRIPTOR, Table};
use crate::features;
use crate::rule::Rule;
use crate::sync::{Ordering, fence};

/// Most descriptors of a queue.
pub const QUEUE_SIZE_MAX: u16 = 256;

/// Words of the set of heads in flight.
const FLIGHT_WORDS: usize = 4;

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

/// A queue as the monitor wrote it down. Nothing of it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Number of descriptors, 0 if the guest has not enabled the queue.
    pub size: u64,
    /// Where the descriptor table is.
    pub descriptors: u64,
    /// Where the driver area (the available ring) is.
    pub driver: u64,
    /// Where the device area (the used ring) is.
    pub device: u64,
}

/// A chain that was fetched: whoever has it completes it, once. One of an earlier life of the
/// queue completes nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    index: u16,
    life: u64,
}

/// A live queue.
#[derive(Debug)]
pub struct Queue {
    table: Table,
    driver: GuestPhys,
    device: GuestPhys,
    life: u64,
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
    in_flight: [u64; FLIGHT_WORDS],
    dead: Option<Rule>,
}

impl Queue {
    /// The queue of a record, if it keeps the rules. `features` are those that the driver has
    /// accepted, `most` is the largest size that was offered; `life` tells the heads of one life
    /// of the device from those of another.
    pub fn new<M: Ram>(
        record: &Record,
        features: u64,
        most: u16,
        life: u64,
        ram: &M,
    ) -> Result<Queue, Rule> {
        let size = u16::try_from(record.size).map_err(|_| Rule::QueueSize)?;
        if !size.is_power_of_two() || size > most.min(QUEUE_SIZE_MAX) {
            return Err(Rule::QueueSize);
        }
        let entries = u64::from(size);
        let ring = |entry: u64| entries.saturating_mul(entry).saturating_add(ENTRIES + EVENT);
        let table = entries.saturating_mul(DESCRIPTOR);
        Ok(Queue {
            table: Table {
                at: area(record.descriptors, table, 16, ram)?,
                len: size,
                is_indirect: false,
            },
            driver: area(record.driver, ring(AVAILABLE), 2, ram)?,
            device: area(record.device, ring(USED), 4, ram)?,
            life,
            indirect: features & features::INDIRECT_DESC != 0,
            event_idx: features & features::EVENT_IDX != 0,
            next_available: 0,
            available: 0,
            next_used: 0,
            told: 0,
            untold: 0,
            in_flight: [0; FLIGHT_WORDS],
            dead: None,
        })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.table.len
    }

    /// The rule that was broken, if the queue is dead.
    pub fn dead(&self) -> Option<Rule> {
        self.dead
    }

    /// Chains that were fetched and not completed.
    pub fn in_flight(&self) -> u16 {
        let ones: u32 = self.in_flight.iter().map(|word| word.count_ones()).sum();
        u16::try_from(ones).unwrap_or(u16::MAX)
    }

    /// Declares the queue dead: the device found a rule of its own broken.
    pub fn kill(&mut self, rule: Rule) -> Rule {
        *self.dead.get_or_insert(rule)
    }

    /// Takes the next chain, if one is available, and puts its buffers into `chain`.
    pub fn fetch<M: Ram, const N: usize>(
        &mut self,
        ram: &M,
        chain: &mut Chain<N>,
    ) -> Result<Option<Head>, Rule> {
        self.alive()?;
        self.take(ram, chain).map_err(|rule| self.kill(rule))
    }

    /// Puts a chain into the used ring; the device wrote `written` bytes to its first buffers.
    pub fn complete<M: Ram>(&mut self, ram: &M, head: Head, written: u32) -> Result<(), Rule> {
        self.alive()?;
        if head.life != self.life || !self.is_in_flight(head.index) {
            return Ok(());
        }
        self.put(ram, head.index, written).map_err(|_| self.kill(Rule::QueueOutside))
    }

    /// Whether the driver wants an interrupt for what was completed since the last call ("Used
    /// Buffer Notification Suppression").
    pub fn wants_interrupt<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        self.alive()?;
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
        let wish = wish.ok_or_else(|| self.kill(Rule::QueueOutside))?;
        if !self.event_idx {
            return Ok(wish & NO_INTERRUPT == 0);
        }
        // Indices wrap: after a whole turn of them, they cannot say what has been passed.
        let passed = self.next_used.wrapping_sub(wish).wrapping_sub(1);
        Ok(count > u32::from(u16::MAX) || passed < self.next_used.wrapping_sub(before))
    }

    /// Asks the driver to notify from now on, and whether a chain is available already: then the
    /// caller must not sleep for want of one ("Available Buffer Notification Suppression").
    pub fn listen<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        self.alive()?;
        let (at, wish) = if self.event_idx {
            (self.available_event(), self.next_available)
        } else {
            (Some(self.device), 0)
        };
        self.wish(ram, at, wish)?;
        // The driver writes its index and then reads the wish; see `wants_interrupt`.
        fence(Ordering::SeqCst);
        self.look(ram).map_err(|rule| self.kill(rule))
    }

    /// Tells the driver that no notification is needed for now: the device looks by itself.
    pub fn hush<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        self.alive()?;
        // With event indices the old wish, once passed, asks for nothing more.
        if self.event_idx { Ok(()) } else { self.wish(ram, Some(self.device), NO_NOTIFY) }
    }

    fn alive(&self) -> Result<(), Rule> {
        self.dead.map_or(Ok(()), Err)
    }

    fn wish<M: Ram>(&mut self, ram: &M, at: Option<GuestPhys>, value: u16) -> Result<(), Rule> {
        let stored = at.and_then(|at| ram.store_u16(at, value, Ordering::Relaxed).ok());
        stored.ok_or_else(|| self.kill(Rule::QueueOutside))
    }

    /// Reads the available index. Whether there is a chain that was not fetched.
    fn look<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        let at = self.driver.checked_add(INDEX).ok_or(Rule::QueueOutside)?;
        // Acquire: entries and descriptors that the driver wrote before the index are seen.
        let index = ram.load_u16(at, Ordering::Acquire).map_err(|_| Rule::QueueOutside)?;
        let pending = index.wrapping_sub(self.next_available);
        if pending > self.size().saturating_sub(self.in_flight()) {
            return Err(Rule::AvailableTooFar);
        }
        self.available = index;
        Ok(pending != 0)
    }

    fn take<M: Ram, const N: usize>(
        &mut self,
        ram: &M,
        chain: &mut Chain<N>,
    ) -> Result<Option<Head>, Rule> {
        if self.available == self.next_available && !self.look(ram)? {
            return Ok(None);
        }
        let at = self.entry(self.driver, self.next_available, AVAILABLE);
        let index = at.and_then(|at| ram.load_u16(at, Ordering::Relaxed).ok());
        let index = index.ok_or(Rule::QueueOutside)?;
        if index >= self.size() {
            return Err(Rule::HeadTooLarge);
        }
        if self.is_in_flight(index) {
            return Err(Rule::HeadInFlight);
        }
        chain.walk(ram, self.table, index, self.indirect)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.mark(index, true);
        Ok(Some(Head { index, life: self.life }))
    }

    fn put<M: Ram>(&mut self, ram: &M, index: u16, written: u32) -> Result<(), BadAddress> {
        let entry = self.entry(self.device, self.next_used, USED).ok_or(BadAddress::Outside)?;
        let len = entry.checked_add(4).ok_or(BadAddress::Outside)?;
        let at = self.device.checked_add(INDEX).ok_or(BadAddress::Outside)?;
        ram.store_u32(entry, u32::from(index), Ordering::Relaxed)?;
        ram.store_u32(len, written, Ordering::Relaxed)?;
        self.next_used = self.next_used.wrapping_add(1);
        // Release: whoever sees the index sees the entry, and the bytes of the buffers.
        ram.store_u16(at, self.next_used, Ordering::Release)?;
        self.untold = self.untold.saturating_add(1);
        self.mark(index, false);
        Ok(())
    }

    /// Where a ring has the entry for an index, which counts without end.
    fn entry(&self, ring: GuestPhys, index: u16, bytes: u64) -> Option<GuestPhys> {
        let place = u64::from(index & self.size().saturating_sub(1));
        ring.checked_add(ENTRIES)?.checked_add(place.checked_mul(bytes)?)
    }

    /// The driver's wish stands behind the entries of its ring.
    fn used_event(&self) -> Option<GuestPhys> {
        self.driver
            .checked_add(u64::from(self.size()).checked_mul(AVAILABLE)?.checked_add(ENTRIES)?)
    }

    /// The device's wish stands behind the entries of its ring.
    fn available_event(&self) -> Option<GuestPhys> {
        self.device.checked_add(u64::from(self.size()).checked_mul(USED)?.checked_add(ENTRIES)?)
    }

    fn is_in_flight(&self, head: u16) -> bool {
        let word = self.in_flight.get(usize::from(head >> 6));
        word.is_some_and(|word| word & bit(head) != 0)
    }

    fn mark(&mut self, head: u16, in_flight: bool) {
        if let Some(word) = self.in_flight.get_mut(usize::from(head >> 6)) {
            *word = if in_flight { *word | bit(head) } else { *word & !bit(head) };
        }
    }
}

fn bit(head: u16) -> u64 {
    1 << (head & 63)
}

/// An area of a queue, if it is aligned and in RAM.
fn area<M: Ram>(at: u64, len: u64, align: u64, ram: &M) -> Result<GuestPhys, Rule> {
    let at = GuestPhys::new(at);
    if !at.is_aligned(align) {
        return Err(Rule::QueueAlignment);
    }
    let range = Range::new(at, len).filter(|range| ram.holds(*range));
    range.map(|_| at).ok_or(Rule::QueueOutside)
}
