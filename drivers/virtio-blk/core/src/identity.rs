//! What a device says of itself ("Block Device": "Feature bits", "Device configuration layout"):
//! [`Identity`], and what may be asked of it.

use cloister_block::{Fit, Limits, SEGMENTS_MAX};
use cloister_dma_queue::Transport;

use crate::device::Device;
use crate::fault::Failure;
use crate::plan::BYTES_MAX;
use crate::registers::Registers;

/// Features of block devices.
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
/// All that this driver knows.
pub(crate) const WANTED: u64 =
    SIZE_MAX | SEG_MAX | READ_ONLY | BLOCK_SIZE | FLUSH | DISCARD | WRITE_ZEROES;

/// Fields of the configuration.
mod field {
    pub(super) const CAPACITY: u32 = 0;
    pub(super) const SIZE_MAX: u32 = 8;
    pub(super) const SEG_MAX: u32 = 12;
    pub(super) const BLOCK_SIZE: u32 = 20;
    pub(super) const DISCARD_SECTORS_MAX: u32 = 36;
    pub(super) const DISCARD_SEG_MAX: u32 = 40;
    pub(super) const ZEROES_SECTORS_MAX: u32 = 48;
    pub(super) const ZEROES_SEG_MAX: u32 = 52;
}

/// Bytes of a sector, in which the device counts whatever its blocks are.
pub(crate) const SECTOR: u32 = 512;
/// Sizes of blocks.
const BLOCK_MAX: u32 = 4096;
/// Looks at a configuration that changes meanwhile.
const LOOKS_MAX: u32 = 16;
/// Most blocks of a range: bounds the time that one request takes.
const RANGE_BLOCKS_MAX: u32 = 1 << 22;

/// What the block server may ask of nothing, as long as the device is not known.
pub(crate) const NO_LIMITS: Limits = Limits {
    block_size: SECTOR,
    blocks: 0,
    bytes_max: 4096,
    segments_max: 1,
    fit: Fit::Any,
    align: 1,
    zero_blocks_max: 0,
    discard_blocks_max: 0,
    write_cache: false,
};

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// It fails what would change it.
    pub is_read_only: bool,
    /// Most bytes of a piece of memory, and most pieces of a request.
    size_max: u32,
    seg_max: u32,
    /// Most sectors of a range to discard or zero, 0 if it cannot.
    discard_sectors: u32,
    zero_sectors: u32,
    has_flush: bool,
}

impl Identity {
    /// Reads it, all of one generation.
    pub(crate) fn read(
        device: &Device<impl Registers>,
        features: u64,
    ) -> Result<Identity, Failure> {
        for _ in 0..LOOKS_MAX {
            let before = device.read_config_generation();
            let found = Identity::look(device, features);
            if device.read_config_generation() == before {
                return found.ok_or(Failure::Blocks);
            }
        }
        Err(Failure::Changed)
    }

    fn look(device: &Device<impl Registers>, features: u64) -> Option<Identity> {
        // A field is there if its feature was agreed on.
        let field = |feature: u64, field: u32, without: u32| {
            if features & feature == 0 { without } else { device.field(field) }
        };
        let capacity = [0, 4].map(|half| u64::from(device.field(field::CAPACITY | half)));
        let sectors = capacity[0] | capacity[1] << 32;
        let block_size = field(BLOCK_SIZE, field::BLOCK_SIZE, SECTOR);
        let is_size = block_size.is_power_of_two() && (SECTOR..=BLOCK_MAX).contains(&block_size);
        let blocks = sectors.checked_div(u64::from(block_size / SECTOR))?;
        // Bytes of the whole have to be a number.
        let is_disk = blocks != 0 && blocks.checked_mul(block_size.into()).is_some();
        let range = |feature: u64, sectors: u32, segments: u32| {
            if field(feature, segments, 0) == 0 { 0 } else { field(feature, sectors, 0) }
        };
        let identity = Identity {
            blocks,
            block_size,
            is_read_only: features & READ_ONLY != 0,
            size_max: field(SIZE_MAX, field::SIZE_MAX, u32::MAX),
            // Without the feature nothing is known but that a request has memory.
            seg_max: field(SEG_MAX, field::SEG_MAX, 1),
            discard_sectors: range(DISCARD, field::DISCARD_SECTORS_MAX, field::DISCARD_SEG_MAX),
            zero_sectors: range(WRITE_ZEROES, field::ZEROES_SECTORS_MAX, field::ZEROES_SEG_MAX),
            has_flush: features & FLUSH != 0,
        };
        let is_usable = identity.size_max >= block_size && identity.seg_max != 0;
        (is_size && is_disk && is_usable).then_some(identity)
    }

    /// Whether a device that says this now can go on for one that said `self`: it may have grown.
    pub(crate) fn admits(&self, now: &Identity) -> bool {
        now.blocks >= self.blocks && Identity { blocks: self.blocks, ..*now } == *self
    }

    /// The limits. With no more bytes than a piece may have, no piece has more.
    pub(crate) fn limits(&self) -> Limits {
        let sectors_per_block = self.block_size / SECTOR;
        let blocks_of = |sectors: u32| {
            sectors.checked_div(sectors_per_block).unwrap_or(0).min(RANGE_BLOCKS_MAX)
        };
        Limits {
            block_size: self.block_size,
            blocks: self.blocks,
            bytes_max: BYTES_MAX.min(self.size_max.into()),
            segments_max: SEGMENTS_MAX.min(usize::try_from(self.seg_max).unwrap_or(SEGMENTS_MAX)),
            zero_blocks_max: blocks_of(self.zero_sectors),
            discard_blocks_max: blocks_of(self.discard_sectors),
            write_cache: self.has_flush,
            ..NO_LIMITS
        }
    }
}
