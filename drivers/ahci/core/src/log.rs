//! Which of a queue's commands an error was of: [`Blame`] ("ATA", "NCQ Command Error log").

use cloister_dma::Memory;

/// Bytes of a page of the log.
pub(crate) const PAGE: usize = 512;
/// The log's address.
pub(crate) const ADDRESS: u64 = 0x10;

/// In the first byte: the error was of no command of the queue; the slot otherwise.
const NOT_QUEUED: u8 = 1 << 7;
const SLOT: u8 = 0x1f;

/// A command that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blame {
    pub(crate) slot: u8,
    /// The error register that it would have had by itself.
    pub(crate) error: u8,
}

impl Blame {
    /// Reads the log. `None` if it is broken, or the error was of no command of the queue.
    pub(crate) fn read(memory: &impl Memory, at: u64) -> Option<Blame> {
        let mut bytes = [0; PAGE];
        memory.read(at, &mut bytes)?;
        let [first, _, _, error, ..] = bytes;
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        (first & NOT_QUEUED == 0 && sum == 0).then_some(Blame { slot: first & SLOT, error })
    }
}

/// The error register of a transfer that was damaged on the link.
pub(crate) const LINK_ERROR: u8 = 1 << 7;

/// Whether the same command may succeed if it is tried again: only its transfer was damaged on the
/// link.
pub(crate) fn may_pass(error: u8) -> bool {
    error == LINK_ERROR
}
