//! A command as it stands in memory ("Command List Structure", "Command Table"): [`Order`] is what
//! the disk gets, [`head`] and [`pieces`] say where the controller finds the rest.
//!
//! Pieces of memory begin at even addresses, have an even number of bytes and no more than 4 MiB;
//! the limits of the disk say so to the block server.

use cloister_block::Segment;
use cloister_dma::Memory;

use crate::plan::{PIECE, Plan, TABLE_HEAD};

/// Bytes of a head.
const HEAD: u64 = 32;
/// In a head: words of the order, the command moves memory to the disk.
const ORDER_WORDS: u32 = 5;
const TO_DISK: u32 = 1 << 6;
/// An order's first bytes: a structure from host to device, which is a command.
const HOST_TO_DEVICE: u8 = 0x27;
const IS_COMMAND: u8 = 0x80;
/// Device register: addresses are blocks.
const BLOCKS: u8 = 0x40;
/// Most bytes of a piece.
pub(crate) const PIECE_MAX: u64 = 4 << 20;

/// Codes of commands ("ATA", "Command codes").
pub(crate) mod code {
    pub(crate) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(crate) const READ: u8 = 0x25;
    pub(crate) const READ_LOG: u8 = 0x2f;
    pub(crate) const WRITE: u8 = 0x35;
    pub(crate) const READ_QUEUED: u8 = 0x60;
    pub(crate) const WRITE_QUEUED: u8 = 0x61;
    pub(crate) const FLUSH: u8 = 0xea;
    pub(crate) const IDENTIFY: u8 = 0xec;
}

/// The registers of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) code: u8,
    pub(crate) features: u16,
    pub(crate) block: u64,
    pub(crate) count: u16,
}

impl Order {
    /// Writes the order into a table.
    pub(crate) fn put(&self, memory: &impl Memory, table: u64) -> Option<()> {
        let [features, features_high] = self.features.to_le_bytes();
        let [a, b, c, d, e, f, _, _] = self.block.to_le_bytes();
        let [count, count_high] = self.count.to_le_bytes();
        let bytes = [
            [HOST_TO_DEVICE, IS_COMMAND, self.code, features],
            [a, b, c, BLOCKS],
            [d, e, f, features_high],
            [count, count_high, 0, 0],
            [0; 4],
        ];
        memory.write(table, bytes.as_flattened())
    }
}

/// Writes the head of a slot: its table has so many pieces.
pub(crate) fn head(
    memory: &impl Memory,
    slot: u8,
    table: u64,
    pieces: u16,
    to_disk: bool,
) -> Option<()> {
    let at = Plan::HEADS.checked_add(u64::from(slot).checked_mul(HEAD)?)?;
    let direction = if to_disk { TO_DISK } else { 0 };
    memory.store_u32(at, u32::from(pieces) << 16 | direction | ORDER_WORDS)?;
    // Bytes that were moved: the controller counts them here.
    memory.store_u32(at.checked_add(4)?, 0)?;
    memory.store_u64(at.checked_add(8)?, memory.address(table))?;
    memory.clear(at.checked_add(16)?, 16)
}

/// Writes a table's pieces of memory; how many there are. `None` if one of them is odd or too
/// large, or there is no room for all.
pub(crate) fn pieces(memory: &impl Memory, table: u64, segments: &[Segment]) -> Option<u16> {
    let mut at = table.checked_add(TABLE_HEAD)?;
    for segment in segments {
        let is_odd = (segment.address | segment.len) & 1 != 0;
        if is_odd || segment.len == 0 || segment.len > PIECE_MAX {
            return None;
        }
        memory.store_u64(at, segment.address)?;
        let last = u32::try_from(segment.len.checked_sub(1)?).ok()?;
        memory.store_u64(at.checked_add(8)?, u64::from(last) << 32)?;
        at = at.checked_add(PIECE)?;
    }
    u16::try_from(segments.len()).ok()
}
