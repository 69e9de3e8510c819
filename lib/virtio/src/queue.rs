//! The device side of one virtqueue, split or packed.
//!
//! [`Record`] is what the monitor wrote of a queue, [`Queue`] a live one: its addresses are copied
//! and checked when it is made and nothing changes them afterwards. [`Queue::fetch`] takes chains
//! that the driver made available, [`Queue::complete`] gives them back as used; [`Head`] is the
//! right to do that, once. The other two are about silence: [`Queue::wants_interrupt`] after using
//! buffers, [`Queue::listen`] before sleeping. How the rings look is in `split` and `packed`.
//!
//! Invariants: a chain is in flight from its fetch until it is complete, and none twice; after a
//! broken rule every call returns that rule and touches nothing.

use cloister_guestmem::{BadAddress, GuestPhys, Ram, Range};

use crate::chain::Chain;
use crate::features;
use crate::flight::Flight;
use crate::packed::Packed;
use crate::rule::Rule;
use crate::split::Split;
use crate::sync::{Ordering, fence};

/// Most descriptors of a queue.
pub const QUEUE_SIZE_MAX: u16 = 256;

/// A queue as the monitor wrote it down. Nothing of it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Number of descriptors, 0 if the guest has not enabled the queue.
    pub size: u64,
    /// Where the descriptor table is, or the packed ring.
    pub descriptors: u64,
    /// Where the driver area is: the available ring, or the driver's event structure.
    pub driver: u64,
    /// Where the device area is: the used ring, or the device's event structure.
    pub device: u64,
}

/// A chain in flight as its ring knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Its slot, which no other chain in flight has.
    pub(crate) slot: u16,
    /// What the driver calls it: index of its first descriptor, or buffer id.
    pub(crate) id: u16,
    /// Descriptors of the ring by which the used one goes on.
    pub(crate) count: u16,
}

/// A chain that was fetched: whoever has it completes it, once. One of an earlier life of the
/// queue completes nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub(crate) taken: Taken,
    pub(crate) life: u64,
}

impl Head {
    /// A number below the size of the queue that no other chain in flight there has.
    pub fn slot(&self) -> u16 {
        self.taken.slot
    }
}

#[derive(Debug)]
enum Ring {
    Split(Split),
    Packed(Packed),
}

