//! Reading a table block by block: [`Scan`].
//!
//! The checksum of the entries is only known at their end, so partitions are
//! collected on the way and count when it is right. Invariant: see the crate.

use crc::Digest;

use crate::header::{Broken, CHECKSUM, Header, PRIMARY};
use crate::table::Table;

/// Least and most bytes of a block.
const BLOCK_MIN: u32 = 512;
const BLOCK_MAX: u32 = 4096;
/// Least blocks of a disk with a table: two headers with entries, and what is before them.
const BLOCKS_MIN: u64 = 6;

enum Stage {
    /// A header is to be read from this block.
    Header(u64),
    /// The entries are to be read.
    Entries(Entries),
    Done(Result<(), Broken>),
}

struct Entries {
    header: Header,
    next: u64,
    /// Bytes of them that were not read.
    left: u64,
    digest: Digest<'static, u32>,
}

/// A scan of a disk for its table.
pub struct Scan {
    block_size: u32,
    blocks: u64,
    stage: Stage,
    /// What is wrong with the table in front, once its copy is tried.
    primary: Option<Broken>,
    table: Table,
}

impl Scan {
    /// A scan of a disk with so many blocks of that size.
    pub fn new(block_size: u32, blocks: u64) -> Scan {
        let is_size = (BLOCK_MIN..=BLOCK_MAX).contains(&block_size) && block_size.is_power_of_two();
        let stage = if is_size && blocks >= BLOCKS_MIN {
            Stage::Header(PRIMARY)
        } else {
            Stage::Done(Err(Broken::Disk))
        };
        Scan { block_size, blocks, stage, primary: None, table: Table::EMPTY }
    }

    /// The block that is wanted next; `None` when the scan has ended.
    pub fn wanted(&self) -> Option<u64> {
        match &self.stage {
            Stage::Header(block) => Some(*block),
            Stage::Entries(entries) => Some(entries.next),
            Stage::Done(_) => None,
        }
    }

    /// Gives the block that was wanted; `None` if it cannot be read.
    pub fn give(&mut self, block: Option<&[u8]>) {
        let size = usize::try_from(self.block_size).ok();
        let block = block.filter(|block| Some(block.len()) == size).ok_or(Broken::Unreadable);
        if let Err(broken) = block.and_then(|block| self.step(block)) {
            self.failed(broken);
        }
    }

    /// The table, or what is wrong with it; with the table comes what is wrong with the one in
    /// front if it is the copy's. `None` before the end.
    pub fn table(&self) -> Option<Result<(&Table, Option<Broken>), Broken>> {
        match &self.stage {
            Stage::Done(Ok(())) => Some(Ok((&self.table, self.primary))),
            Stage::Done(Err(broken)) => Some(Err(*broken)),
            _ => None,
        }
    }

    fn step(&mut self, block: &[u8]) -> Result<(), Broken> {
        match &mut self.stage {
            Stage::Header(place) => {
                let header = Header::parse(block, *place, self.blocks)?;
                let left = u64::from(header.entries).saturating_mul(header.entry_size.into());
                self.table.clear();
                self.stage = Stage::Entries(Entries {
                    header,
                    next: header.entries_at,
                    left,
                    digest: CHECKSUM.digest(),
                });
            }
            Stage::Entries(entries) => {
                let now = usize::try_from(entries.left).unwrap_or(usize::MAX).min(block.len());
                let bytes = block.get(..now).unwrap_or_default();
                entries.digest.update(bytes);
                let size = usize::try_from(entries.header.entry_size).unwrap_or(usize::MAX);
                for entry in bytes.chunks_exact(size) {
                    self.table.add(entry, entries.header.usable)?;
                }
                entries.left = entries.left.saturating_sub(u64::try_from(now).unwrap_or(u64::MAX));
                entries.next = entries.next.saturating_add(1);
                if entries.left == 0 {
                    if entries.digest.clone().finalize() != entries.header.checksum {
                        return Err(Broken::EntriesChecksum);
                    }
                    self.stage = Stage::Done(Ok(()));
                }
            }
            Stage::Done(_) => {}
        }
        Ok(())
    }

    /// Tries the copy at the end, unless that is what failed.
    fn failed(&mut self, broken: Broken) {
        self.stage = match (self.primary, self.blocks.checked_sub(1)) {
            (None, Some(last)) => {
                self.primary = Some(broken);
                Stage::Header(last)
            }
            (first, _) => Stage::Done(Err(first.unwrap_or(broken))),
        };
    }
}
