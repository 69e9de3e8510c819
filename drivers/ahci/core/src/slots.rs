//! The commands of a disk: [`Slots`].
//!
//! A command has a slot from its submission to its answer. Commands wait in order of submission
//! until they may be issued: those of the disk's queue together, any other alone and after all
//! before it ended. Its table stays as it is, so that it is issued again after an error.
//!
//! Invariant: each command that was taken is answered once; the disk never has commands of its
//! queue and others at a time.

use cloister_block::{Busy, Command, Operation, Outcome, Tag};
use cloister_dma::Memory;

use crate::fault::Fault;
use crate::limits::{RANGE_MAX, RANGES};
use crate::log;
use crate::plan::{Plan, SLOTS};
use crate::table::{self, Order, code};

/// How often a command that was to blame is tried before it fails for good.
const TRIES_MAX: u8 = 3;
/// Of *Data Set Management*: the blocks are no longer needed.
const TRIM: u16 = 1;

#[derive(Clone, Copy)]
struct Slot {
    tag: Tag,
    operation: Operation,
    block: u64,
    /// What the count register has; 0 for 65536 blocks is not used.
    count: u16,
    pieces: u16,
    /// When it was issued.
    epoch: u32,
    /// How often it was to blame.
    blamed: u8,
    is_cancelled: bool,
    /// It is issued by itself, so that an error is its own.
    is_alone: bool,
}

impl Slot {
    const FREE: Slot = Slot {
        tag: Tag { slot: 0, generation: 0, client: 0 },
        operation: Operation::Flush,
        block: 0,
        count: 0,
        pieces: 0,
        epoch: 0,
        blamed: 0,
        is_cancelled: false,
        is_alone: false,
    };
}

/// What is to be issued together: slots, and those of them for the disk's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) slots: u32,
    pub(crate) queued: u32,
}

/// All slots.
pub(crate) struct Slots {
    slots: [Slot; SLOTS],
    /// Slots that there are, those without a command, those whose command ended well or badly.
    all: u32,
    free: u32,
    done: u32,
    failed: u32,
    /// Slots whose command is with the disk: as one of its queue, or alone.
    queued: u32,
    alone: u32,
    /// Slots that wait, in order, from `first` on.
    order: [u8; SLOTS],
    first: usize,
    waiting: usize,
    has_queue: bool,
}

/// The bit of a slot.
fn bit(slot: u8) -> u32 {
    1u32.checked_shl(slot.into()).unwrap_or(0)
}

fn first(set: u32) -> Option<u8> {
    let number = u8::try_from(set.trailing_zeros()).ok()?;
    (usize::from(number) < SLOTS).then_some(number)
}

/// The members of a set.
fn each(mut set: u32) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        let slot = first(set)?;
        set &= !bit(slot);
        Some(slot)
    })
}

impl Slots {
    pub(crate) fn new() -> Slots {
        Slots {
            slots: [Slot::FREE; SLOTS],
            all: 0,
            free: 0,
            done: 0,
            failed: 0,
            queued: 0,
            alone: 0,
            order: [0; SLOTS],
            first: 0,
            waiting: 0,
            has_queue: false,
        }
    }

    /// The disk takes so many commands, in a queue or one at a time. Called before the first one.
    pub(crate) fn open(&mut self, count: u8, has_queue: bool) {
        self.all = 1u32.checked_shl(count.into()).unwrap_or(0).wrapping_sub(1);
        (self.free, self.has_queue) = (self.all, has_queue);
    }

    fn get(&self, slot: u8) -> Option<&Slot> {
        self.slots.get(usize::from(slot))
    }

