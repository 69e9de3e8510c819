//! The commands of a disk: [`Commands`].
//!
//! A command has a slot (`cloister_block::Slots`) from its submission to its answer. They wait in
//! order until they may be issued: those of the disk's queue together, any other alone and after
//! all before it ended. Its table stays as it is, so that it is issued again after an error.
//!
//! Invariant: each command that was taken is answered once; the disk never has commands of its
//! queue and others at a time.

use cloister_block::{Busy, Command, Operation, Outcome, Set, Slots, Tag};
use cloister_dma::Memory;

use crate::fault::Fault;
use crate::limits::{RANGE_MAX, RANGES};
use crate::log;
use crate::plan::{Plan, SLOTS};
use crate::table::{self, Order, code};

/// Of *Data Set Management*: the blocks are no longer needed.
const TRIM: u16 = 1;

/// What is kept of a command. One that was to blame for an error counts that as a try.
#[derive(Clone, Copy)]
struct Kept {
    operation: Operation,
    block: u64,
    /// What the count register has; 0 for 65536 blocks is not used.
    count: u16,
    pieces: u16,
    /// It is issued by itself, so that an error is its own.
    is_alone: bool,
}

impl Kept {
    const NONE: Kept =
        Kept { operation: Operation::Flush, block: 0, count: 0, pieces: 0, is_alone: false };
}

/// What is to be issued together: slots, and those of them for the disk's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) slots: Set,
    pub(crate) queued: Set,
}

/// All commands.
pub(crate) struct Commands {
    slots: Slots<Kept, SLOTS>,
    /// Slots whose command ended well.
    done: Set,
    /// Slots whose command is with the disk: as one of its queue, or alone.
    queued: Set,
    alone: Set,
    /// Slots that wait, in order, from `first` on.
    order: [u8; SLOTS],
    first: usize,
    waiting: usize,
    has_queue: bool,
}

impl Commands {
    pub(crate) fn new() -> Commands {
        Commands {
            slots: Slots::new(Kept::NONE),
            done: Set::EMPTY,
            queued: Set::EMPTY,
            alone: Set::EMPTY,
            order: [0; SLOTS],
            first: 0,
            waiting: 0,
            has_queue: false,
        }
    }

    /// The disk takes so many commands, in a queue or one at a time. Called before the first one.
    pub(crate) fn open(&mut self, count: u8, has_queue: bool) {
        self.slots.open(count);
        self.has_queue = has_queue;
    }

    /// Whether no command is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Commands that are with the disk's queue.
    pub(crate) fn queued(&self) -> Set {
        self.queued
    }

    /// Commands that are with the disk.
    fn issued(&self) -> Set {
        self.queued.or(self.alone)
    }

    /// Whether any command is with the disk.
    pub(crate) fn is_issued(&self) -> bool {
        !self.issued().is_empty()
    }

    /// Takes a command, which waits.
    pub(crate) fn submit(
        &mut self,
        memory: &impl Memory,
        tag: Tag,
        command: &Command<'_>,
    ) -> Result<(), Busy> {
        let number = self.slots.take(tag)?;
        let (operation, block) = (command.operation, command.block);
        match (prepare(memory, number, command), self.slots.get_mut(number)) {
            (Some((count, pieces)), Some(slot)) => {
                slot.command = Kept { operation, block, count, pieces, is_alone: false };
                self.wait(number);
            }
            // More than the limits allow.
            _ => self.slots.fail(Set::one(number)),
        }
        Ok(())
    }

    /// Fails a command here.
    pub(crate) fn refuse(&mut self, tag: Tag) -> Result<(), Busy> {
        self.slots.refuse(tag)
    }

