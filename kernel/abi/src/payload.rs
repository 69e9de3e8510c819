//! The payload: everything that is checked before it is used.
//!
//! An image is one ELF file with two loadable segments: the boot stub at [`STUB_BASE`] (at most
//! [`STUB_MAX`] bytes) and the payload at [`PAYLOAD_BASE`]. The payload is a whole number of 4 KiB
//! blocks: block 0 is the [`Header`], then the checksum table (CRC-32C, one `u32` per block that
//! follows the table, padded with zeros to whole blocks), then the content: kernel segments, the
//! system table, task segments. The header's checksum covers the whole of block 0 with the field
//! itself zero; `table_crc` covers the table's blocks. So every byte of the payload is covered.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Physical address of the boot stub.
pub const STUB_BASE: u64 = 0x10_0000;
/// Largest boot stub in the file, in bytes.
pub const STUB_MAX: u64 = 0x8000;
/// Physical address of the payload.
pub const PAYLOAD_BASE: u64 = 0x20_0000;
/// `Header::magic`.
pub const MAGIC: [u8; 8] = *b"CLOISTER";
/// `Header::version`.
pub const VERSION: u32 = 1;
/// Bytes of a checksummed block.
pub const BLOCK: u64 = 4096;
/// Largest payload, in bytes.
pub const PAYLOAD_MAX: u64 = 512 << 20;

/// A kernel segment is executable.
pub const SEGMENT_EXEC: u32 = 1;
/// A kernel segment is writable.
pub const SEGMENT_WRITE: u32 = 2;

/// One loadable part of the kernel.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct KernelSegment {
    /// Virtual address, page aligned.
    pub va: u64,
    /// Offset in the payload, page aligned; unused where `pages` is zero.
    pub offset: u64,
    /// Pages that the file holds.
    pub pages: u32,
    /// Pages of zeroed memory behind them.
    pub zero_pages: u32,
    /// [`SEGMENT_EXEC`], [`SEGMENT_WRITE`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// Block 0 of the payload; the rest of the block is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// CRC-32C of block 0 with this field zero.
    pub header_crc: u32,
    /// Bytes of the whole payload.
    pub payload_len: u64,
    /// Blocks of the checksum table, which begins with block 1.
    pub table_blocks: u32,
    /// CRC-32C of the table's blocks.
    pub table_crc: u32,
    /// Virtual address of the kernel's first instruction.
    pub kernel_entry: u64,
    /// The kernel's segments; unused ones have no pages.
    pub kernel: [KernelSegment; 4],
    /// Offset of the system table in the payload, page aligned.
    pub system_table: u64,
    /// Bytes of the system table.
    pub system_table_len: u64,
    /// GNU build id of the kernel (SHA-1).
    pub kernel_build_id: [u8; 20],
    /// Zero.
    pub reserved: u32,
    /// The appliance's name.
    pub name: [u8; 32],
}
