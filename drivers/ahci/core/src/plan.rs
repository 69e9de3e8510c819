//! Where everything is in the memory that the driver shares with its controller: [`Plan`].
//!
//! The first page has what the controller finds by its registers (the list of commands, the place
//! for what the disk sends), the driver's own command, and room for that one's answer. Behind a page
//! of zeros there is a table for each slot. What is left is not the controller's: the driver has
//! its buffers there.

use cloister_block::SEGMENTS_MAX;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Slots of a command list.
pub(crate) const SLOTS: usize = 32;
/// Bytes of a command's table before its pieces of memory.
pub(crate) const TABLE_HEAD: u64 = 0x80;
/// Bytes of an entry for a piece of memory.
pub(crate) const PIECE: u64 = 16;
/// Bytes of a slot: its table, and half of it for a list of blocks to discard.
const SLOT: u64 = 2048;
/// Where in a slot the list is.
const LIST: u64 = 1024;
/// Least bytes of memory.
pub const MEMORY_MIN: u64 = 2 * PAGE + 32 * SLOT;

/// Most pieces of a command, in the numbers of this file.
const PIECES: u64 = 32;
const _: () = assert!(SEGMENTS_MAX == 32 && TABLE_HEAD + PIECES * PIECE <= LIST);

/// Places in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan;

impl Plan {
    /// The list of commands: 32 heads of 32 bytes, at a multiple of 1 KiB.
    pub(crate) const HEADS: u64 = 0;
    /// What the disk sends, at a multiple of 256 bytes.
    pub(crate) const RECEIVED: u64 = 1024;
    /// The table of the driver's own command.
    pub(crate) const OWN_TABLE: u64 = 1536;
    /// The answer to it, 512 bytes.
    pub(crate) const ANSWER: u64 = 2048;
    /// Bytes that belong to no slot.
    pub(crate) const OWN: u64 = 2 * PAGE;
    /// A page of zeros.
    pub const ZEROS: u64 = PAGE;
    /// Where the memory begins that is not the controller's.
    pub const END: u64 = MEMORY_MIN;

    /// The table of a slot.
    pub(crate) fn table(slot: u8) -> u64 {
        u64::from(slot).saturating_mul(SLOT).saturating_add(Plan::OWN)
    }

    /// The list of blocks to discard that belongs to a slot.
    pub(crate) fn list(slot: u8) -> u64 {
        Plan::table(slot).saturating_add(LIST)
    }
}
