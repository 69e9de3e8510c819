//! Requests in flight: [`Requests`].
//!
//! A request has a slot (`cloister_block::Slots`) from its submission to its answer, and so has its
//! place in memory; it is added to the queue again after a reset. Invariant: each request that was
//! taken is answered once, and not while the queue has it.

use cloister_block::{Busy, Command, Operation, Outcome, Set, Slots, Tag};
use cloister_dma::Memory;
use cloister_dma_queue::{ENTRIES, Queue, Refused};

use crate::fault::Fault;
use crate::plan::SLOTS;
use crate::request::{self, Chain};

/// What is kept of a request.
#[derive(Clone, Copy)]
struct Kept {
    operation: Operation,
    /// Pieces of memory, and bytes of them that the device writes.
    pieces: u8,
    bytes: u32,
}

impl Kept {
    const NONE: Kept = Kept { operation: Operation::Flush, pieces: 0, bytes: 0 };
}

/// All requests of a queue.
pub(crate) struct Requests {
    slots: Slots<Kept, SLOTS>,
    /// The slot of the chain that begins with an entry, while the queue has it.
    owners: [u8; ENTRIES],
}

impl Requests {
    pub(crate) fn new() -> Requests {
        let mut slots = Slots::new(Kept::NONE);
        slots.open(64);
        Requests { slots, owners: [0; ENTRIES] }
    }

    /// Whether no request is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
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
        let number = self.slots.take(tag)?;
        let prepared = request::prepare(memory, number, command, block_size);
        let (Some((pieces, bytes)), Some(slot)) = (prepared, self.slots.get_mut(number)) else {
            self.slots.fail(Set::one(number));
            return Ok(());
        };
        slot.command = Kept { operation: command.operation, pieces, bytes };
        if self.push(memory, queue, number, epoch) == Err(Refused::Full) {
            self.slots.end(number);
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
        let Some(slot) = self.slots.get_mut(number) else {
            return Err(Refused::Unfit);
        };
        slot.issue(epoch);
        slot.count_try();
        let chain = Chain::of(memory, number, slot.command.operation, slot.command.pieces);
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
                self.slots.fail(Set::one(number));
                Err(Refused::Unfit)
            }
        }
    }

    /// Fails a request here.
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        self.slots.refuse(tag)
    }

    /// Fails all requests. The device is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.slots.fail(self.slots.taken());
    }

    /// The next request that failed here.
    pub(crate) fn failed(&mut self) -> Option<(Tag, Outcome)> {
        Some((self.slots.failed()?, Outcome::Failed))
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
        let kept = self.slots.get(number)?.command;
        cloister_dma::observe();
        let status = request::status(memory, number)?;
        let room = kept.bytes.saturating_add(1);
        let is_short = status == request::OK && kept.bytes != 0 && len < room;
        if len > room || is_short {
            return Some(Err(Fault::Length { len }));
        }
        let outcome = match status {
            request::OK => Outcome::Done,
            request::FAILED | request::UNSUPPORTED => Outcome::Failed,
            _ => return Some(Err(Fault::Status { status })),
        };
        Some(Ok((self.slots.end(number)?, outcome)))
    }

    /// The requests of a client's request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        self.slots.cancel(tag);
    }

    /// A request that was added too long ago, if there is one.
    pub(crate) fn overdue(&self, epoch: u32) -> Option<u8> {
        self.slots.overdue(self.slots.live(), epoch)
    }

    /// After a reset: adds again what is wanted and was not tried too often; the rest fails.
    pub(crate) fn again(&mut self, memory: &impl Memory, queue: &mut Queue<'_>, epoch: u32) {
        for number in self.slots.wanted(self.slots.live()) {
            // What was in flight together has room together.
            if self.push(memory, queue, number, epoch).is_err() {
                self.slots.fail(Set::one(number));
            }
        }
    }
}
