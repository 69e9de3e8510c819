//! One request: [`Chain`], the buffers of a descriptor chain, checked and copied.
//!
//! A chain is walked once, when it is fetched (virtio 1.3, "The Virtqueue Descriptor Table"):
//! every descriptor is copied by one read, and what the guest writes to the table afterwards has
//! no effect. Invariant: all buffers lie in RAM, those to read stand before those to write, and
//! there are at most as many as the queue has descriptors, whatever the table says.

use cloister_guestmem::{GuestPhys, Ram, Range};

use crate::rule::Rule;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: u64 = 16;
/// Most bytes of a chain ("The Virtqueue Descriptor Table", driver requirements).
const BYTES_MAX: u64 = 1 << 32;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A copy of a descriptor.
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    /// Of a split ring the next descriptor, of a packed one the buffer id.
    id: u16,
}

impl Descriptor {
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Descriptors in a row: the queue's own, or an indirect table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) at: GuestPhys,
    pub(crate) len: u16,
    pub(crate) is_indirect: bool,
}

impl Table {
    fn descriptor<M: Ram>(&self, ram: &M, index: u16) -> Result<Descriptor, Rule> {
        if index >= self.len {
            return Err(Rule::NextTooLarge);
        }
        let at = self.at.checked_add(u64::from(index).saturating_mul(DESCRIPTOR));
        let (address, len, last) = fields(ram, at.ok_or(Rule::QueueOutside)?)?;
        let [m, n, o, p] = last;
        let (flags, next) = (u16::from_le_bytes([m, n]), u16::from_le_bytes([o, p]));
        Ok(Descriptor { address, len, flags, id: next })
    }

    /// The table that a descriptor names ("Indirect Descriptors"). The flag that says *write* is
    /// ignored there, as devices must. A chain may have direct buffers before its table; all of
    /// them together are no more than the queue has descriptors.
    fn named_by<M: Ram>(&self, named: &Descriptor, most: u16, ram: &M) -> Result<Table, Rule> {
        if self.is_indirect {
            return Err(Rule::IndirectNested);
        }
        if named.has(NEXT) {
            return Err(Rule::IndirectAndNext);
        }
        let bytes = u64::from(named.len);
        let count = bytes.checked_div(DESCRIPTOR).and_then(|count| u16::try_from(count).ok());
        let len = count.filter(|count| (1..=most).contains(count)).ok_or(Rule::IndirectLength)?;
        if !bytes.is_multiple_of(DESCRIPTOR) {
            return Err(Rule::IndirectLength);
        }
        let at = GuestPhys::new(named.address);
        let range = Range::new(at, bytes).filter(|range| ram.holds(*range));
        range.map(|_| Table { at, len, is_indirect: true }).ok_or(Rule::IndirectOutside)
    }
}

/// A packed ring as a walk sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    pub(crate) ring: GuestPhys,
    pub(crate) size: u16,
    /// Where the chain begins.
    pub(crate) first: u16,
    /// Descriptors that are not in flight.
    pub(crate) free: u16,
    pub(crate) indirect: bool,
}

impl Packing {
    fn descriptor<M: Ram>(&self, ram: &M, index: u16) -> Result<Descriptor, Rule> {
        let at = self.ring.checked_add(u64::from(index).saturating_mul(DESCRIPTOR));
        packed_descriptor(ram, at.ok_or(Rule::QueueOutside)?)
    }
}

fn packed_descriptor<M: Ram>(ram: &M, at: GuestPhys) -> Result<Descriptor, Rule> {
    let (address, len, last) = fields(ram, at)?;
    let [m, n, o, p] = last;
    let (id, flags) = (u16::from_le_bytes([m, n]), u16::from_le_bytes([o, p]));
    Ok(Descriptor { address, len, flags, id })
}

/// Address, length and the two last fields of a descriptor, read once.
fn fields<M: Ram>(ram: &M, at: GuestPhys) -> Result<(u64, u32, [u8; 4]), Rule> {
    // Tables and rings were found in RAM before, so this does not fail.
    let [address, rest] = ram.read_pair(at).map_err(|_| Rule::QueueOutside)?;
    let [a, b, c, d, last @ ..] = rest.to_le_bytes();
    Ok((address, u32::from_le_bytes([a, b, c, d]), last))
}

