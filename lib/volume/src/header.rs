//! The header of a table: [`Header`], checked.

use crc::{CRC_32_ISO_HDLC, Crc};

/// The checksum of headers and entries.
pub(crate) static CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Bytes of a header that have a meaning.
const HEADER_MIN: u32 = 92;
/// Bytes of an entry; larger ones are this times a power of two.
const ENTRY_MIN: u32 = 128;
/// Most entries that are looked at.
const ENTRIES_MAX: u32 = 1024;
/// The block of the first header.
pub(crate) const PRIMARY: u64 = 1;

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The disk has too few blocks for one, or its blocks are of an impossible size.
    Disk,
    /// A block could not be read.
    Unreadable,
    /// The header does not begin with the signature.
    NoSignature,
    /// The header has an impossible length.
    HeaderSize,
    /// The header's checksum is another one.
    HeaderChecksum,
    /// The header says that it is in another block.
    WrongPlace,
    /// Usable blocks, or the entries, are beyond the disk or in each other's way.
    Bounds,
    /// Entries are of an impossible size, or too many.
    Entries,
    /// The checksum of the entries is another one.
    EntriesChecksum,
    /// A partition is not in the usable blocks, or ends before it begins.
    Outside,
    /// Two partitions have a block in common.
    Overlap,
    /// There are more partitions than there is room for.
    TooMany,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The usable blocks, both inclusive.
    pub(crate) usable: [u64; 2],
    /// The first block of the entries.
    pub(crate) entries_at: u64,
    /// Number of entries.
    pub(crate) entries: u32,
    /// Bytes of an entry; a block has room for a whole number of them.
    pub(crate) entry_size: u32,
    /// The checksum of all entries.
    pub(crate) checksum: u32,
}

impl Header {
    /// The header in a block, the one of that number of a disk with so many.
    pub(crate) fn parse(block: &[u8], place: u64, blocks: u64) -> Result<Header, Broken> {
        if block.first_chunk() != Some(&SIGNATURE) {
            return Err(Broken::NoSignature);
        }
        let size = u32_at(block, 12).ok_or(Broken::HeaderSize)?;
        let bytes = usize::try_from(size).ok().and_then(|size| block.get(..size));
        let bytes = bytes.filter(|_| size >= HEADER_MIN).ok_or(Broken::HeaderSize)?;
        if checksum(bytes) != u32_at(block, 16) {
            return Err(Broken::HeaderChecksum);
        }
        let header = Header::fields(block).ok_or(Broken::HeaderSize)?;
        if u64_at(block, 24) != Some(place) {
            return Err(Broken::WrongPlace);
        }
        header.check(block, blocks)?;
        Ok(header)
    }

    fn fields(block: &[u8]) -> Option<Header> {
        Some(Header {
            usable: [u64_at(block, 40)?, u64_at(block, 48)?],
            entries_at: u64_at(block, 72)?,
            entries: u32_at(block, 80)?,
            entry_size: u32_at(block, 84)?,
            checksum: u32_at(block, 88)?,
        })
    }

    fn check(&self, block: &[u8], blocks: u64) -> Result<(), Broken> {
        let block_size = u32::try_from(block.len()).map_err(|_| Broken::Disk)?;
        let size = self.entry_size;
        let fits = size >= ENTRY_MIN && size.is_power_of_two() && size <= block_size;
        if !fits || self.entries == 0 || self.entries > ENTRIES_MAX {
            return Err(Broken::Entries);
        }
        let [first, last] = self.usable;
        let end = self.entries_at.checked_add(self.entry_blocks(block_size));
        let end = end.ok_or(Broken::Bounds)?;
        // The entries are behind the first header, and before the usable blocks or behind them.
        let apart = end <= first || self.entries_at > last;
        let inside = self.entries_at > PRIMARY && end <= blocks && last < blocks;
        if first > last || first <= PRIMARY || !apart || !inside {
            return Err(Broken::Bounds);
        }
        Ok(())
    }

    /// Blocks of the entries.
    pub(crate) fn entry_blocks(&self, block_size: u32) -> u64 {
        let bytes = u64::from(self.entries).saturating_mul(u64::from(self.entry_size));
        bytes.div_ceil(u64::from(block_size.max(1)))
    }
}

/// The checksum of a header, in which its own place counts as zero.
fn checksum(header: &[u8]) -> Option<u32> {
    let (before, rest) = header.split_at_checked(16)?;
    let (_, behind) = rest.split_at_checked(4)?;
    let mut digest = CHECKSUM.digest();
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(behind);
    Some(digest.finalize())
}

/// The number at an offset.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
