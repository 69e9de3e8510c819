//! A pair of queues for requests: [`Pair`].
//!
//! A command has a slot from its submission to its answer, and its identifier is the slot with the
//! number of times that it was used: a completion that comes twice, late or from nowhere names no
//! command in flight. There are fewer slots than entries, so the submission side is never full.
//! The slot keeps the command, which is submitted again after a reset or a failure that passes.
//!
//! Invariant: each command that was taken is answered once.

use cloister_block::{Busy, Command, Operation, Outcome, Tag};
use cloister_dma::Memory;

use crate::command::{Completion, Entry, opcode};
use crate::fault::Fault;
use crate::plan::{ENTRIES_MAX, LIST_BYTES};
use crate::prp;
use crate::registers::{Capabilities, Registers};

/// Slots: a word has a bit for each.
const SLOTS: usize = 64;
/// Bits of an identifier that are the slot.
const SLOT_BITS: u32 = 6;
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;
/// Uses of a slot that identifiers tell apart.
const USES_MASK: u16 = u16::MAX >> SLOT_BITS;
/// How often a command is submitted before it fails for good.
const TRIES_MAX: u8 = 3;
/// Of a range that *Dataset Management* gets: deallocate it.
const DEALLOCATE: u64 = 1 << 2;

const _: () = assert!(ENTRIES_MAX.ilog2() == SLOT_BITS);

#[derive(Clone, Copy)]
struct Slot {
    tag: Tag,
    entry: Entry,
    /// When it was submitted.
    epoch: u32,
    uses: u16,
    tries: u8,
    is_cancelled: bool,
}

impl Slot {
    const FREE: Slot = Slot {
        tag: Tag { slot: 0, generation: 0, client: 0 },
        entry: Entry { opcode: 0, namespace: 0, prp: [0; 2], words_10: 0, word_12: 0 },
        epoch: 0,
        uses: 0,
        tries: 0,
        is_cancelled: false,
    };
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
    /// All slots, and those without a command.
    all: u64,
    free: u64,
    /// Slots whose commands failed here, and are to be answered so.
    failed: u64,
    slots: [Slot; SLOTS],
}

fn bit(slot: usize) -> u64 {
    u32::try_from(slot).ok().and_then(|slot| 1u64.checked_shl(slot)).unwrap_or(0)
}

fn first(set: u64) -> Option<usize> {
    let number = usize::try_from(set.trailing_zeros()).ok()?;
    (number < SLOTS).then_some(number)
}

impl Pair {
    /// Nothing in flight; `entries` are those of either side, from 2 to 64.
    pub(crate) fn new(id: u16, entries: u16, [submission, completion, lists]: [u64; 3]) -> Pair {
        let slots = u32::from(entries.saturating_sub(1));
        let all = 1u64.checked_shl(slots).unwrap_or(0).wrapping_sub(1);
        Pair {
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
            all,
            free: all,
            failed: 0,
            slots: [Slot::FREE; SLOTS],
        }
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
        self.taken() == 0
    }

    /// Slots with a command.
    fn taken(&self) -> u64 {
        self.all & !self.free
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
        let index = first(self.free).ok_or(Busy)?;
        let place = u64::try_from(index).unwrap_or(0).wrapping_mul(LIST_BYTES);
        let list = self.lists.saturating_add(place);
        let entry = encode(memory, list, command, namespace);
        let slot = self.slots.get_mut(index).ok_or(Busy)?;
        self.free &= !bit(index);
        slot.tag = tag;
        (slot.tries, slot.is_cancelled) = (0, false);
        match entry {
            Some(entry) => {
                slot.entry = entry;
                self.push(memory, index, epoch);
            }
            // More memory than the limits allow.
            None => self.failed |= bit(index),
        }
        Ok(())
    }

    /// Writes a slot's command into the next place.
    fn push(&mut self, memory: &impl Memory, index: usize, epoch: u32) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.epoch = epoch;
        slot.uses = slot.uses.wrapping_add(1) & USES_MASK;
        slot.tries = slot.tries.saturating_add(1);
        let id = slot.uses << SLOT_BITS | u16::try_from(index).unwrap_or(0);
        // The plan has room for every place.
        let _ = slot.entry.put(memory, self.submission, self.tail, id);
        self.tail = next(self.tail, self.entries);
    }

    /// Fails a command here. It is answered by the next [`Pair::take`].
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        let index = first(self.free).ok_or(Busy)?;
        let slot = self.slots.get_mut(index).ok_or(Busy)?;
        slot.tag = tag;
        self.free &= !bit(index);
        self.failed |= bit(index);
        Ok(())
    }

    /// Fails all commands that are in flight. The controller is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.failed = self.taken();
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
            if let Some(index) = first(self.failed) {
                self.failed &= !bit(index);
                self.free |= bit(index);
                return Some(Ok((self.slots.get(index)?.tag, Outcome::Failed)));
            }
            let found = Completion::take(memory, self.completion, self.head, self.phase)?;
            self.head = next(self.head, self.entries);
            self.phase ^= self.head == 0;
            let index = match self.named_by(&found) {
                Ok(index) => index,
                Err(fault) => return Some(Err(fault)),
            };
            let slot = self.slots.get(index)?;
            if found.status.may_pass() && slot.tries < TRIES_MAX && !slot.is_cancelled {
                self.push(memory, index, epoch);
                continue;
            }
            self.free |= bit(index);
            let outcome = if found.status.is_success() { Outcome::Done } else { Outcome::Failed };
            return Some(Ok((slot.tag, outcome)));
        }
    }

    /// The slot of the command in flight that a completion names.
    fn named_by(&self, found: &Completion) -> Result<usize, Fault> {
        let queue = self.id;
        if found.queue != queue {
            return Err(Fault::WrongQueue { queue, named: found.queue });
        }
        if found.head >= self.entries {
            return Err(Fault::HeadOutside { queue, head: found.head });
        }
        let index = usize::from(found.id & SLOT_MASK);
        let lives = self.taken() & !self.failed & bit(index) != 0;
        let uses = self.slots.get(index).map(|slot| slot.uses);
        if lives && uses == Some(found.id >> SLOT_BITS) {
            Ok(index)
        } else {
            Err(Fault::NoSuchCommand { queue, id: found.id })
        }
    }

    /// The commands of a request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        self.each(|slot| slot.is_cancelled |= slot.tag == tag);
    }

    /// The identifier of a command that was submitted before `since`, if there is one.
    pub(crate) fn older_than(&self, epoch: u32, patience: u32) -> Option<u16> {
        let mut left = self.taken() & !self.failed;
        while let Some(index) = first(left) {
            left &= !bit(index);
            let slot = self.slots.get(index)?;
            if epoch.wrapping_sub(slot.epoch) > patience {
                return Some(slot.uses << SLOT_BITS | u16::try_from(index).unwrap_or(0));
            }
        }
        None
    }

    /// After a reset: submits again what is wanted and was not tried too often; the rest fails.
    pub(crate) fn again(&mut self, memory: &impl Memory, epoch: u32) {
        let mut left = self.taken() & !self.failed;
        while let Some(index) = first(left) {
            left &= !bit(index);
            let slot = self.slots.get(index);
            if slot.is_some_and(|slot| !slot.is_cancelled && slot.tries < TRIES_MAX) {
                self.push(memory, index, epoch);
            } else {
                self.failed |= bit(index);
            }
        }
    }

    fn each(&mut self, mut change: impl FnMut(&mut Slot)) {
        let mut left = self.taken();
        while let Some(index) = first(left) {
            left &= !bit(index);
            if let Some(slot) = self.slots.get_mut(index) {
                change(slot);
            }
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
