//! Where everything is in the memory that the driver shares with its device: [`Plan`].
//!
//! The rings have a region of their own (`lib/dma/queue`). Here a page of zeros comes first, then a
//! place for each slot: the request's header, a range to discard or zero, the status, and the pieces
//! of memory, which are the driver's own note. What is left is not the device's: the driver has its
//! buffers there.

use cloister_block::SEGMENTS_MAX;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Requests in flight: a word has a bit for each.
pub(crate) const SLOTS: usize = 64;
/// Bytes of a slot.
const SLOT: u64 = 1024;
/// Most bytes of a read or write.
pub(crate) const BYTES_MAX: u64 = 64 << 10;
/// Bytes of a header, and of a range.
pub(crate) const HEADER: u64 = 16;
/// Least bytes of memory, beside the rings.
pub const MEMORY_MIN: u64 = PAGE + 64 * SLOT;
/// Bytes that stand for lengths: a header and the data, or the data and a status.
pub const LENGTHS_BYTES: usize = (64 << 10) + 32;

/// Bytes of the note of a piece of memory.
const NOTE: u64 = 16;
/// Most pieces, in the numbers of this file.
const PIECES: u64 = 32;
const _: () = assert!(SEGMENTS_MAX == 32 && SLOTS == 64 && 512 + PIECES * NOTE <= SLOT);

/// Places in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan;

impl Plan {
    /// A page of zeros.
    pub const ZEROS: u64 = 0;
    /// Where the memory begins that is not the device's.
    pub const END: u64 = MEMORY_MIN;

    /// The header of a slot's request.
    pub(crate) fn header(slot: u8) -> u64 {
        u64::from(slot).saturating_mul(SLOT).saturating_add(PAGE)
    }

    /// The range of one that discards or zeroes.
    pub(crate) fn range(slot: u8) -> u64 {
        Plan::header(slot).saturating_add(HEADER)
    }

    /// The status.
    pub(crate) fn status(slot: u8) -> u64 {
        Plan::range(slot).saturating_add(HEADER)
    }

    /// The note of one of its pieces of memory: address, length.
    pub(crate) fn piece(slot: u8, number: usize) -> u64 {
        let number = u64::try_from(number).unwrap_or(PIECES).min(PIECES);
        Plan::header(slot).saturating_add(512).saturating_add(number.saturating_mul(NOTE))
    }
}
