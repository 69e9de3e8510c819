//! What a block device says of itself: [`Shape`], its feature bits and its configuration.
//!
//! Invariant: a field of the configuration that a feature makes valid is set, others are zero.

use super::SECTOR;

/// Bytes of the configuration ("Device configuration layout"), up to the fields of write zeroes.
pub const CONFIG_BYTES: usize = 60;

/// Feature bits of block devices ("Feature bits").
pub mod feature {
    /// A segment has a largest size.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// A request has a largest number of segments.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// The device has a block size.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The driver can flush.
    pub const FLUSH: u64 = 1 << 9;
    /// The device tells of alignment.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// The driver can discard.
    pub const DISCARD: u64 = 1 << 13;
    /// The driver can write zeroes.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What a disk looks like to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of a block: a power of two, 512 or more. Requests are whole blocks.
    pub block_size: u32,
    /// Most bytes of a segment; 0: no limit is told.
    pub size_max: u32,
    /// Most segments of data in a request.
    pub seg_max: u32,
    /// Whether the driver is told that physical blocks are no larger and one is the best to do.
    pub has_topology: bool,
    /// Number of queues.
    pub queues: u16,
    /// Whether writing is an error.
    pub is_read_only: bool,
    /// Most blocks that one request may discard; 0: discarding is not offered.
    pub discard_blocks_max: u32,
    /// Most blocks that one request may fill with zeroes; 0: that is not offered.
    pub zeroes_blocks_max: u32,
}

impl Shape {
    /// The features of the device; those of the rings come besides.
    pub const fn features(&self) -> u64 {
        const fn given(is_given: bool, feature: u64) -> u64 {
            if is_given { feature } else { 0 }
        }
        let always = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH;
        always
            | given(self.has_topology, feature::TOPOLOGY)
            | given(self.size_max != 0, feature::SIZE_MAX)
            | given(self.is_read_only, feature::RO)
            | given(self.queues > 1, feature::MQ)
            | given(self.discard_blocks_max != 0, feature::DISCARD)
            | given(self.zeroes_blocks_max != 0, feature::WRITE_ZEROES)
    }

    /// The configuration space.
    pub fn config(&self) -> [u8; CONFIG_BYTES] {
        let sectors = |blocks: u32| blocks.saturating_mul(self.sectors_per_block());
        // One segment each: a request that discards or zeroes is one range of blocks.
        let segments = |blocks: u32| u32::from(blocks != 0);
        let capacity = self.blocks.saturating_mul(u64::from(self.sectors_per_block()));
        let mut config = [0; CONFIG_BYTES];
        let discard = self.discard_blocks_max;
        let alignment = if discard == 0 { 0 } else { self.sectors_per_block() };
        let zeroes = self.zeroes_blocks_max;
        put(&mut config, 0, &capacity.to_le_bytes());
        put(&mut config, 8, &self.size_max.to_le_bytes());
        put(&mut config, 12, &self.seg_max.to_le_bytes());
        put(&mut config, 20, &self.block_size.to_le_bytes());
        let best = u8::from(self.has_topology);
        put(&mut config, 26, &u16::from(best).to_le_bytes());
        put(&mut config, 28, &u32::from(best).to_le_bytes());
        put(&mut config, 34, &if self.queues > 1 { self.queues } else { 0 }.to_le_bytes());
        put(&mut config, 36, &sectors(discard).to_le_bytes());
        put(&mut config, 40, &segments(discard).to_le_bytes());
        put(&mut config, 44, &alignment.to_le_bytes());
        put(&mut config, 48, &sectors(zeroes).to_le_bytes());
        put(&mut config, 52, &segments(zeroes).to_le_bytes());
        // Zeroes are written out and nothing is unmapped, so byte 56 stays zero.
        config
    }

    pub(super) const fn sectors_per_block(&self) -> u32 {
        self.block_size / SECTOR
    }
}

fn put(config: &mut [u8; CONFIG_BYTES], offset: usize, bytes: &[u8]) {
    for (to, from) in config.iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}
