//! The admin queue: [`Admin`], one command at a time while the driver waits.
//!
//! It is needed to bring a controller up, and those of its virtual functions; for nothing else. Invariant: an answer is that of the
//! command that was given last.

use cloister_block::{PAGE, Pause, Registers, wait_for};
use cloister_dma::Memory;

use crate::command::{Completion, Entry};
use crate::fault::Failure;
use crate::identify::{Identity, Namespace};
use crate::plan::Plan;
use crate::registers::{self, Capabilities};

/// Entries of either side.
pub(crate) const ENTRIES: u16 = 32;
/// How long a command may take.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Operation codes of admin commands.
mod opcode {
    pub(super) const CREATE_SUBMISSION: u8 = 0x01;
    pub(super) const CREATE_COMPLETION: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const SET_FEATURES: u8 = 0x09;
    pub(super) const ATTACH_NAMESPACE: u8 = 0x15;
    pub(super) const VIRTUALIZATION: u8 = 0x1c;
}

/// What *Identify* is to tell of.
const NAMESPACE: u64 = 0;
const CONTROLLER: u64 = 1;
const ACTIVE_NAMESPACES: u64 = 2;
const SECONDARIES: u64 = 0x15;
/// What *Virtualization Management* is to do: take a secondary controller offline, assign resources
/// to it, bring it online.
const OFFLINE: u64 = 7;
const ASSIGN: u64 = 8;
const ONLINE: u64 = 9;
/// Which resources: queues, or vectors.
const OF_QUEUES: u64 = 0;
const OF_VECTORS: u64 = 1 << 8;
/// The status of an attachment that is there already.
const IS_ATTACHED: u16 = 0x118;
/// The feature *Number of Queues*.
const QUEUES: u64 = 7;
/// Of a new queue: its memory is in one piece; its completions interrupt.
const CONTIGUOUS: u64 = 1;
const INTERRUPTS: u64 = 2;

/// The admin queue of a controller that was just started.
pub(crate) struct Admin<'a, R, M, P> {
    pub(crate) registers: &'a R,
    pub(crate) memory: &'a M,
    pub(crate) pause: &'a P,
    pub(crate) capabilities: Capabilities,
    pub(crate) tail: u16,
    pub(crate) head: u16,
    pub(crate) phase: bool,
    pub(crate) last: u16,
    pub(crate) patience_ns: u64,
}

