//! Commands and completions as they stand in queues ("Submission Queue Entry", "Completion Queue
//! Entry").

use cloister_dma::Memory;

use crate::registers::halves;

/// Bytes of a submission queue's entry.
const SUBMISSION: u64 = 64;
/// Bytes of a completion queue's entry.
const COMPLETION: u64 = 16;
/// The bit of a completion's status half that changes with each turn of the queue.
const PHASE: u32 = 1 << 16;

/// Operation codes of the NVM command set.
pub(crate) mod opcode {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// The parts of a command that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) namespace: u32,
    pub(crate) prp: [u64; 2],
    /// Command words 10 and 11.
    pub(crate) words_10: u64,
    /// Command word 12.
    pub(crate) word_12: u32,
}

impl Entry {
    /// Writes the command into a queue whose other words are zero.
    pub(crate) fn put(&self, memory: &impl Memory, queue: u64, place: u16, id: u16) -> Option<()> {
        let at = queue.checked_add(u64::from(place).wrapping_mul(SUBMISSION))?;
        let head = u64::from(self.namespace) << 32 | u64::from(id) << 16 | u64::from(self.opcode);
        let [first, second] = self.prp;
        memory.store_u64(at, head)?;
        memory.store_u64(at.wrapping_add(24), first)?;
        memory.store_u64(at.wrapping_add(32), second)?;
        memory.store_u64(at.wrapping_add(40), self.words_10)?;
        memory.store_u64(at.wrapping_add(48), u64::from(self.word_12))
    }
}

/// A completion, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Where it stands.
    at: u64,
    /// How far the controller has read the submission queue.
    pub(crate) head: u16,
    /// The submission queue.
    pub(crate) queue: u16,
    /// The command's identifier.
    pub(crate) id: u16,
    /// Status, 0 for success.
    pub(crate) status: Status,
}

impl Completion {
    /// What the command gives back; asked for before the place is given back to the controller.
    pub(crate) fn result(&self, memory: &impl Memory) -> Option<u32> {
        memory.load_u32(self.at)
    }

    /// The completion in a place of a queue, if it is there in this turn.
    pub(crate) fn take(
        memory: &impl Memory,
        queue: u64,
        place: u16,
        phase: bool,
    ) -> Option<Completion> {
        let at = queue.checked_add(u64::from(place).wrapping_mul(COMPLETION))?;
        // One load: the phase and what it tells of.
        let [third, last] = halves(memory.load_u64(at.wrapping_add(8))?);
        if (last & PHASE != 0) != phase {
            return None;
        }
        cloister_dma::observe();
        let [head, queue] = shorts(third);
        let [id, status] = shorts(last);
        Some(Completion { at, head, queue, id, status: Status(status >> 1) })
    }
}

/// How a command ended ("Status Field").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u16);

impl Status {
    pub(crate) fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Type and code.
    pub(crate) fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether the same command may succeed if it is tried again: the controller does not say that
    /// it will not, and the code is one of those that pass ("Generic Command Status"): data
    /// transfer error, aborts, command interrupted, namespace not ready.
    pub(crate) fn may_pass(self) -> bool {
        const DO_NOT_RETRY: u16 = 1 << 14;
        self.0 & DO_NOT_RETRY == 0 && matches!(self.code(), 0x04 | 0x07 | 0x08 | 0x21 | 0x82)
    }
}

/// The halves of a word, the lower first.
fn shorts(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
