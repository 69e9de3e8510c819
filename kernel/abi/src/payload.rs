//! The payload: everything that is checked before it is used.
//!
//! An image is one ELF file with two loadable segments: the boot stub at [`STUB_BASE`] (at most
//! [`STUB_MAX`] bytes) and the payload at [`PAYLOAD_BASE`]. The payload is a whole number of 4 KiB
//! blocks: block 0 is the [`Header`], then the checksum table (CRC-32C, one `u32` per block that
//! follows the table, padded with zeros to whole blocks), then the content: kernel segments, the
//! system table, task segments. The header's checksum covers the whole of block 0 with the field
//! itself zero; `table_crc` covers the table's blocks. So every byte of the payload is covered.
//!
//! The check itself ([`check_header`], [`check_table`], [`Blocks::check`]) is here too: the boot
//! stub runs it on memory, the tests of the build run it on every damaged byte.

use core::fmt;
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

/// The first thing that is wrong with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Block 0 is not a header of this version.
    NotAHeader,
    /// Block 0 does not match its checksum.
    Header,
    /// The checksum table does not match its checksum.
    Table,
    /// A block does not match the table.
    Block(u64),
    /// The header's numbers contradict each other.
    Layout(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::NotAHeader => out.write_str("no payload header of this version at 2 MiB"),
            Damage::Header => out.write_str("the payload is damaged: header checksum differs"),
            Damage::Table => out.write_str("the payload is damaged: checksum table differs"),
            Damage::Block(n) => write!(out, "the payload is damaged: block {n} differs"),
            Damage::Layout(what) => write!(out, "the payload header contradicts itself: {what}"),
        }
    }
}

/// Reads and checks block 0. `crc32c` is CRC-32C of a whole number of 64-byte groups, which the
/// boot stub computes with the CPU's instruction and the build with a table.
pub fn check_header(
    first: &[u8; BLOCK as usize],
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<Header, Damage> {
    let (header, _) = Header::read_from_prefix(first).map_err(|_| Damage::NotAHeader)?;
    if header.magic != MAGIC || header.version != VERSION {
        return Err(Damage::NotAHeader);
    }
    let mut copy = *first;
    let at = core::mem::offset_of!(Header, header_crc);
    copy[at..at + 4].fill(0);
    if crc32c(&copy) != header.header_crc {
        return Err(Damage::Header);
    }
    let (len, table_len) = (header.payload_len, u64::from(header.table_blocks) * BLOCK);
    if len % BLOCK != 0 || len > PAYLOAD_MAX || table_len == 0 || table_len + BLOCK > len {
        return Err(Damage::Layout("its lengths"));
    }
    Ok(header)
}

/// The blocks behind the checksum table, each with its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    first: u64,
    sums: &'a [[u8; 4]],
    content: &'a [[u8; BLOCK as usize]],
}

/// Checks the checksum table of a payload whose header was checked.
pub fn check_table<'a>(
    payload: &'a [u8],
    header: &Header,
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<Blocks<'a>, Damage> {
    let lengths = Damage::Layout("its lengths");
    let (blocks, []) = payload.as_chunks() else { return Err(lengths) };
    if payload.len() as u64 != header.payload_len {
        return Err(lengths);
    }
    let first = 1 + header.table_blocks as usize;
    let (head, content) = blocks.split_at_checked(first).ok_or(lengths)?;
    let table = head.get(1..).ok_or(lengths)?.as_flattened();
    if crc32c(table) != header.table_crc {
        return Err(Damage::Table);
    }
    let sums = table.as_chunks().0;
    if sums.len() < content.len() {
        return Err(Damage::Layout("its checksum table is too short"));
    }
    Ok(Blocks { first: first as u64, sums, content })
}

impl Blocks<'_> {
    /// Checks every block.
    pub fn check(&self, crc32c: impl Fn(&[u8]) -> u32) -> Result<(), Damage> {
        for (number, (block, sum)) in (self.first..).zip(self.content.iter().zip(self.sums)) {
            if crc32c(block) != u32::from_le_bytes(*sum) {
                return Err(Damage::Block(number));
            }
        }
        Ok(())
    }

    /// The part that is one block, if there is one of this number (counted from the header).
    pub fn only(&self, number: u64) -> Option<Self> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (content, sums) = (self.content.get(at..=at)?, self.sums.get(at..=at)?);
        Some(Blocks { first: number, sums, content })
    }
}
