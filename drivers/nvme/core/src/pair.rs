//! A pair of queues for requests: [`Pair`].
//!
//! A command has a slot from its submission to its answer, and its identifier is the slot with the
//! number of times that it was used: a completion that comes twice, late or from nowhere names no
//! command in flight. There are fewer slots than entries, so the submission side is never full.
//! The slot keeps the command, which is submitted again after a reset or a failure that passes.
//!
//! Invariant: each command that was taken is answered once.

use cloister_block::{Busy, Command, Operation, Outcome, Registers, Set, Slot, Slots, Tag};
use cloister_dma::Memory;

use crate::command::{Completion, Entry, opcode};
use crate::fault::Fault;
use crate::plan::{ENTRIES_MAX, LIST_BYTES};
use crate::prp;
use crate::registers::Capabilities;

/// Slots.
const SLOTS: usize = 64;
/// Bits of an identifier that are the slot.
const SLOT_BITS: u32 = 6;
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;
/// Of a range that *Dataset Management* gets: deallocate it.
const DEALLOCATE: u64 = 1 << 2;

const _: () = assert!(ENTRIES_MAX.ilog2() == SLOT_BITS);

/// A slot without a command.
const FREE: Entry = Entry { opcode: 0, namespace: 0, prp: [0; 2], words_10: 0, word_12: 0 };

/// The identifier of the command in a slot.
fn id(number: u8, slot: &Slot<Entry>) -> u16 {
    slot.issues() << SLOT_BITS | u16::from(number)
}

/// One submission queue with its completion queue.
pub(crate) struct Pair {
    /// Its number for the controller; the admin queue is 0.
    id: u16,
    entries: u16,
    submission: u64,
    completion: u64,
    lists: u64,
    /// The next place of the submission side, and the one that the doorbell says.
    tail: u16,
    rung: u16,
    /// The next place of the completion side, and the one that the doorbell says.
    head: u16,
    told: u16,
    phase: bool,
    slots: Slots<Entry, SLOTS>,
}

impl Pair {
    /// Nothing in flight; `entries` are those of either side, from 2 to 64.
    pub(crate) fn new(id: u16, entries: u16, [submission, completion, lists]: [u64; 3]) -> Pair {
        let count = u8::try_from(entries.saturating_sub(1)).unwrap_or(u8::MAX);
        let mut pair = Pair {
            id,
            entries,
            submission,
            completion,
            lists,
            tail: 0,
            rung: 0,
            head: 0,
            told: 0,
            phase: true,
            slots: const { Slots::new(FREE) },
        };
        pair.slots.open(count);
        pair
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Where the two sides are.
    pub(crate) fn places(&self) -> [u64; 2] {
        [self.submission, self.completion]
    }

    /// Whether no command is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Both sides are as a controller that was reset expects them. Commands keep their slots.
    pub(crate) fn clear(&mut self, memory: &impl Memory) -> Option<()> {
        (self.tail, self.rung, self.head, self.told, self.phase) = (0, 0, 0, 0, true);
        memory.clear(self.submission, u64::from(self.entries).wrapping_mul(64))?;
        memory.clear(self.completion, u64::from(self.entries).wrapping_mul(16))
    }

    /// Takes a command for a namespace.
    pub(crate) fn submit(
        &mut self,
        memory: &impl Memory,
        tag: Tag,
        command: &Command<'_>,
        namespace: u32,
        epoch: u32,
    ) -> Result<(), Busy> {
        let number = self.slots.take(tag)?;
        let list = self.lists.saturating_add(u64::from(number).wrapping_mul(LIST_BYTES));
        let entry = encode(memory, list, command, namespace);
        match (entry, self.slots.get_mut(number)) {
            (Some(entry), Some(slot)) => {
                slot.command = entry;
                self.push(memory, number, epoch);
            }
            // More memory than the limits allow.
            _ => self.slots.fail(Set::one(number)),
        }
        Ok(())
    }

    /// Writes a slot's command into the next place.
    fn push(&mut self, memory: &impl Memory, number: u8, epoch: u32) {
        let Some(slot) = self.slots.get_mut(number) else {
            return;
        };
        slot.issue(epoch);
        slot.count_try();
        // The plan has room for every place.
        let _ = slot.command.put(memory, self.submission, self.tail, id(number, slot));
        self.tail = next(self.tail, self.entries);
    }

    /// Fails a command here. It is answered by the next [`Pair::take`].
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        self.slots.refuse(tag)
    }

