//! The disk that every guest sees, whatever stands behind it: NVMe, SATA, a virtio disk of the
//! host or memory (virtio 1.3, "Block Device").
//!
//! Everything but the capacity and whether it may be written is fixed here, so that a guest which
//! has probed one disk has probed them all.

/// Device type.
pub const KIND: u16 = 2;
/// Queues; each takes all kinds of requests.
pub const QUEUES: u16 = 4;
/// Descriptors of each queue.
pub const QUEUE_SIZE: u16 = 128;
/// Bytes of a block: requests begin and end at multiples of it.
pub const BLOCK: u64 = 4096;
/// Bytes of the unit in which capacity and places are counted.
pub const SECTOR: u64 = 512;
/// Sectors of a block.
pub const SECTORS: u64 = BLOCK / SECTOR;
/// Most buffers of a request's data.
pub const SEGMENTS: u32 = 32;
/// Most blocks that one request to discard, or to write zeroes, names.
pub const RANGE_BLOCKS: u32 = 4096;
/// Bytes of the identifier that a request for it is answered with, zeros behind the name.
pub const ID_BYTES: usize = 20;

/// Feature bits (virtio 1.3, "Block Device", "Feature bits", and "Reserved Feature Bits").
pub mod features {
    /// The configuration says how many buffers a request has at most.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk cannot be written; the only feature that differs between disks.
    pub const RO: u64 = 1 << 5;
    /// The configuration says how long a block is.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Completed writes may be in a cache until a flush has completed.
    pub const FLUSH: u64 = 1 << 9;
    /// There are several queues.
    pub const MQ: u64 = 1 << 12;
    /// Blocks can be given up. Their content is then what it was, or zero.
    pub const DISCARD: u64 = 1 << 13;
    /// Blocks can be made zero without sending zeros.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// A request may be described by a table of its own.
    pub const INDIRECT: u64 = 1 << 28;
    /// Either side says from which index on it wants to hear.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is no legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are translated by the platform.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Rings may be packed.
    pub const RING_PACKED: u64 = 1 << 34;

    /// What the block device itself always offers.
    pub const DISK: u64 = SEG_MAX | BLK_SIZE | FLUSH | MQ | DISCARD | WRITE_ZEROES;
    /// What its rings always offer.
    pub const RINGS: u64 = INDIRECT | EVENT_IDX | RING_PACKED;
    /// What every disk offers.
    pub const ALWAYS: u64 = DISK | RINGS | VERSION_1 | ACCESS_PLATFORM;
}

/// Kinds of requests (virtio 1.3, "Block Device", "Device Operation").
pub mod request {
    /// The device writes the data.
    pub const READ: u32 = 0;
    /// The device reads the data.
    pub const WRITE: u32 = 1;
    /// What was completed before is to be kept.
    pub const FLUSH: u32 = 4;
    /// The device writes the identifier.
    pub const ID: u32 = 8;
    /// The data is a range to be given up.
    pub const DISCARD: u32 = 11;
    /// The data is a range to be made zero.
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request ended: the last byte that the device writes.
pub mod status {
    /// It was done.
    pub const OK: u8 = 0;
    /// The disk failed, or the place is not on it, or it cannot be written.
    pub const IO_ERROR: u8 = 1;
    /// The device does not know such a request.
    pub const UNSUPPORTED: u8 = 2;
}

/// Bytes of the configuration that mean something.
pub const CONFIG_BYTES: usize = 60;

/// The configuration of a disk with so many blocks. A capacity that cannot be counted in sectors
/// is cut off.
pub const fn config(blocks: u64) -> [u8; CONFIG_BYTES] {
    let range = RANGE_BLOCKS * SECTORS as u32;
    let [a, b, c, d, e, f, g, h] = blocks.saturating_mul(SECTORS).to_le_bytes();
    let [i, j, k, l] = SEGMENTS.to_le_bytes();
    let [m, n, o, p] = (BLOCK as u32).to_le_bytes();
    let [q, r] = QUEUES.to_le_bytes();
    let [s, t, u, v] = range.to_le_bytes();
    let [w, x, y, z] = (SECTORS as u32).to_le_bytes();
    #[rustfmt::skip]
    let bytes = [
        // Capacity; size_max, which is not offered; seg_max; geometry, which is not offered.
        a, b, c, d, e, f, g, h, 0, 0, 0, 0, i, j, k, l, 0, 0, 0, 0,
        // Block size; topology and writeback, which are not offered; queues.
        m, n, o, p, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, q, r,
        // Discard: sectors and ranges in a request, alignment in sectors.
        s, t, u, v, 1, 0, 0, 0, w, x, y, z,
        // Zeroes: sectors and ranges in a request. They are written: no block is given up.
        s, t, u, v, 1, 0, 0, 0, 0, 0, 0, 0,
    ];
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of the specification's own structure.
    #[test]
    fn every_field_is_where_the_specification_has_it() {
        let config = config(0x1122_3344);
        let le32 = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| config[at + i]));
        assert_eq!(config[..8], (0x1122_3344u64 * 8).to_le_bytes());
        for (at, expected) in
            [(8, 0), (12, 32), (16, 0), (20, 4096), (24, 0), (28, 0), (36, 32768), (40, 1)]
        {
            assert_eq!(le32(at), expected, "the field at {at}");
        }
        assert_eq!(config[32..36], [0, 0, 4, 0], "writeback, unused, queues");
        assert_eq!([44, 48, 52, 56].map(le32), [8, 32768, 1, 0]);
    }

    #[test]
    fn a_capacity_beyond_all_sectors_does_not_wrap() {
        assert_eq!(config(u64::MAX)[..8], [0xff; 8]);
    }

    #[test]
    fn the_kinds_of_features_do_not_overlap() {
        assert_eq!(features::DISK & features::RINGS, 0);
        assert_eq!(features::ALWAYS & features::RO, 0);
        assert_eq!(features::ALWAYS.count_ones(), 11);
    }
}