    /// Fails all commands. The disk is no longer there.
    pub(crate) fn refuse_all(&mut self) {
        self.slots.fail(self.slots.taken().minus(self.done));
        (self.queued, self.alone, self.waiting) = (Set::EMPTY, Set::EMPTY, 0);
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
        while self.waiting != 0 && self.alone.is_empty() {
            let Some(number) = self.order.get(self.first).copied() else { break };
            let Some(slot) = self.slots.get_mut(number) else { break };
            let kept = &slot.command;
            let is_queued = self.has_queue && !kept.is_alone && kept.operation.moves_data();
            if !is_queued && !self.queued.is_empty() {
                break;
            }
            let order = order(kept, number, is_queued);
            let table = Plan::table(number);
            let to_disk = matches!(kept.operation, Operation::Write | Operation::Discard);
            // The plan has room for every slot.
            let _ = order.put(memory, table);
            let _ = table::head(memory, number, table, kept.pieces, to_disk);
            slot.issue(epoch);
            let own = Set::one(number);
            if is_queued {
                self.queued = self.queued.or(own);
                issue.queued = issue.queued.or(own);
            } else {
                self.alone = self.alone.or(own);
            }
            issue.slots = issue.slots.or(own);
            self.first = self.first.wrapping_add(1) % SLOTS;
            self.waiting = self.waiting.saturating_sub(1);
        }
        issue
    }

    /// Takes note of the slots that the disk is still busy with; the others have ended, and well. A
    /// command by itself has not if there was an error.
    pub(crate) fn settle(&mut self, busy: Set, has_error: bool) -> Result<(), Fault> {
        let strangers = busy.minus(self.issued());
        if !strangers.is_empty() {
            return Err(Fault::NotIssued { slots: strangers.bits() });
        }
        let busy = if has_error { busy.or(self.alone) } else { busy };
        self.done = self.done.or(self.issued().minus(busy));
        (self.queued, self.alone) = (self.queued.and(busy), self.alone.and(busy));
        Ok(())
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Option<(Tag, Outcome)> {
        if let Some(number) = self.done.next() {
            return Some((self.slots.end(number)?, Outcome::Done));
        }
        Some((self.slots.failed()?, Outcome::Failed))
    }

    /// The commands of a request are not to be tried again.
    pub(crate) fn cancel(&mut self, tag: Tag) {
        self.slots.cancel(tag);
    }

    /// A command that was issued too long ago, if there is one.
    pub(crate) fn overdue(&self, epoch: u32) -> Option<u8> {
        self.slots.overdue(self.issued(), epoch)
    }

    /// An error stopped the disk, and it was of one command.
    pub(crate) fn blame(&mut self, number: u8, error: u8) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.count_try();
            if !log::may_pass(error) {
                slot.spend();
            }
        }
    }

    /// The commands that were issued too long ago are to blame.
    pub(crate) fn blame_overdue(&mut self, epoch: u32) {
        for number in self.issued() {
            let slot = self.slots.get_mut(number).filter(|slot| slot.is_overdue(epoch));
            if let Some(slot) = slot {
                slot.count_try();
            }
        }
    }

    /// Every command with the disk may have been to blame.
    pub(crate) fn blame_all(&mut self) {
        for number in self.issued() {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.count_try();
            }
        }
    }

    /// The command that was issued by itself.
    pub(crate) fn alone(&self) -> Option<u8> {
        self.alone.first()
    }

    /// Commands with the disk are issued by themselves from now on: it is not known whose an error
    /// was.
    pub(crate) fn part(&mut self) {
        for number in self.queued {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.command.is_alone = true;
            }
        }
    }

    /// The disk forgot its commands: what is wanted and was not to blame too often waits again,
    /// behind what waits; the rest fails.
    pub(crate) fn again(&mut self) {
        let issued = self.issued();
        (self.queued, self.alone) = (Set::EMPTY, Set::EMPTY);
        for number in self.slots.wanted(issued) {
            self.wait(number);
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
fn order(kept: &Kept, number: u8, is_queued: bool) -> Order {
    let Kept { operation, block, count, .. } = *kept;
    match operation {
        Operation::Read | Operation::Write if is_queued => {
            let is_read = operation == Operation::Read;
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