    /// Fails all commands that are in flight. The controller is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.slots.fail(self.slots.taken());
    }

    /// Tells the controller of what was written.
    pub(crate) fn ring(&mut self, registers: &impl Registers, capabilities: &Capabilities) {
        if self.rung != self.tail {
            cloister_dma::publish();
            registers.write(capabilities.doorbell(self.id, false), u32::from(self.tail));
            self.rung = self.tail;
        }
    }

    /// Tells the controller of what was taken, and of commands that are tried again.
    pub(crate) fn acknowledge(&mut self, registers: &impl Registers, capabilities: &Capabilities) {
        if self.told != self.head {
            registers.write(capabilities.doorbell(self.id, true), u32::from(self.head));
            self.told = self.head;
        }
        self.ring(registers, capabilities);
    }

    /// The next command that ended, if one did.
    pub(crate) fn take(
        &mut self,
        memory: &impl Memory,
        epoch: u32,
    ) -> Option<Result<(Tag, Outcome), Fault>> {
        loop {
            if let Some(tag) = self.slots.failed() {
                return Some(Ok((tag, Outcome::Failed)));
            }
            let found = Completion::take(memory, self.completion, self.head, self.phase)?;
            self.head = next(self.head, self.entries);
            self.phase ^= self.head == 0;
            let number = match self.named_by(&found) {
                Ok(number) => number,
                Err(fault) => return Some(Err(fault)),
            };
            if found.status.may_pass() && self.slots.get(number)?.may_try() {
                self.push(memory, number, epoch);
                continue;
            }
            let outcome = if found.status.is_success() { Outcome::Done } else { Outcome::Failed };
            return Some(Ok((self.slots.end(number)?, outcome)));
        }
    }

    /// The slot of the command in flight that a completion names.
    fn named_by(&self, found: &Completion) -> Result<u8, Fault> {
        let queue = self.id;
        if found.queue != queue {
            return Err(Fault::WrongQueue { queue, named: found.queue });
        }
        if found.head >= self.entries {
            return Err(Fault::HeadOutside { queue, head: found.head });
        }
        let fault = Fault::NoSuchCommand { queue, id: found.id };
        let number = u8::try_from(found.id & SLOT_MASK).map_err(|_| fault)?;
        let named = self.slots.get(number).map(|slot| id(number, slot));
        let is_it = self.slots.live().has(number) && named == Some(found.id);
        if is_it { Ok(number) } else { Err(fault) }
    }

    /// The commands of a request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        self.slots.cancel(tag);
    }

    /// The identifier of a command that was submitted too long ago, if there is one.
    pub(crate) fn overdue(&self, epoch: u32) -> Option<u16> {
        let number = self.slots.overdue(self.slots.live(), epoch)?;
        Some(id(number, self.slots.get(number)?))
    }

    /// After a reset: submits again what is wanted and was not tried too often; the rest fails.
    pub(crate) fn again(&mut self, memory: &impl Memory, epoch: u32) {
        for number in self.slots.wanted(self.slots.live()) {
            self.push(memory, number, epoch);
        }
    }
}

/// The place behind one; `place + 1` is no more than the entries.
fn next(place: u16, entries: u16) -> u16 {
    let after = place.wrapping_add(1);
    if after >= entries { 0 } else { after }
}

/// The command as the controller wants it; lists are written at `list`. `None` if its memory is
/// more than a list names.
fn encode(memory: &impl Memory, list: u64, command: &Command<'_>, namespace: u32) -> Option<Entry> {
    // The count that a command has is one less.
    let word_12 = command.blocks.saturating_sub(1);
    let plain = Entry { namespace, words_10: command.block, word_12, ..Entry::default() };
    Some(match command.operation {
        Operation::Read | Operation::Write => Entry {
            opcode: if command.operation == Operation::Read { opcode::READ } else { opcode::WRITE },
            prp: prp::entries(memory, list, command.segments)?,
            ..plain
        },
        Operation::Zero => Entry { opcode: opcode::WRITE_ZEROES, ..plain },
        Operation::Flush => Entry { opcode: opcode::FLUSH, namespace, ..Entry::default() },
        Operation::Discard => {
            // One range: attributes, length, first block.
            memory.store_u64(list, u64::from(command.blocks) << 32)?;
            memory.store_u64(list.checked_add(8)?, command.block)?;
            Entry {
                opcode: opcode::DATASET_MANAGEMENT,
                namespace,
                prp: [memory.address(list), 0],
                words_10: DEALLOCATE << 32,
                word_12: 0,
            }
        }
    })
}