impl<R: Registers, M: Memory, P: Pause> Admin<'_, R, M, P> {
    /// Has the controller do something, and waits for the answer.
    fn call(&mut self, entry: &Entry) -> Result<u32, Failure> {
        let [submission, completion] = Plan::ADMIN;
        self.last = self.last.wrapping_add(1);
        entry.put(self.memory, submission, self.tail, self.last).ok_or(Failure::Memory)?;
        self.tail = self.tail.wrapping_add(1) % ENTRIES;
        cloister_dma::publish();
        let bell = self.capabilities.doorbell(0, false);
        self.registers.write(bell, u32::from(self.tail)).ok_or(Failure::Memory)?;
        let (head, phase) = (self.head, self.phase);
        let found = wait_for(self.pause, self.patience_ns, || {
            Completion::take(self.memory, completion, head, phase)
        });
        let opcode = entry.opcode;
        let found = found.ok_or(Failure::Silent { opcode })?;
        let result = found.result(self.memory).ok_or(Failure::Memory)?;
        self.head = self.head.wrapping_add(1) % ENTRIES;
        self.phase ^= self.head == 0;
        let bell = self.capabilities.doorbell(0, true);
        self.registers.write(bell, u32::from(self.head)).ok_or(Failure::Memory)?;
        if found.id != self.last || found.queue != 0 {
            return Err(Failure::Silent { opcode });
        }
        if !found.status.is_success() {
            return Err(Failure::Refused { opcode, status: found.status.code() });
        }
        Ok(result)
    }

    fn identify(&mut self, what: u64, namespace: u32) -> Result<(), Failure> {
        let prp = [self.memory.address(Plan::ANSWER), 0];
        let opcode = opcode::IDENTIFY;
        self.call(&Entry { opcode, namespace, prp, words_10: what, word_12: 0 }).map(drop)
    }

    /// What the controller says of itself.
    pub(crate) fn controller(&mut self) -> Result<Identity, Failure> {
        self.identify(CONTROLLER, 0)?;
        Identity::read(self.memory, Plan::ANSWER).ok_or(Failure::Memory)
    }

    /// The first namespace.
    pub(crate) fn namespace(&mut self) -> Result<Namespace, Failure> {
        self.identify(ACTIVE_NAMESPACES, 0)?;
        let id = self.memory.load_u32(Plan::ANSWER).ok_or(Failure::Memory)?;
        if id == 0 || id == u32::MAX {
            return Err(Failure::NoNamespace);
        }
        self.identify(NAMESPACE, id)?;
        Namespace::read(self.memory, Plan::ANSWER, id)
    }

    /// Asks for so many pairs of queues; how many there are.
    pub(crate) fn pairs(&mut self, wanted: u16) -> Result<u16, Failure> {
        // Counts are one less than there are.
        let less = u64::from(wanted.saturating_sub(1));
        let words_10 = (less << 16 | less) << 32 | QUEUES;
        let opcode = opcode::SET_FEATURES;
        let granted = self.call(&Entry { opcode, words_10, ..Entry::default() })?;
        let [a, b, c, d] = granted.to_le_bytes();
        let least = u16::from_le_bytes([a, b]).min(u16::from_le_bytes([c, d]));
        Ok(least.saturating_add(1).min(wanted))
    }

    /// Has the controllers of virtual functions listed.
    pub(crate) fn secondaries(&mut self) -> Result<(), Failure> {
        self.identify(SECONDARIES, 0)
    }

    fn manage(&mut self, controller: u16, action: u64, count: u16) -> Result<(), Failure> {
        let words_10 = u64::from(count) << 32 | u64::from(controller) << 16 | action;
        let opcode = opcode::VIRTUALIZATION;
        self.call(&Entry { opcode, words_10, ..Entry::default() }).map(drop)
    }

    /// Takes a secondary controller offline; it may be so already.
    pub(crate) fn set_offline(&mut self, controller: u16) -> Result<(), Failure> {
        self.manage(controller, OFFLINE, 0)
    }

    /// Gives a controller that is offline so many queues.
    pub(crate) fn assign_queues(&mut self, controller: u16, count: u16) -> Result<(), Failure> {
        self.manage(controller, OF_QUEUES | ASSIGN, count)
    }

    /// Gives a controller that is offline so many vectors.
    pub(crate) fn assign_vectors(&mut self, controller: u16, count: u16) -> Result<(), Failure> {
        self.manage(controller, OF_VECTORS | ASSIGN, count)
    }

    /// Lets a controller be started by its driver.
    pub(crate) fn set_online(&mut self, controller: u16) -> Result<(), Failure> {
        self.manage(controller, ONLINE, 0)
    }

    /// Shows a namespace to one more controller; it may be shown already.
    pub(crate) fn attach(&mut self, controller: u16, namespace: u32) -> Result<(), Failure> {
        // A list of controllers: their number, then each.
        self.memory.clear(Plan::ANSWER, PAGE).ok_or(Failure::Memory)?;
        let list = u64::from(controller) << 16 | 1;
        self.memory.store_u64(Plan::ANSWER, list).ok_or(Failure::Memory)?;
        let prp = [self.memory.address(Plan::ANSWER), 0];
        let opcode = opcode::ATTACH_NAMESPACE;
        match self.call(&Entry { opcode, namespace, prp, ..Entry::default() }) {
            Err(Failure::Refused { status: IS_ATTACHED, .. }) | Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Goes on until both sides of the queue are where those of a new one are, so that a driver that
    /// knows nothing finds them.
    pub(crate) fn rewind(&mut self) -> Result<(), Failure> {
        while self.tail != 0 || self.head != 0 || !self.phase {
            self.identify(CONTROLLER, 0)?;
        }
        Ok(())
    }

    /// Makes a pair of queues whose completions are told by an interrupt of its own number.
    pub(crate) fn create(
        &mut self,
        id: u16,
        entries: u16,
        [submission, completion]: [u64; 2],
        vector: u16,
    ) -> Result<(), Failure> {
        let words = u64::from(entries.saturating_sub(1)) << 16 | u64::from(id);
        let flags = u64::from(vector) << 16 | INTERRUPTS | CONTIGUOUS;
        self.call(&Entry {
            opcode: opcode::CREATE_COMPLETION,
            prp: [self.memory.address(completion), 0],
            words_10: flags << 32 | words,
            ..Entry::default()
        })?;
        let flags = u64::from(id) << 16 | CONTIGUOUS;
        self.call(&Entry {
            opcode: opcode::CREATE_SUBMISSION,
            prp: [self.memory.address(submission), 0],
            words_10: flags << 32 | words,
            ..Entry::default()
        })?;
        Ok(())
    }
}

/// Starts a controller with nothing but its admin queue.
pub(crate) fn start<'a, R: Registers, M: Memory, P: Pause>(
    registers: &'a R,
    memory: &'a M,
    capabilities: Capabilities,
    pause: &'a P,
) -> Result<Admin<'a, R, M, P>, Failure> {
    let admin = adopt(registers, memory, capabilities, pause)?;
    let queues = Plan::ADMIN.map(|place| memory.address(place));
    registers::start(registers, &capabilities, pause, queues, u32::from(ENTRIES))?;
    Ok(admin)
}

/// The admin queue of a controller that runs, both of whose sides are where they were at its start.
pub(crate) fn adopt<'a, R: Registers, M: Memory, P: Pause>(
    registers: &'a R,
    memory: &'a M,
    capabilities: Capabilities,
    pause: &'a P,
) -> Result<Admin<'a, R, M, P>, Failure> {
    let [submission, completion] = Plan::ADMIN;
    for page in [submission, completion, Plan::ANSWER, Plan::ZEROS] {
        memory.clear(page, PAGE).ok_or(Failure::Memory)?;
    }
    let patience_ns = PATIENCE_NS;
    let (tail, head, phase, last) = (0, 0, true, 0);
    Ok(Admin { registers, memory, pause, capabilities, tail, head, phase, last, patience_ns })
}
