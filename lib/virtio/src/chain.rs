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
    next: u16,
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
        let mut bytes = [0u8; 16];
        // The whole table was found in RAM before, so neither can fail.
        ram.read_into(at.ok_or(Rule::QueueOutside)?, &mut bytes).map_err(|_| Rule::QueueOutside)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Ok(Descriptor {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([i, j, k, l]),
            flags: u16::from_le_bytes([m, n]),
            next: u16::from_le_bytes([o, p]),
        })
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

    /// Copies bytes that the guest sent, from the one number `offset` on. How many there were:
    /// fewer than `to` has only at the end of the chain.
    pub fn read<M: Ram>(&self, ram: &M, offset: u64, to: &mut [u8]) -> Result<usize, Rule> {
        let readable = self.buffers.get(..self.readable).unwrap_or_default();
        let mut left = to;
        let most = left.len();
        pieces(readable, offset, most, |range| {
            let (now, later) = core::mem::take(&mut left).split_at_mut_checked(length(range))?;
            left = later;
            ram.read_into(range.start(), now).ok()
        })
        .ok_or(Rule::BufferOutside)
    }

    /// Copies bytes to the guest, to the one number `offset` and on. How many: fewer than `from`
    /// has only at the end of the chain.
    pub fn write<M: Ram>(&self, ram: &M, offset: u64, from: &[u8]) -> Result<usize, Rule> {
        let writable = self.buffers.get(self.readable..self.count).unwrap_or_default();
        let mut left = from;
        pieces(writable, offset, from.len(), |range| {
            let (now, later) = left.split_at_checked(length(range))?;
            left = later;
            ram.write_from(range.start(), now).ok()
        })
        .ok_or(Rule::BufferOutside)
    }

    /// Walks the chain that begins with descriptor `head` of a queue's table.
    pub(crate) fn walk<M: Ram>(
        &mut self,
        ram: &M,
        queue: Table,
        head: u16,
        indirect: bool,
    ) -> Result<(), Rule> {
        *self = Chain::default();
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
            index = descriptor.next;
        }
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

/// Calls `copy` for each piece of `buffers` between the bytes `offset` and `offset + most`, in
/// order. How many bytes that were; `None` if `copy` could not go on.
fn pieces(
    buffers: &[Range],
    mut offset: u64,
    most: usize,
    mut copy: impl FnMut(Range) -> Option<()>,
) -> Option<usize> {
    let mut done = 0usize;
    for buffer in buffers {
        let left = u64::try_from(most.saturating_sub(done)).unwrap_or(u64::MAX);
        if left == 0 {
            break;
        }
        match buffer.part(offset, left) {
            Some(piece) if !piece.is_empty() => {
                copy(piece)?;
                done = done.saturating_add(length(piece));
                offset = 0;
            }
            _ => offset = offset.saturating_sub(buffer.len()),
        }
    }
    Some(done)
}
