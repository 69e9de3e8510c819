//! Which of the writes a block may hold: [`Model`].
//!
//! A write is under way from its submission to its completion. A block may hold a write unless
//! another one was submitted after that was completed, and is completed itself. A read may return
//! what the block may hold at the read's submission, and every write submitted before the read is
//! completed.

use alloc::vec::Vec;
use core::fmt;

use crate::stamp::{Content, Damaged};

/// What a write does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It puts a stamp there.
    Stamp,
    /// It makes it zero.
    Zero,
    /// It makes it zero or leaves it.
    Discard,
}

/// A read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(u64);

/// A block that holds what it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody wrote this.
    Damaged(Damaged),
    /// An older write, one that was never made, or zeros: of the writes that it may hold, this is
    /// the newest.
    Stale {
        /// What was found.
        found: Content,
        /// The newest write that might be there.
        newest: u64,
    },
    /// The model knows no such write or read: it was completed twice.
    Unknown,
}

/// A write that a block may hold.
#[derive(Clone, Copy, Debug)]
struct Write {
    sequence: u64,
    kind: Kind,
    start: u64,
    end: Option<u64>,
}

impl Write {
    fn gives(&self, content: Content) -> bool {
        match self.kind {
            Kind::Stamp => content == Content::Write(self.sequence),
            Kind::Zero | Kind::Discard => content == Content::Zero,
        }
    }

    /// Whether the block cannot hold it any more because of `other`.
    fn is_behind(&self, other: &Write) -> bool {
        let is_whole = other.kind != Kind::Discard && other.end.is_some();
        is_whole && self.end.is_some_and(|end| end < other.start)
    }
}

#[derive(Clone, Debug)]
struct Read {
    id: ReadId,
    /// Nothing is known of the block.
    is_unknown: bool,
    allowed: Vec<Write>,
}

#[derive(Clone, Debug)]
struct Cell {
    is_unknown: bool,
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// The blocks of a disk.
#[derive(Clone, Debug)]
pub struct Model {
    cells: Vec<Cell>,
    time: u64,
    next_read: u64,
}

impl Model {
    /// So many blocks, of which nothing is known.
    pub fn new(blocks: usize) -> Self {
        let cell = Cell { is_unknown: true, writes: Vec::new(), reads: Vec::new() };
        Self { cells: alloc::vec![cell; blocks], time: 0, next_read: 0 }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.cells.len()
    }

    fn now(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// The write `sequence` of a block is submitted.
    pub fn write(&mut self, block: u64, sequence: u64, kind: Kind) {
        let start = self.now();
        let write = Write { sequence, kind, start, end: None };
        if let Some(cell) = self.cells.get_mut(block as usize) {
            cell.writes.push(write);
            cell.reads.iter_mut().for_each(|read| read.allowed.push(write));
        }
    }

    /// It is completed.
    pub fn written(&mut self, block: u64, sequence: u64) -> Result<(), Wrong> {
        let end = self.now();
        let cell = self.cells.get_mut(block as usize).ok_or(Wrong::Unknown)?;
        let mut open = cell.writes.iter_mut();
        let write = open.find(|write| write.sequence == sequence && write.end.is_none());
        let write = write.ok_or(Wrong::Unknown)?;
        write.end = Some(end);
        let write = *write;
        cell.writes.retain(|other| !other.is_behind(&write));
        cell.is_unknown &= write.kind == Kind::Discard;
        Ok(())
    }

    /// A read of a block is submitted.
    pub fn read(&mut self, block: u64) -> ReadId {
        self.next_read += 1;
        let id = ReadId(self.next_read);
        if let Some(cell) = self.cells.get_mut(block as usize) {
            let read = Read { id, is_unknown: cell.is_unknown, allowed: cell.writes.clone() };
            cell.reads.push(read);
        }
        id
    }

    /// It is completed and has found this.
    pub fn found(
        &mut self,
        block: u64,
        id: ReadId,
        found: Result<Content, Damaged>,
    ) -> Result<(), Wrong> {
        let cell = self.cells.get_mut(block as usize).ok_or(Wrong::Unknown)?;
        let place = cell.reads.iter().position(|read| read.id == id).ok_or(Wrong::Unknown)?;
        let read = cell.reads.swap_remove(place);
        if read.is_unknown {
            return Ok(());
        }
        let found = found.map_err(Wrong::Damaged)?;
        if read.allowed.iter().any(|write| write.gives(found)) {
            return Ok(());
        }
        let newest = read.allowed.iter().map(|write| write.sequence).max().unwrap_or(0);
        Err(Wrong::Stale { found, newest })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Damaged(Damaged::Checksum) => f.write_str("is torn or changed"),
            Self::Damaged(Damaged::Block(block)) => write!(f, "holds block {block}"),
            Self::Damaged(Damaged::Generation(run)) => write!(f, "is of run {run}"),
            Self::Stale { found: Content::Zero, newest } => {
                write!(f, "is zero, not write {newest}")
            }
            Self::Stale { found: Content::Write(write), newest } => {
                write!(f, "holds write {write}, not {newest}")
            }
            Self::Unknown => f.write_str("has a completion that nobody waits for"),
        }
    }
}