/// The buffers of one request, at most `N`.
///
/// Reading and writing count bytes from the first one of each kind, as if the buffers were one
/// piece: how a guest cuts a request into buffers means nothing.
#[derive(Clone, Debug)]
pub struct Chain<const N: usize> {
    buffers: [Range; N],
    /// Buffers.
    count: usize,
    /// How many of them are to be read.
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

impl<const N: usize> Default for Chain<N> {
    fn default() -> Self {
        Chain {
            buffers: [Range::EMPTY; N],
            count: 0,
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }
}

impl<const N: usize> Chain<N> {
    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Number of buffers.
    pub fn buffers(&self) -> usize {
        self.count
    }

    /// Where the bytes that the device may read lie: `len` of them from the one number `offset`
    /// on, piece by piece, fewer at the end of the chain. All of it is RAM, no piece is empty.
    pub fn readable(&self, offset: u64, len: u64) -> Pieces<'_> {
        Pieces::new(self.buffers.get(..self.readable).unwrap_or_default(), offset, len)
    }

    /// Where the bytes that the device may write lie, as [`Chain::readable`].
    pub fn writable(&self, offset: u64, len: u64) -> Pieces<'_> {
        let writable = self.buffers.get(self.readable..self.count).unwrap_or_default();
        Pieces::new(writable, offset, len)
    }

    /// The first buffer that the device may read.
    pub(crate) fn first_readable(&self) -> Option<&Range> {
        self.buffers.first().filter(|_| self.readable != 0)
    }

    /// Copies bytes that the guest sent, from the one number `offset` on. How many there were:
    /// fewer than `to` has only at the end of the chain.
    pub fn read<M: Ram>(&self, ram: &M, offset: u64, to: &mut [u8]) -> Result<usize, Rule> {
        let most = to.len();
        let mut left = to;
        for piece in self.readable(offset, bytes(most)) {
            let (now, later) = core::mem::take(&mut left)
                .split_at_mut_checked(length(piece))
                .ok_or(Rule::BufferOutside)?;
            left = later;
            ram.read_into(piece.start(), now).map_err(|_| Rule::BufferOutside)?;
        }
        Ok(most.saturating_sub(left.len()))
    }

    /// Copies bytes to the guest, to the one number `offset` and on. How many: fewer than `from`
    /// has only at the end of the chain.
    pub fn write<M: Ram>(&self, ram: &M, offset: u64, from: &[u8]) -> Result<usize, Rule> {
        let mut left = from;
        for piece in self.writable(offset, bytes(from.len())) {
            let (now, later) = left.split_at_checked(length(piece)).ok_or(Rule::BufferOutside)?;
            left = later;
            ram.write_from(piece.start(), now).map_err(|_| Rule::BufferOutside)?;
        }
        Ok(from.len().saturating_sub(left.len()))
    }

    /// All buffers with the number of those to be read, for a record.
    pub(crate) fn parts(&self) -> (&[Range], usize) {
        (self.buffers.get(..self.count).unwrap_or_default(), self.readable)
    }

    /// Adds a buffer that a record has, by the same rules as one that the guest describes.
    pub(crate) fn restore<M: Ram>(
        &mut self,
        ram: &M,
        range: (u64, u64),
        is_written: bool,
        most: u16,
    ) -> Result<(), Rule> {
        let len = u32::try_from(range.1).map_err(|_| Rule::ChainTooLarge)?;
        let flags = if is_written { WRITE } else { 0 };
        self.push(ram, &Descriptor { address: range.0, len, flags, id: 0 }, most)
    }

    /// Walks the chain that begins with descriptor `head` of a queue's table.
    pub(crate) fn walk<M: Ram>(
        &mut self,
        ram: &M,
        queue: Table,
        head: u16,
        indirect: bool,
    ) -> Result<(), Rule> {
        self.clear();
        let (mut table, mut index) = (queue, head);
        // Each turn adds a buffer, of which there are few, or enters a table, which happens once.
        loop {
            let descriptor = table.descriptor(ram, index)?;
            if descriptor.has(INDIRECT) {
                if !indirect {
                    return Err(Rule::IndirectUnasked);
                }
                (table, index) = (table.named_by(&descriptor, queue.len, ram)?, 0);
                continue;
            }
            self.push(ram, &descriptor, queue.len)?;
            if !descriptor.has(NEXT) {
                return Ok(());
            }
            index = descriptor.id;
        }
    }

