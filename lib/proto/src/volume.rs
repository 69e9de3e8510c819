//! What a disk's driver is told of the volumes that it exports: one [`Volume`] per export, in a
//! read-only region that is named `volumes` in the driver's task information.
//!
//! Beside it the information names, for an export `EXPORT` that `CLIENT` holds, the mailbox
//! `EXPORT/CLIENT`, the memory `EXPORT/CLIENT/ram` that requests point into (a guest's RAM, or the
//! window of a broker), the counters `EXPORT/CLIENT/bells` with the number `EXPORT/CLIENT/bell` of
//! the first one, and the in-flight records `EXPORT/CLIENT/inflight`. A window has no doorbells of
//! its own: its counters are words of the mailbox that nobody writes, see [`WINDOW_BELL`].

use cloister_abi::NAME_LEN;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a block: volumes are counted in blocks, whatever the disk's own sectors are.
pub const BLOCK_BYTES: u64 = 4096;
/// Queues of a block device.
pub const QUEUES: u16 = 4;
/// Slots of a queue's in-flight records.
pub const SLOTS: u16 = 128;
/// Bytes of a slot.
pub const SLOT_BYTES: u64 = 1024;
/// Bytes of the in-flight records of one export.
pub const INFLIGHT_BYTES: u64 = QUEUES as u64 * SLOTS as u64 * SLOT_BYTES;
/// A window's first doorbell counter: a 32-bit number in the last words of its mailbox's page,
/// which no side of the wire uses.
pub const WINDOW_BELL: u64 = 1008;
/// Bytes of a partition's name: GPT has 36 UTF-16 code units (UEFI Specification 2.10, "GPT
/// Partition Entry Array"), each of which is at most three bytes of UTF-8.
pub const PARTITION_LEN: usize = 112;
/// Most UTF-16 code units of a partition's name.
pub const PARTITION_UNITS_MAX: usize = 36;

/// The client may write. Without it, writes are refused.
pub const ACCESS_WRITE: u32 = 1;

/// The volume is not encrypted.
pub const CIPHER_NONE: u32 = 0;
/// AES-256-XTS with the block's number in the volume as the tweak.
pub const CIPHER_AES_XTS_256: u32 = 1;

/// Where the data of an encrypted volume begin, in bytes from the volume's own begin; before that
/// is its header.
pub const SEALED_DATA_OFFSET: u64 = 1 << 20;

/// A volume that a driver exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Volume {
    /// The export's name. A record without one is padding.
    pub export: [u8; NAME_LEN],
    /// Name of the GPT partition, UTF-8, padded with zeros; all zero for a fixed extent.
    pub partition: [u8; PARTITION_LEN],
    /// First block of a fixed extent.
    pub first_block: u64,
    /// Blocks of a fixed extent, 0 for a partition.
    pub blocks: u64,
    /// Blocks that the volume has at least, 0 for any number. A smaller one is refused at start.
    pub blocks_min: u64,
    /// Requests in a second at most, 0 for any number.
    pub iops: u64,
    /// Bytes in a second at most, 0 for any number.
    pub bytes_per_second: u64,
    /// [`ACCESS_WRITE`].
    pub access: u32,
    /// [`CIPHER_NONE`] and so on.
    pub cipher: u32,
    /// Name of the driver's grant that the key comes from; all zero without a cipher.
    pub key: [u8; NAME_LEN],
}

const _: () = assert!(size_of::<Volume>().is_multiple_of(8));
const _: () = assert!(INFLIGHT_BYTES == 512 << 10);

impl Volume {
    /// The export's name.
    pub fn export_name(&self) -> &str {
        cloister_abi::name_str(&self.export)
    }

    /// The partition's name; `None` for a fixed extent.
    pub fn partition_name(&self) -> Option<&str> {
        let len = self.partition.iter().position(|byte| *byte == 0).unwrap_or(PARTITION_LEN);
        let name = core::str::from_utf8(self.partition.get(..len)?).ok()?;
        (!name.is_empty()).then_some(name)
    }

    /// The grant that the key comes from; `None` without a cipher.
    pub fn key_name(&self) -> Option<&str> {
        let name = cloister_abi::name_str(&self.key);
        (!name.is_empty()).then_some(name)
    }

    /// Whether the client may write.
    pub fn is_writable(&self) -> bool {
        self.access & ACCESS_WRITE != 0
    }
}
