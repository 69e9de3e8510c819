//! The check of a payload, without hardware: what the boot stub runs on memory, and the tests of the
//! build run on every damaged byte of an image.
//!
//! [`check_header`], [`check_table`] and [`Blocks::check`] in this order are the whole check; each
//! takes the checksum as a function, the CPU's instruction in the stub and a table in the build.
//! Invariant: a payload that passes all three has no byte that is not covered by a checksum.

#![no_std]
#![forbid(unsafe_code)]

use cloister_abi::payload::{BLOCK, Header, MAGIC, PAYLOAD_MAX, VERSION};
use core::fmt;
use zerocopy::FromBytes;

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
