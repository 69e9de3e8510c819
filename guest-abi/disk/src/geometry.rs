//! What a disk says of itself: [`Geometry`].

use cloister_guest_abi::disk::{CONFIG_BYTES, SECTORS, features};

/// The parts of a disk's configuration that differ, or that a driver has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of the disk.
    pub blocks: u64,
    /// Bytes of a block.
    pub block: u32,
    /// Most buffers of a request's data.
    pub segments: u32,
    /// Queues.
    pub queues: u16,
    /// Most blocks that a request to discard names.
    pub discard: u32,
    /// Most blocks that a request to write zeroes names.
    pub zeroes: u32,
    /// The disk cannot be written.
    pub is_read_only: bool,
}

impl Geometry {
    /// Reads a configuration, of a disk that offers these features (virtio 1.3, "Block Device",
    /// "Device configuration layout").
    pub fn read(config: &[u8; CONFIG_BYTES], offered: u64) -> Self {
        let le32 = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| config[at + byte]));
        let capacity = u64::from(le32(4)) << 32 | u64::from(le32(0));
        let sectors = SECTORS as u32;
        Self {
            blocks: capacity / SECTORS,
            block: le32(20),
            segments: le32(12),
            queues: u16::from_le_bytes([config[34], config[35]]),
            discard: le32(36) / sectors,
            zeroes: le32(48) / sectors,
            is_read_only: offered & features::RO != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_guest_abi::disk;

    #[test]
    fn the_platforms_disk_is_read_back() {
        let blocks = 0x12_3456_789a;
        let geometry = Geometry::read(&disk::config(blocks), features::ALWAYS | features::RO);
        let expected = Geometry {
            blocks,
            block: 4096,
            segments: 32,
            queues: 4,
            discard: 4096,
            zeroes: 4096,
            is_read_only: true,
        };
        assert_eq!(geometry, expected);
        assert!(!Geometry::read(&disk::config(1), features::ALWAYS).is_read_only);
    }
}