    /// Whether no command is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.free == self.all
    }

    /// Slots whose commands are with the disk's queue.
    pub(crate) fn queued(&self) -> u32 {
        self.queued
    }

    /// Whether any command is with the disk.
    pub(crate) fn is_issued(&self) -> bool {
        self.queued | self.alone != 0
    }

    fn take(&mut self, tag: Tag) -> Result<u8, Busy> {
        let number = first(self.free).ok_or(Busy)?;
        let slot = self.slots.get_mut(usize::from(number)).ok_or(Busy)?;
        *slot = Slot { tag, ..Slot::FREE };
        self.free &= !bit(number);
        Ok(number)
    }

    /// Takes a command, which waits.
    pub(crate) fn submit(
        &mut self,
        memory: &impl Memory,
        tag: Tag,
        command: &Command<'_>,
    ) -> Result<(), Busy> {
        let number = self.take(tag)?;
        let (operation, block) = (command.operation, command.block);
        let prepared = prepare(memory, number, command);
        let slot = self.slots.get_mut(usize::from(number)).ok_or(Busy)?;
        (slot.operation, slot.block) = (operation, block);
        match prepared {
            Some((count, pieces)) => {
                (slot.count, slot.pieces) = (count, pieces);
                self.wait(number);
            }
            // More than the limits allow.
            None => self.failed |= bit(number),
        }
        Ok(())
    }

    /// Fails a command here.
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        let number = self.take(tag)?;
        self.failed |= bit(number);
        Ok(())
    }

    /// Fails all commands. The disk is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.failed = self.all & !self.free & !self.done;
        (self.queued, self.alone, self.waiting) = (0, 0, 0);
    }

    /// Puts a slot behind those that wait. There are no more of them than slots.
    fn wait(&mut self, number: u8) {
        let place = self.first.wrapping_add(self.waiting) % SLOTS;
        if let Some(place) = self.order.get_mut(place) {
            *place = number;
            self.waiting = self.waiting.saturating_add(1).min(SLOTS);
        }
    }

    /// Takes the commands out that may be issued now, and writes their orders.
    pub(crate) fn issue(&mut self, memory: &impl Memory, epoch: u32) -> Issue {
        let mut issue = Issue::default();
        while self.waiting != 0 && self.alone == 0 {
            let Some(number) = self.order.get(self.first).copied() else { break };
            let Some(slot) = self.slots.get_mut(usize::from(number)) else { break };
            let is_queued = self.has_queue && !slot.is_alone && slot.operation.moves_data();
            if !is_queued && self.queued != 0 {
                break;
            }
            slot.epoch = epoch;
            let order = order(slot, number, is_queued);
            let table = Plan::table(number);
            let to_disk = matches!(slot.operation, Operation::Write | Operation::Discard);
            // The plan has room for every slot.
            let _ = order.put(memory, table);
            let _ = table::head(memory, number, table, slot.pieces, to_disk);
            if is_queued {
                self.queued |= bit(number);
                issue.queued |= bit(number);
            } else {
                self.alone |= bit(number);
            }
            issue.slots |= bit(number);
            self.first = self.first.wrapping_add(1) % SLOTS;
            self.waiting = self.waiting.saturating_sub(1);
        }
        issue
    }

    /// Takes note of the slots that the disk is still busy with; the others have ended, and well. A
    /// command by itself has not if there was an error.
    pub(crate) fn settle(&mut self, busy: u32, has_error: bool) -> Result<(), Fault> {
        let issued = self.queued | self.alone;
        let strangers = busy & !issued;
        if strangers != 0 {
            return Err(Fault::NotIssued { slots: strangers });
        }
        let busy = if has_error { busy | self.alone } else { busy };
        let ended = issued & !busy;
        self.done |= ended;
        (self.queued, self.alone) = (self.queued & busy, self.alone & busy);
        Ok(())
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Option<(Tag, Outcome)> {
        let number = first(self.done | self.failed)?;
        let outcome = if self.failed & bit(number) != 0 { Outcome::Failed } else { Outcome::Done };
        self.done &= !bit(number);
        self.failed &= !bit(number);
        self.free |= bit(number);
        Some((self.get(number)?.tag, outcome))
    }

    /// The commands of a request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        for number in each(self.all & !self.free) {
            let slot = self.slots.get_mut(usize::from(number)).filter(|slot| slot.tag == tag);
            if let Some(slot) = slot {
                slot.is_cancelled = true;
            }
        }
    }

    /// A command that was issued so long ago, if there is one.
    pub(crate) fn older_than(&self, epoch: u32, patience: u32) -> Option<u8> {
        let is_old = |slot: &Slot| epoch.wrapping_sub(slot.epoch) > patience;
        each(self.queued | self.alone).find(|number| self.get(*number).is_some_and(is_old))
    }

    /// An error stopped the disk, and it was of one command.
    pub(crate) fn blame(&mut self, number: u8, error: u8) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return;
        };
        slot.blamed = slot.blamed.saturating_add(1);
        if !log::may_pass(error) {
            slot.blamed = TRIES_MAX;
        }
    }

    /// The commands that were issued so long ago are to blame.
    pub(crate) fn blame_older_than(&mut self, epoch: u32, patience: u32) {
        for number in each(self.queued | self.alone) {
            if let Some(slot) = self.slots.get_mut(usize::from(number))
                && epoch.wrapping_sub(slot.epoch) > patience
            {
                slot.blamed = slot.blamed.saturating_add(1);
            }
        }
    }

    /// Every command with the disk may have been to blame.
    pub(crate) fn blame_all(&mut self) {
        for number in each(self.queued | self.alone) {
            if let Some(slot) = self.slots.get_mut(usize::from(number)) {
                slot.blamed = slot.blamed.saturating_add(1);
            }
        }
    }

    /// The command that was issued by itself.
    pub(crate) fn alone(&self) -> Option<u8> {
        first(self.alone)
    }

    /// Commands with the disk are issued by themselves from now on: it is not known whose an error
    /// was.
    pub(crate) fn part(&mut self) {
        for number in each(self.queued) {
            if let Some(slot) = self.slots.get_mut(usize::from(number)) {
                slot.is_alone = true;
            }
        }
    }

    /// The disk forgot its commands: what is wanted and was not to blame too often waits again,
    /// behind what waits; the rest fails.
    pub(crate) fn again(&mut self) {
        let issued = self.queued | self.alone;
        (self.queued, self.alone) = (0, 0);
        for number in each(issued) {
            let is_wanted = |slot: &Slot| !slot.is_cancelled && slot.blamed < TRIES_MAX;
            if self.get(number).is_some_and(is_wanted) {
                self.wait(number);
            } else {
                self.failed |= bit(number);
            }
        }
    }
}

