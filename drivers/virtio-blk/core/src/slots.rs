//! Requests in flight: [`Slots`].
//!
//! A request has a slot from its submission to its answer, and so has its place in memory; it is
//! added to the queue again after a reset. Invariant: each request that was taken is answered once,
//! and not while the queue has it.

use cloister_block::{Busy, Command, Operation, Outcome, Tag};
use cloister_dma::Memory;
use cloister_dma_queue::{ENTRIES, Queue, Refused};

use crate::fault::Fault;
use crate::plan::SLOTS;
use crate::request::{self, Chain};

/// How often a request is added before it fails for good.
const TRIES_MAX: u8 = 3;

#[derive(Clone, Copy)]
struct Slot {
    tag: Tag,
    operation: Operation,
    /// Pieces of memory, and bytes of them that the device writes.
    pieces: u8,
    bytes: u32,
    /// When it was added.
    epoch: u32,
    tries: u8,
    is_cancelled: bool,
}

impl Slot {
    const FREE: Slot = Slot {
        tag: Tag { slot: 0, generation: 0, client: 0 },
        operation: Operation::Flush,
        pieces: 0,
        bytes: 0,
        epoch: 0,
        tries: 0,
        is_cancelled: false,
    };
}

/// All requests of a queue.
pub(crate) struct Slots {
    slots: [Slot; SLOTS],
    /// Slots without a request, and those whose requests failed here and are to be answered so.
    free: u64,
    failed: u64,
    /// The slot of the chain that begins with an entry, while the queue has it.
    owners: [u8; ENTRIES],
}

fn bit(slot: u8) -> u64 {
    1u64.checked_shl(slot.into()).unwrap_or(0)
}

fn first(set: u64) -> Option<u8> {
    let number = u8::try_from(set.trailing_zeros()).ok()?;
    (usize::from(number) < SLOTS).then_some(number)
}

/// The members of a set.
fn each(mut set: u64) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        let slot = first(set)?;
        set &= !bit(slot);
        Some(slot)
    })
}

impl Slots {
    pub(crate) fn new() -> Slots {
        Slots { slots: [Slot::FREE; SLOTS], free: u64::MAX, failed: 0, owners: [0; ENTRIES] }
    }

    /// Whether no request is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.free == u64::MAX
    }

    /// Takes a slot for a request.
    fn take(&mut self, tag: Tag) -> Result<u8, Busy> {
        let number = first(self.free).ok_or(Busy)?;
        *self.slots.get_mut(usize::from(number)).ok_or(Busy)? = Slot { tag, ..Slot::FREE };
        self.free &= !bit(number);
        Ok(number)
    }

    /// Takes a request and adds it to the queue.
    pub(crate) fn submit(
        &mut self,
        memory: &impl Memory,
        queue: &mut Queue<'_>,
        (tag, command): (Tag, &Command<'_>),
        block_size: u32,
        epoch: u32,
    ) -> Result<(), Busy> {
        let number = self.take(tag)?;
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Err(Busy);
        };
        slot.operation = command.operation;
        let Some((pieces, bytes)) = request::prepare(memory, number, command, block_size) else {
            self.failed |= bit(number);
            return Ok(());
        };
        (slot.pieces, slot.bytes) = (pieces, bytes);
        if self.push(memory, queue, number, epoch) == Err(Refused::Full) {
            self.free |= bit(number);
            return Err(Busy);
        }
        Ok(())
    }

    /// Adds a slot's request to the queue; one that does not fit at all fails.
    fn push(
        &mut self,
        memory: &impl Memory,
        queue: &mut Queue<'_>,
        number: u8,
        epoch: u32,
    ) -> Result<(), Refused> {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Err(Refused::Unfit);
        };
        slot.epoch = epoch;
        slot.tries = slot.tries.saturating_add(1);
        let chain = Chain::of(memory, number, slot.operation, slot.pieces);
        let chain = chain.ok_or(Refused::Unfit);
        match chain.and_then(|chain| queue.add(chain.read(), chain.written())) {
            Ok(head) => {
                if let Some(owner) = self.owners.get_mut(usize::from(head)) {
                    *owner = number;
                }
                Ok(())
            }
            Err(Refused::Full) => Err(Refused::Full),
            Err(Refused::Unfit) => {
                self.failed |= bit(number);
                Err(Refused::Unfit)
            }
        }
    }

    /// Fails a request here.
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        let number = self.take(tag)?;
        self.failed |= bit(number);
        Ok(())
    }

    /// Fails all requests. The device is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.failed = !self.free;
    }

    /// The next request that failed here.
    pub(crate) fn failed(&mut self) -> Option<(Tag, Outcome)> {
        let number = first(self.failed)?;
        self.failed &= !bit(number);
        self.free |= bit(number);
        Some((self.slots.get(usize::from(number))?.tag, Outcome::Failed))
    }

    /// The next request that the device ended.
    pub(crate) fn ended(
        &mut self,
        memory: &impl Memory,
        queue: &mut Queue<'_>,
    ) -> Option<Result<(Tag, Outcome), Fault>> {
        let (head, len) = match queue.take()? {
            Ok(found) => found,
            Err(fault) => return Some(Err(fault.into())),
        };
        let number = self.owners.get(usize::from(head)).copied()?;
        let slot = self.slots.get(usize::from(number))?;
        cloister_dma::observe();
        let status = request::status(memory, number)?;
        let room = slot.bytes.saturating_add(1);
        let is_short = status == request::OK && slot.bytes != 0 && len < room;
        if len > room || is_short {
            return Some(Err(Fault::Length { len }));
        }
        let outcome = match status {
            request::OK => Outcome::Done,
            request::FAILED | request::UNSUPPORTED => Outcome::Failed,
            _ => return Some(Err(Fault::Status { status })),
        };
        self.free |= bit(number);
        Some(Ok((slot.tag, outcome)))
    }

    /// The requests of a client's request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        for number in each(!self.free) {
            let slot = self.slots.get_mut(usize::from(number)).filter(|slot| slot.tag == tag);
            if let Some(slot) = slot {
                slot.is_cancelled = true;
            }
        }
    }

    /// A request that was added so long ago, if there is one.
    pub(crate) fn older_than(&self, epoch: u32, patience: u32) -> Option<u8> {
        let is_old = |slot: &Slot| epoch.wrapping_sub(slot.epoch) > patience;
        each(!self.free & !self.failed)
            .find(|number| self.slots.get(usize::from(*number)).is_some_and(is_old))
    }

    /// After a reset: adds again what is wanted and was not tried too often; the rest fails.
    pub(crate) fn again(&mut self, memory: &impl Memory, queue: &mut Queue<'_>, epoch: u32) {
        for number in each(!self.free & !self.failed) {
            let is_wanted = |slot: &Slot| !slot.is_cancelled && slot.tries < TRIES_MAX;
            let slot = self.slots.get(usize::from(number));
            // What was in flight together has room together.
            if !slot.is_some_and(is_wanted) || self.push(memory, queue, number, epoch).is_err() {
                self.failed |= bit(number);
            }
        }
    }
}
