//! What is written into memory for a request ("Block Device": "Device Operation"): [`prepare`], and
//! the buffers of it, [`Chain`].
//!
//! The parts of a slot (`plan`) stay as they are until the request is answered, so that it can be
//! added again after a reset. The note of its pieces of memory is in the device's reach, like what
//! they name.

use cloister_block::{Command, Operation, SEGMENTS_MAX};
use cloister_dma::Memory;
use cloister_dma_queue::{self as queue, Segment};

use crate::identity::SECTOR;
use crate::plan::{HEADER, Plan};

/// Types of requests.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Statuses: it is done, it failed, there is no such request.
pub(crate) const OK: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const UNSUPPORTED: u8 = 2;
/// What stands there until the device writes one.
const NONE: u32 = u32::MAX;

const _: () = assert!(SEGMENTS_MAX + 2 == queue::SEGMENTS_MAX);

/// Writes a slot's header, range and pieces. The number of pieces, and the bytes of data that the
/// device writes; `None` if it is more than the limits allow.
pub(crate) fn prepare(
    memory: &impl Memory,
    slot: u8,
    command: &Command<'_>,
    block_size: u32,
) -> Option<(u8, u32)> {
    let Command { operation, block, blocks, segments } = *command;
    let sectors = block_size / SECTOR;
    let first = block.checked_mul(sectors.into())?;
    let (kind, sector) = match operation {
        Operation::Read => (kind::IN, first),
        Operation::Write => (kind::OUT, first),
        Operation::Flush => (kind::FLUSH, 0),
        Operation::Discard => (kind::DISCARD, 0),
        Operation::Zero => (kind::WRITE_ZEROES, 0),
    };
    let header = Plan::header(slot);
    memory.store_u32(header, kind)?;
    memory.store_u32(header.checked_add(4)?, 0)?;
    memory.store_u64(header.checked_add(8)?, sector)?;
    if matches!(operation, Operation::Discard | Operation::Zero) {
        // First sector, sectors, flags: what is zeroed is not unmapped.
        let range = Plan::range(slot);
        memory.store_u64(range, first)?;
        memory.store_u64(range.checked_add(8)?, blocks.checked_mul(sectors)?.into())?;
    }
    if segments.len() > SEGMENTS_MAX {
        return None;
    }
    let mut bytes = 0u64;
    for (number, segment) in segments.iter().enumerate() {
        let at = Plan::piece(slot, number);
        memory.store_u64(at, segment.address)?;
        memory.store_u64(at.checked_add(8)?, segment.len)?;
        bytes = bytes.checked_add(segment.len)?;
    }
    let read = if operation == Operation::Read { u32::try_from(bytes).ok()? } else { 0 };
    Some((u8::try_from(segments.len()).ok()?, read))
}

/// The buffers of a request.
pub(crate) struct Chain {
    buffers: [Segment; queue::SEGMENTS_MAX],
    /// How many there are, and how many of them the device reads.
    count: usize,
    read: usize,
}

impl Chain {
    /// From what was prepared; the status is cleared.
    pub(crate) fn of(
        memory: &impl Memory,
        slot: u8,
        operation: Operation,
        pieces: u8,
    ) -> Option<Chain> {
        let mut chain =
            Chain { buffers: [Segment::default(); queue::SEGMENTS_MAX], count: 0, read: 0 };
        chain.push(memory.address(Plan::header(slot)), HEADER)?;
        if matches!(operation, Operation::Discard | Operation::Zero) {
            chain.push(memory.address(Plan::range(slot)), HEADER)?;
        }
        chain.read = chain.count;
        for number in 0..usize::from(pieces) {
            let at = Plan::piece(slot, number);
            chain.push(memory.load_u64(at)?, memory.load_u64(at.checked_add(8)?)?)?;
        }
        if operation == Operation::Write {
            chain.read = chain.count;
        }
        memory.store_u32(Plan::status(slot), NONE)?;
        chain.push(memory.address(Plan::status(slot)), 1)?;
        Some(chain)
    }

    fn push(&mut self, address: u64, len: u64) -> Option<()> {
        *self.buffers.get_mut(self.count)? = Segment { address, len };
        self.count = self.count.saturating_add(1);
        Some(())
    }

    /// What the device reads.
    pub(crate) fn read(&self) -> &[Segment] {
        self.buffers.get(..self.read).unwrap_or_default()
    }

    /// What it writes.
    pub(crate) fn written(&self) -> &[Segment] {
        self.buffers.get(self.read..self.count).unwrap_or_default()
    }
}

/// The status of a slot's request.
pub(crate) fn status(memory: &impl Memory, slot: u8) -> Option<u8> {
    let [status, ..] = memory.load_u32(Plan::status(slot))?.to_le_bytes();
    Some(status)
}