/// Writes what does not change of a command: the count register, and how many pieces there are.
fn prepare(memory: &impl Memory, number: u8, command: &Command<'_>) -> Option<(u16, u16)> {
    let table = Plan::table(number);
    match command.operation {
        Operation::Read | Operation::Write => {
            let pieces = table::pieces(memory, table, command.segments)?;
            let count = u16::try_from(command.blocks).ok().filter(|count| *count != 0)?;
            Some((count, pieces))
        }
        Operation::Flush => Some((0, 0)),
        Operation::Discard => {
            let list = Plan::list(number);
            let (mut block, mut left) = (command.block, u64::from(command.blocks));
            for entry in 0..RANGES {
                let now = left.min(RANGE_MAX);
                let at = list.checked_add(entry.checked_mul(8)?)?;
                // Entries without blocks say nothing.
                memory.store_u64(at, if now == 0 { 0 } else { now << 48 | block })?;
                (block, left) = (block.checked_add(now)?, left.saturating_sub(now));
            }
            let address = memory.address(list);
            let len = RANGES.checked_mul(8)?;
            let segment = cloister_block::Segment { address, len };
            let pieces = table::pieces(memory, table, &[segment])?;
            (left == 0).then_some((1, pieces))
        }
        // The limits say that there is no such command.
        Operation::Zero => None,
    }
}

/// What the disk gets.
fn order(slot: &Slot, number: u8, is_queued: bool) -> Order {
    let Slot { block, count, .. } = *slot;
    match slot.operation {
        Operation::Read | Operation::Write if is_queued => {
            let is_read = slot.operation == Operation::Read;
            let code = if is_read { code::READ_QUEUED } else { code::WRITE_QUEUED };
            // The queue's commands have their count in the features, and their slot in the count.
            Order { code, features: count, block, count: u16::from(number) << 3 }
        }
        Operation::Read => Order { code: code::READ, features: 0, block, count },
        Operation::Write => Order { code: code::WRITE, features: 0, block, count },
        Operation::Discard => {
            Order { code: code::DATA_SET_MANAGEMENT, features: TRIM, block: 0, count }
        }
        Operation::Flush | Operation::Zero => Order { code: code::FLUSH, ..Order::default() },
    }
}
