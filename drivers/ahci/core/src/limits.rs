//! What the block server may ask of a disk: [`limits`].

use cloister_block::{Fit, Limits, SEGMENTS_MAX};

use crate::identify::Identity;
use crate::table::PIECE_MAX;

/// Most blocks that one entry of a list of blocks to discard names.
pub(crate) const RANGE_MAX: u64 = 0xffff;
/// Entries of such a list.
pub(crate) const RANGES: u64 = 64;
/// Most blocks of a discard.
const DISCARD_BLOCKS_MAX: u32 = 0xffff * 64;
/// Most blocks of a read or write: the count has 16 bits.
const TRANSFER_MAX: u64 = 0xffff;

/// Nothing, as long as the disk is not known.
pub(crate) const NONE: Limits = Limits {
    block_size: 512,
    blocks: 0,
    bytes_max: 4096,
    segments_max: 1,
    fit: Fit::Any,
    align: 2,
    zero_blocks_max: 0,
    discard_blocks_max: 0,
    write_cache: false,
};

/// The limits of a disk. With no more bytes than a piece may have, no piece has more; zeros are
/// written, because a disk's discarded blocks need not read as such.
pub(crate) fn limits(identity: &Identity) -> Limits {
    let block = u64::from(identity.block_size);
    Limits {
        block_size: identity.block_size,
        blocks: identity.blocks,
        bytes_max: TRANSFER_MAX.saturating_mul(block).min(PIECE_MAX),
        segments_max: SEGMENTS_MAX,
        discard_blocks_max: if identity.has_trim { DISCARD_BLOCKS_MAX } else { 0 },
        write_cache: identity.has_write_cache,
        ..NONE
    }
}