/// A live queue.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    size: u16,
    life: u64,
    flight: Flight,
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
        if size == 0 || size > most.min(QUEUE_SIZE_MAX) {
            return Err(Rule::QueueSize);
        }
        let has = |feature| features & feature != 0;
        let may = (has(features::INDIRECT_DESC), has(features::EVENT_IDX));
        let ring = if has(features::RING_PACKED) {
            Ring::Packed(Packed::new(record, size, may, ram)?)
        } else {
            Ring::Split(Split::new(record, size, may, ram)?)
        };
        Ok(Queue { ring, size, life, flight: Flight::default(), dead: None })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The rule that was broken, if the queue is dead.
    pub fn dead(&self) -> Option<Rule> {
        self.dead
    }

    /// Chains that were fetched and not completed.
    pub fn in_flight(&self) -> u16 {
        self.flight.chains()
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
        let taken = match &mut self.ring {
            Ring::Split(split) => split.take(ram, &self.flight, chain),
            Ring::Packed(packed) => packed.take(ram, &self.flight, chain),
        };
        let taken = taken.map_err(|rule| self.kill(rule))?;
        Ok(taken.map(|taken| self.head(taken)))
    }

    /// Whether a chain is known to be available, or may be where only the ring tells.
    pub fn has_more(&self) -> bool {
        match &self.ring {
            Ring::Split(split) => split.has_more(),
            Ring::Packed(_) => true,
        }
    }

    /// Gives a chain back as used; the device wrote `written` bytes to its first buffers.
    pub fn complete<M: Ram>(&mut self, ram: &M, head: Head, written: u32) -> Result<(), Rule> {
        self.alive()?;
        if !self.owns(&head) {
            return Ok(());
        }
        let put = match &mut self.ring {
            Ring::Split(split) => split.put(ram, &head.taken, written),
            Ring::Packed(packed) => packed.put(ram, &head.taken, written),
        };
        put.map_err(|_: BadAddress| self.kill(Rule::QueueOutside))?;
        self.flight.remove(head.taken.slot, head.taken.count);
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was completed since the last call ("Used
    /// Buffer Notification Suppression").
    pub fn wants_interrupt<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        self.alive()?;
        let wanted = match &mut self.ring {
            Ring::Split(split) => split.wants_interrupt(ram),
            Ring::Packed(packed) => packed.wants_interrupt(ram),
        };
        wanted.map_err(|rule| self.kill(rule))
    }

    /// Asks the driver to notify from now on, and whether a chain is available already: then the
    /// caller must not sleep for want of one ("Available Buffer Notification Suppression").
    pub fn listen<M: Ram>(&mut self, ram: &M) -> Result<bool, Rule> {
        self.alive()?;
        let asked = match &mut self.ring {
            Ring::Split(split) => split.listen(ram),
            Ring::Packed(packed) => packed.listen(ram),
        };
        asked.map_err(|rule| self.kill(rule))?;
        // The driver makes a chain available and then reads the wish; see `wants_interrupt`.
        fence(Ordering::SeqCst);
        let found = match &mut self.ring {
            Ring::Split(split) => split.look(ram, &self.flight),
            Ring::Packed(packed) => packed.look(ram, &self.flight),
        };
        found.map_err(|rule| self.kill(rule))
    }

    /// Tells the driver that no notification is needed for now: the device looks by itself.
    pub fn hush<M: Ram>(&mut self, ram: &M) -> Result<(), Rule> {
        self.alive()?;
        let told = match &mut self.ring {
            Ring::Split(split) => split.hush(ram),
            Ring::Packed(packed) => packed.hush(ram),
        };
        told.map_err(|rule| self.kill(rule))
    }

    /// Whether a head is one of this queue's in flight.
    pub(crate) fn owns(&self, head: &Head) -> bool {
        head.life == self.life && self.flight.has(head.taken.slot)
    }

    /// Where the next used chain is put: an index of the used ring, or a place in the packed ring
    /// with its wrap counter in the top bit.
    pub(crate) fn place(&self) -> u16 {
        match &self.ring {
            Ring::Split(split) => split.place(),
            Ring::Packed(packed) => packed.place(),
        }
    }

    /// The place behind a used chain of so many descriptors at `place`; `None` if there is no such
    /// place.
    pub(crate) fn place_behind(&self, place: u16, count: u16) -> Option<u16> {
        match &self.ring {
            Ring::Split(_) => (count == 1).then(|| place.wrapping_add(1)),
            Ring::Packed(packed) => packed.place_behind(place, count),
        }
    }

    /// Whether the chain that was to be put at `place` is there.
    pub(crate) fn is_published<M: Ram>(&self, ram: &M, place: u16) -> Result<bool, Rule> {
        match &self.ring {
            Ring::Split(split) => split.is_published(ram, place),
            Ring::Packed(packed) => packed.is_published(ram, place),
        }
    }

    /// Whether a chain in flight can look like this to its ring.
    pub(crate) fn is_possible(&self, taken: &Taken) -> bool {
        let is_packed = matches!(self.ring, Ring::Packed(_));
        let own =
            if is_packed { taken.count != 0 } else { (taken.id, taken.count) == (taken.slot, 1) };
        let descriptors = self.flight.descriptors().saturating_add(taken.count);
        own && taken.slot < self.size && descriptors <= self.size && !self.flight.has(taken.slot)
    }

    /// Counts a chain of an earlier instance as in flight.
    pub(crate) fn readmit(&mut self, taken: &Taken) {
        self.flight.add(taken.slot, taken.count);
    }

    /// Goes on where an earlier instance stopped, whose chains were readmitted; the next used one
    /// is put at `place`.
    pub(crate) fn resume<M: Ram>(&mut self, ram: &M, place: u16) -> Result<(), Rule> {
        match &mut self.ring {
            Ring::Split(split) => split.resume(ram, place, self.flight.chains()),
            Ring::Packed(packed) => packed.resume(place, self.flight.descriptors()),
        }
    }

    /// The head of a chain that was readmitted.
    pub(crate) fn head_of(&self, taken: Taken) -> Head {
        Head { taken, life: self.life }
    }

    fn head(&mut self, taken: Taken) -> Head {
        self.flight.add(taken.slot, taken.count);
        Head { taken, life: self.life }
    }

    fn alive(&self) -> Result<(), Rule> {
        self.dead.map_or(Ok(()), Err)
    }
}

/// An area of a queue, if it is aligned and in RAM.
pub(crate) fn area<M: Ram>(at: u64, len: u64, align: u64, ram: &M) -> Result<GuestPhys, Rule> {
    let at = GuestPhys::new(at);
    if !at.is_aligned(align) {
        return Err(Rule::QueueAlignment);
    }
    let range = Range::new(at, len).filter(|range| ram.holds(*range));
    range.map(|_| at).ok_or(Rule::QueueOutside)
}