    /// Walks the chain whose first descriptor, with these flags, is at `packing.first` of a packed
    /// ring. Its buffer id, and how many descriptors of the ring it has.
    pub(crate) fn walk_packed<M: Ram>(
        &mut self,
        ram: &M,
        packing: &Packing,
        flags: u16,
    ) -> Result<(u16, u16), Rule> {
        self.clear();
        let mut descriptor = packing.descriptor(ram, packing.first)?;
        // The flags were read when the chain was found, and count as they were then.
        descriptor.flags = flags;
        let mut count = 1u16;
        let mut index = packing.first;
        loop {
            if descriptor.has(INDIRECT) {
                if !packing.indirect {
                    return Err(Rule::IndirectUnasked);
                }
                let table = Table { at: packing.ring, len: packing.size, is_indirect: false };
                let table = table.named_by(&descriptor, packing.size, ram)?;
                self.push_table(ram, &table, packing.size)?;
                return Ok((descriptor.id, count));
            }
            self.push(ram, &descriptor, packing.size)?;
            if !descriptor.has(NEXT) {
                return Ok((descriptor.id, count));
            }
            if count >= packing.free {
                return Err(Rule::ChainTooLong);
            }
            count = count.saturating_add(1);
            index = index.saturating_add(1);
            if index >= packing.size {
                index = 0;
            }
            descriptor = packing.descriptor(ram, index)?;
        }
    }

    /// Adds the buffers of a packed ring's indirect table: all entries, in order. Their flags but
    /// the one that says *write* are reserved ("Indirect Flag: Scatter-Gather Support").
    fn push_table<M: Ram>(&mut self, ram: &M, table: &Table, most: u16) -> Result<(), Rule> {
        for index in 0..table.len {
            let at = table.at.checked_add(u64::from(index).saturating_mul(DESCRIPTOR));
            let descriptor = packed_descriptor(ram, at.ok_or(Rule::IndirectOutside)?)?;
            if descriptor.has(INDIRECT) {
                return Err(Rule::IndirectNested);
            }
            self.push(ram, &descriptor, most)?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        (self.count, self.readable) = (0, 0);
        (self.readable_len, self.writable_len) = (0, 0);
    }

    fn push<M: Ram>(&mut self, ram: &M, buffer: &Descriptor, most: u16) -> Result<(), Rule> {
        if self.count >= usize::from(most) {
            return Err(Rule::ChainTooLong);
        }
        let len = u64::from(buffer.len);
        if len == 0 {
            return Err(Rule::BufferEmpty);
        }
        let range = Range::new(GuestPhys::new(buffer.address), len);
        let range = range.filter(|range| ram.holds(*range)).ok_or(Rule::BufferOutside)?;
        if buffer.has(WRITE) {
            self.writable_len = self.writable_len.saturating_add(len);
        } else if self.readable < self.count {
            return Err(Rule::ReadableLast);
        } else {
            self.readable = self.readable.saturating_add(1);
            self.readable_len = self.readable_len.saturating_add(len);
        }
        if self.readable_len.saturating_add(self.writable_len) > BYTES_MAX {
            return Err(Rule::ChainTooLarge);
        }
        *self.buffers.get_mut(self.count).ok_or(Rule::ChainTooLong)? = range;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

fn length(range: Range) -> usize {
    usize::try_from(range.len()).unwrap_or(usize::MAX)
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Pieces of memory, one after the other: what [`Chain::readable`] and [`Chain::writable`] give.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    buffers: core::slice::Iter<'a, Range>,
    /// Bytes to be left out before the first piece.
    skip: u64,
    left: u64,
}

impl<'a> Pieces<'a> {
    fn new(buffers: &'a [Range], skip: u64, left: u64) -> Pieces<'a> {
        Pieces { buffers: buffers.iter(), skip, left }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range;

    fn next(&mut self) -> Option<Range> {
        while self.left != 0 {
            let buffer = self.buffers.next()?;
            if self.skip >= buffer.len() {
                self.skip = self.skip.saturating_sub(buffer.len());
                continue;
            }
            let piece = buffer.part(self.skip, self.left)?;
            self.skip = 0;
            self.left = self.left.saturating_sub(piece.len());
            return Some(piece);
        }
        None
    }
}
