//! One request of a block device: [`Request`].
//!
//! The header stands in the first 16 bytes that the device reads and the status is the last byte
//! that it writes, however the driver cuts the chain into buffers ("Device Operation" of "Block
//! Device", and "Message Framing"). Neighbours: [`Shape`] has the limits, [`crate::Chain`] the
//! bytes. Invariant: a request that [`Parsed::Work`] holds names only blocks of the disk.

use cloister_guestmem::Ram;

use super::config::{Shape, feature};
use crate::chain::{Chain, Pieces};
use crate::rule::Rule;

/// Bytes of the header.
const HEADER: u64 = 16;
/// Bytes of a segment of a discard or write-zeroes request.
const SEGMENT: u64 = 16;
/// Bytes of a device's identity.
pub const IDENTITY_BYTES: usize = 20;

/// Types of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Flag of a segment: its blocks may be unmapped.
const UNMAP: u32 = 1;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was carried out.
    Ok,
    /// It failed.
    Error,
    /// The device does not do this.
    Unsupported,
}

impl Status {
    /// The byte that the driver reads.
    pub const fn byte(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Unsupported => 2,
        }
    }
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Copy blocks to the guest.
    Read,
    /// Copy blocks from the guest.
    Write,
    /// Make stable what was completed before.
    Flush,
    /// The blocks are not needed any more.
    Discard,
    /// The blocks are to read as zeroes.
    WriteZeroes {
        /// They may be unmapped, if they read as zeroes then.
        may_unmap: bool,
    },
    /// Say who the device is: [`IDENTITY_BYTES`] bytes, filled with zeroes.
    Identity,
}

/// The bytes of a chain that are a request's data: how many, behind its header or before its
/// status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// The first of them, as [`Chain::readable`] and [`Chain::writable`] count.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The device writes them, else it reads them.
    pub is_written: bool,
}

impl Data {
    const NONE: Data = Data { offset: 0, len: 0, is_written: false };

    /// Where `len` of the bytes lie, from the one number `offset` on.
    pub fn pieces<'a, const N: usize>(
        &self,
        chain: &'a Chain<N>,
        offset: u64,
        len: u64,
    ) -> Pieces<'a> {
        let len = len.min(self.len.saturating_sub(offset));
        let offset = self.offset.saturating_add(offset);
        if self.is_written { chain.writable(offset, len) } else { chain.readable(offset, len) }
    }
}

/// A request to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub kind: Kind,
    /// The first block; 0 where there are none.
    pub block: u64,
    /// Blocks; 0 for [`Kind::Flush`] and [`Kind::Identity`].
    pub count: u32,
    /// The bytes to be copied, of [`Kind::Read`], [`Kind::Write`] and [`Kind::Identity`].
    pub data: Data,
}

/// What [`Request::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request for the disk.
    Work(Request),
    /// A request that ends here, with this status.
    Done(Status),
}

/// The header, read once.
struct Header {
    kind: u32,
    sector: u64,
}

impl Request {
    /// What the chain wants of a disk of that shape, whose driver has accepted `features`.
    pub fn parse<M: Ram, const N: usize>(
        ram: &M,
        chain: &Chain<N>,
        shape: &Shape,
        features: u64,
    ) -> Result<Parsed, Rule> {
        let header = header(ram, chain)?;
        // Data to be read stand behind the header, data to be written before the status.
        let sent = chain.readable_len().saturating_sub(HEADER);
        let wanted = chain.writable_len().checked_sub(1).ok_or(Rule::BlockStatus)?;
        let has = |feature| features & feature != 0;
        let refused = |status| Ok(Parsed::Done(status));
        match header.kind {
            IN => {
                let data = Data { offset: 0, len: directed(wanted, sent)?, is_written: true };
                Ok(transfer(Kind::Read, &header, data, shape))
            }
            OUT => {
                let data = Data { offset: HEADER, len: directed(sent, wanted)?, is_written: false };
                if shape.is_read_only {
                    return refused(Status::Error);
                }
                Ok(transfer(Kind::Write, &header, data, shape))
            }
            FLUSH if has(feature::FLUSH) => {
                directed(0, sent.max(wanted))?;
                Ok(work(Kind::Flush, 0, 0, Data::NONE))
            }
            GET_ID => {
                let len = directed(wanted, sent)?;
                if usize::try_from(len) != Ok(IDENTITY_BYTES) {
                    return refused(Status::Error);
                }
                Ok(work(Kind::Identity, 0, 0, Data { offset: 0, len, is_written: true }))
            }
            DISCARD if has(feature::DISCARD) => {
                directed(sent, wanted)?;
                segment(ram, chain, sent, (DISCARD, shape))
            }
            WRITE_ZEROES if has(feature::WRITE_ZEROES) => {
                directed(sent, wanted)?;
                segment(ram, chain, sent, (WRITE_ZEROES, shape))
            }
            _ => refused(Status::Unsupported),
        }
    }

