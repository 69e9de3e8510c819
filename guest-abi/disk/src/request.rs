//! A request as a chain of buffers: header, data or range, status (virtio 1.3, "Block Device",
//! "Device Operation").

use core::sync::atomic::Ordering;

use cloister_guest_abi::disk::{BLOCK, ID_BYTES, RANGE_BLOCKS, SECTORS, SEGMENTS, request};

use crate::area::Area;

/// Most buffers of a request: header, data, status.
pub(crate) const PIECES: usize = SEGMENTS as usize + 2;

/// Words of a request's own memory: header, status, range, table.
pub(crate) const SLOT_WORDS: usize = 80;
const HEADER: usize = 0;
const STATUS: usize = 2;
const RANGE: usize = 4;
const TABLE: usize = 8;
const _: () = assert!(TABLE + PIECES * 2 <= SLOT_WORDS);

/// Bytes of the header and of a range.
const HEAD: u32 = 16;
/// What the status is before the device has written it; no status has this number.
const UNWRITTEN: u8 = 0xff;

/// What is asked of a disk. Places and lengths are in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read blocks from here on into the data, which is whole blocks.
    Read {
        /// The first block.
        block: u64,
    },
    /// Write the data, which is whole blocks, to here.
    Write {
        /// The first block.
        block: u64,
    },
    /// Keep everything that was completed.
    Flush,
    /// Give blocks up.
    Discard {
        /// The first block.
        block: u64,
        /// How many.
        blocks: u32,
    },
    /// Make blocks zero.
    WriteZeroes {
        /// The first block.
        block: u64,
        /// How many.
        blocks: u32,
    },
    /// Write the identifier into the data, [`ID_BYTES`] long.
    Id,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub at: u64,
    pub len: u32,
    pub is_written: bool,
}

/// The buffers of a chain.
pub(crate) struct Pieces {
    all: [Piece; PIECES],
    len: usize,
}

impl Pieces {
    pub fn as_slice(&self) -> &[Piece] {
        &self.all[..self.len]
    }

    /// Bytes that the device may write.
    pub fn written(&self) -> u32 {
        self.as_slice().iter().filter(|piece| piece.is_written).map(|piece| piece.len).sum()
    }

    fn push(&mut self, at: u64, len: u32, is_written: bool) -> Option<()> {
        *self.all.get_mut(self.len)? = Piece { at, len, is_written };
        self.len += 1;
        Some(())
    }
}

impl Request {
    /// Whether data of this length belongs to the request; 0 is none.
    pub(crate) fn fits(&self, len: u32) -> bool {
        match self {
            Self::Read { .. } | Self::Write { .. } => {
                len != 0 && u64::from(len).is_multiple_of(BLOCK)
            }
            Self::Id => len as usize == ID_BYTES,
            Self::Flush => len == 0,
            Self::Discard { blocks, .. } | Self::WriteZeroes { blocks, .. } => {
                len == 0 && (1..=RANGE_BLOCKS).contains(blocks)
            }
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Self::Read { .. } => request::READ,
            Self::Write { .. } => request::WRITE,
            Self::Flush => request::FLUSH,
            Self::Discard { .. } => request::DISCARD,
            Self::WriteZeroes { .. } => request::WRITE_ZEROES,
            Self::Id => request::ID,
        }
    }

    /// Writes header, range and status into the request's own memory; the buffers of its chain, of
    /// which those with data have at most `cut` bytes. Nothing if those are too many.
    pub(crate) fn write(&self, slot: &Area<'_>, data: (u64, u32), cut: u32) -> Option<Pieces> {
        let sector = match *self {
            Self::Read { block } | Self::Write { block } => block.wrapping_mul(SECTORS),
            _ => 0,
        };
        slot.store(HEADER, u64::from(self.kind()), Ordering::Relaxed);
        slot.store(HEADER + 1, sector, Ordering::Relaxed);
        slot.store(STATUS, UNWRITTEN.into(), Ordering::Relaxed);
        let place = |word: usize| slot.at() + word as u64 * 8;
        let mut pieces = Pieces { all: [Piece::default(); PIECES], len: 0 };
        pieces.push(place(HEADER), HEAD, false)?;
        if let Self::Discard { block, blocks } | Self::WriteZeroes { block, blocks } = *self {
            let sectors = u64::from(blocks) * SECTORS;
            slot.store(RANGE, block.wrapping_mul(SECTORS), Ordering::Relaxed);
            // No flags: what the device does not zero by giving it up, it writes.
            slot.store(RANGE + 1, sectors, Ordering::Relaxed);
            pieces.push(place(RANGE), HEAD, false)?;
        }
        let is_written = matches!(self, Self::Read { .. } | Self::Id);
        let (mut at, mut left) = data;
        while left > 0 {
            let len = left.min(cut.max(1));
            pieces.push(at, len, is_written).filter(|()| pieces.len < PIECES)?;
            (at, left) = (at.wrapping_add(u64::from(len)), left - len);
        }
        pieces.push(place(STATUS), 1, true)?;
        Some(pieces)
    }
}

/// The table of a request's own, for its chain.
pub(crate) fn table<'m>(slot: &Area<'m>) -> Area<'m> {
    slot.part(TABLE * 8, PIECES * 16)
}

/// The status that the device has written; what has been read before is not looked at again.
pub(crate) fn status(slot: &Area<'_>) -> u8 {
    slot.load(STATUS, Ordering::Relaxed) as u8
}