    /// Writes the status. The number of bytes that were written is for [`crate::Device::complete`]:
    /// all of them, or, where data are missing, none that the driver could rely on.
    pub fn finish<M: Ram, const N: usize>(
        ram: &M,
        chain: &Chain<N>,
        status: Status,
    ) -> Result<u32, Rule> {
        let at = chain.writable_len().checked_sub(1).ok_or(Rule::BlockStatus)?;
        chain.write(ram, at, &[status.byte()])?;
        let is_whole = status == Status::Ok || at == 0;
        let written = if is_whole { chain.writable_len() } else { 0 };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }
}

fn work(kind: Kind, block: u64, count: u32, data: Data) -> Parsed {
    Parsed::Work(Request { kind, block, count, data })
}

/// The length of the data in their direction, if there are none in the other.
fn directed(len: u64, other: u64) -> Result<u64, Rule> {
    if other == 0 { Ok(len) } else { Err(Rule::BlockDirection) }
}

fn header<M: Ram, const N: usize>(ram: &M, chain: &Chain<N>) -> Result<Header, Rule> {
    let bytes = read(ram, chain, 0)?.ok_or(Rule::BlockHeader)?;
    let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
    let (kind, sector) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(sector));
    Ok(Header { kind, sector })
}

/// Sixteen bytes from the one number `offset` on, if there are so many.
fn read<M: Ram, const N: usize>(
    ram: &M,
    chain: &Chain<N>,
    offset: u64,
) -> Result<Option<[u8; 16]>, Rule> {
    // Most drivers give the header a buffer of its own.
    if let Some(first) = chain.first_readable().filter(|first| offset == 0 && first.len() >= 16) {
        let [low, high] = ram.read_pair(first.start()).map_err(|_| Rule::BufferOutside)?;
        let bytes = u128::from(high) << 64 | u128::from(low);
        return Ok(Some(bytes.to_le_bytes()));
    }
    let mut bytes = [0; 16];
    let len = chain.read(ram, offset, &mut bytes)?;
    Ok((len == bytes.len()).then_some(bytes))
}

/// A request that moves data. The length is to be a multiple of 512 bytes and the sectors are to be
/// on the disk; here both are also whole blocks.
fn transfer(kind: Kind, header: &Header, data: Data, shape: &Shape) -> Parsed {
    let size = u64::from(shape.block_size);
    let count = data.len.checked_div(size).filter(|_| data.len.is_multiple_of(size));
    let extent = count.and_then(|count| extent(header.sector, count, shape));
    match extent {
        Some((block, count)) => work(kind, block, count, data),
        None => Parsed::Done(Status::Error),
    }
}

/// The first block and the number of blocks, if there are some and all are on the disk.
fn extent(sector: u64, count: u64, shape: &Shape) -> Option<(u64, u32)> {
    let unit = u64::from(shape.sectors_per_block());
    let block = sector.checked_div(unit).filter(|_| sector.is_multiple_of(unit))?;
    let end = block.checked_add(count)?;
    let count = u32::try_from(count).ok()?;
    (count != 0 && end <= shape.blocks).then_some((block, count))
}

/// A request with a segment for the blocks that it means.
fn segment<M: Ram, const N: usize>(
    ram: &M,
    chain: &Chain<N>,
    sent: u64,
    (kind, shape): (u32, &Shape),
) -> Result<Parsed, Rule> {
    let refused = |status| Ok(Parsed::Done(status));
    // One segment is offered; a part of one is none.
    let bytes = if sent == SEGMENT { read(ram, chain, HEADER)? } else { None };
    let Some([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) = bytes else {
        return refused(Status::Error);
    };
    let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let sectors = u32::from_le_bytes([i, j, k, l]);
    let flags = u32::from_le_bytes([m, n, o, p]);
    let known = if kind == DISCARD { 0 } else { UNMAP };
    if flags & !known != 0 {
        return refused(Status::Unsupported);
    }
    if shape.is_read_only {
        return refused(Status::Error);
    }
    let (kind, most) = if kind == DISCARD {
        (Kind::Discard, shape.discard_blocks_max)
    } else {
        (Kind::WriteZeroes { may_unmap: flags & UNMAP != 0 }, shape.zeroes_blocks_max)
    };
    let unit = shape.sectors_per_block();
    let count = sectors.checked_div(unit).filter(|_| sectors.is_multiple_of(unit));
    let count = count.filter(|count| *count <= most);
    match count.and_then(|count| extent(sector, u64::from(count), shape)) {
        Some((block, count)) => Ok(work(kind, block, count, Data::NONE)),
        None => refused(Status::Error),
    }
}
