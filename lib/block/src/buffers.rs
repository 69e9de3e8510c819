//! A driver's buffers in its own memory: [`Buffers`] is a [`Bounce`] for plain and sealed volumes.
//!
//! Payload goes through an array on the stack, from the client's memory into the driver's or back;
//! that of a sealed volume is encrypted or decrypted there, block by block, by the client's
//! [`Seal`]. Clients are known by number; each has its memory and the address at which the disk
//! would have it. A buffer is a run of free pages, as many as the request has bytes for and as there
//! are side by side. Invariant: see [`Bounce`]; bytes outside a client's memory fail the request;
//! nothing of a sealed request is in a buffer in plain text.

use cloister_dma::Memory;
use cloister_guestmem::{GuestPhys, Ram};

use crate::bounce::Bounce;
use crate::disk::{Operation, PAGE, Segment};
use crate::engine::CLIENTS_MAX;
use crate::request::Request;
use crate::seal::{BLOCK, Plain, Seal};

/// Most pages of a buffer. A larger request goes through one piece by piece.
const BUFFER_PAGES: usize = 4;
/// Most pages of all buffers: a word has a bit for each.
const PAGES_MAX: usize = 64;
/// Bytes of a plain request that are copied at a time.
const CHUNK: usize = 512;

/// A client's memory.
struct Client<R, S> {
    ram: R,
    /// Address of its first byte for the disk.
    base: u64,
    /// The cipher of a sealed volume, and where on the disk the data begin; once its key is here.
    seal: Option<(S, u64)>,
}

/// Buffers of a driver; `S` is what seals volumes.
pub struct Buffers<M, R, S = Plain> {
    memory: M,
    zeros: u64,
    /// Where the first page is.
    first: u64,
    /// One bit for each page that is free.
    free: u64,
    /// How many pages the buffer has that begins with this one.
    pages: [u8; PAGES_MAX],
    clients: [Option<Client<R, S>>; CLIENTS_MAX],
}

impl<M: Memory, R: Ram, S: Seal> Buffers<M, R, S> {
    /// As many pages as the memory has room for from the offset `first` on; a page of zeros is at
    /// `zeros`.
    pub fn new(memory: M, zeros: u64, first: u64) -> Buffers<M, R, S> {
        let room = memory.len().saturating_sub(first).checked_div(PAGE).unwrap_or(0);
        let free = u32::try_from(room).ok().and_then(|count| u64::MAX.checked_shl(count));
        let (free, clients) = (free.map_or(u64::MAX, |rest| !rest), [const { None }; CLIENTS_MAX]);
        Buffers { memory, zeros, first, free, pages: [0; PAGES_MAX], clients }
    }

    /// How many pages are free.
    pub fn free(&self) -> u32 {
        self.free.count_ones()
    }

    /// Tells of a client's memory, and at which address the disk has its first byte.
    pub fn introduce(&mut self, client: u8, ram: R, base: u64) {
        if let Some(place) = self.clients.get_mut(usize::from(client)) {
            *place = Some(Client { ram, base, seal: None });
        }
    }

    /// Gives the cipher of a client's volume, whose data begin at the byte `from` of the disk.
    pub fn seal(&mut self, client: u8, seal: S, from: u64) {
        if let Some(Some(client)) = self.clients.get_mut(usize::from(client)) {
            client.seal = Some((seal, from));
        }
    }

    /// Forgets a client's cipher.
    pub fn unseal(&mut self, client: u8) {
        if let Some(Some(client)) = self.clients.get_mut(usize::from(client)) {
            client.seal = None;
        }
    }

    /// Where a buffer is in the memory.
    pub fn place(&self, buffer: u8) -> u64 {
        u64::from(buffer).saturating_mul(PAGE).saturating_add(self.first)
    }

    /// Bits of the free pages that have so many free ones from them on.
    fn runs(&self, pages: usize) -> u64 {
        (1..pages).fold(self.free, |runs, by| {
            runs & u32::try_from(by).ok().and_then(|by| self.free.checked_shr(by)).unwrap_or(0)
        })
    }

    /// Blocks of a sealed request: `work` gets the client, the cipher, the block's number in the
    /// volume, its place in the request, and its place in the memory.
    fn sealed(
        &self,
        (buffer, client): (u8, u8),
        request: &Request,
        (at, len): (u64, u64),
        mut work: impl FnMut(&Client<R, S>, &S, u64, u64, u64) -> Option<()>,
    ) -> Option<()> {
        let client = self.clients.get(usize::from(client))?.as_ref()?;
        let (seal, from) = client.seal.as_ref()?;
        let first = request.offset.checked_add(at)?.checked_sub(*from)?;
        // A part of a block would be encrypted as something else.
        if (first | len) % PAGE != 0 {
            return None;
        }
        let mut done = 0u64;
        while done < len {
            let block = first.checked_add(done)?.checked_div(PAGE)?;
            let to = self.place(buffer).checked_add(done)?;
            work(client, seal, block, at.checked_add(done)?, to)?;
            done = done.checked_add(PAGE)?;
        }
        Some(())
    }

    fn fill_sealed(&self, who: (u8, u8), request: &Request, range: (u64, u64)) -> Option<()> {
        self.sealed(who, request, range, |client, seal, number, at, to| {
            let mut block = [0; BLOCK];
            if request.operation == Operation::Write {
                let mut chunks = block.as_mut_slice();
                client.each(request, (at, PAGE), BLOCK, |ram, from, len| {
                    let (now, rest) = core::mem::take(&mut chunks).split_at_mut_checked(len)?;
                    chunks = rest;
                    ram.read_into(from, now).ok()
                })?;
            }
            seal.encrypt(number, &mut block);
            self.memory.write(to, &block)
        })
    }

    fn drain_sealed(&self, who: (u8, u8), request: &Request, range: (u64, u64)) -> Option<()> {
        self.sealed(who, request, range, |client, seal, number, at, from| {
            let mut block = [0; BLOCK];
            self.memory.read(from, &mut block)?;
            seal.decrypt(number, &mut block);
            let mut chunks = block.as_slice();
            client.each(request, (at, PAGE), BLOCK, |ram, to, len| {
                let (now, rest) = chunks.split_at_checked(len)?;
                chunks = rest;
                ram.write_from(to, now).ok()
            })
        })
    }

    /// Calls `copy` for each small piece of a plain request's memory that a buffer stands for, with
    /// the client's memory, the place there, the place in the buffer and room for as many bytes.
    fn plain(
        &self,
        (buffer, client): (u8, u8),
        request: &Request,
        range: (u64, u64),
        mut copy: impl FnMut(&R, GuestPhys, u64, &mut [u8]) -> Option<()>,
    ) -> Option<()> {
        let client = self.clients.get(usize::from(client))?.as_ref()?;
        let mut chunk = [0; CHUNK];
        let mut to = self.place(buffer);
        client.each(request, range, CHUNK, |ram, at, len| {
            copy(ram, at, to, chunk.get_mut(..len)?)?;
            to = to.checked_add(u64::try_from(len).ok()?)?;
            Some(())
        })
    }
}

impl<R, S> Client<R, S> {
    /// Calls `copy` for each piece of at most `most` bytes of so many bytes of a request's memory
    /// behind the first `skip`, with the client's memory, the place there and the piece's length.
    fn each(
        &self,
        request: &Request,
        (mut skip, mut left): (u64, u64),
        most: usize,
        mut copy: impl FnMut(&R, GuestPhys, usize) -> Option<()>,
    ) -> Option<()> {
        for segment in request.segments() {
            let begin = skip.min(segment.len);
            skip = skip.saturating_sub(begin);
            let mut at = segment.address.checked_sub(self.base)?.checked_add(begin)?;
            let mut here = segment.len.saturating_sub(begin).min(left);
            left = left.saturating_sub(here);
            while here != 0 {
                let now = usize::try_from(here).unwrap_or(usize::MAX).min(most);
                copy(&self.ram, GuestPhys::new(at), now)?;
                let now = u64::try_from(now).ok()?;
                at = at.checked_add(now)?;
                here = here.saturating_sub(now);
            }
        }
        (left == 0).then_some(())
    }
}

impl<M: Memory, R: Ram, S: Seal> Bounce for Buffers<M, R, S> {
    fn zeros(&self) -> u64 {
        self.memory.address(self.zeros)
    }

    fn take(&mut self, len: u64) -> Option<(u8, Segment)> {
        let wanted = usize::try_from(len.div_ceil(PAGE)).unwrap_or(usize::MAX);
        let runs = (1..=wanted.clamp(1, BUFFER_PAGES)).rev().map(|pages| (pages, self.runs(pages)));
        let (pages, runs) = runs.into_iter().find(|(_, runs)| *runs != 0)?;
        let number = u8::try_from(runs.trailing_zeros()).ok()?;
        self.free &= !run(number, pages);
        *self.pages.get_mut(usize::from(number))? = u8::try_from(pages).ok()?;
        let len = PAGE.checked_mul(u64::try_from(pages).ok()?)?;
        Some((number, Segment { address: self.memory.address(self.place(number)), len }))
    }

    fn fill(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        if request.is_sealed {
            return self.fill_sealed((buffer, client), request, (at, len)).is_some();
        }
        let copied = self.plain((buffer, client), request, (at, len), |ram, from, to, chunk| {
            ram.read_into(from, chunk).ok()?;
            self.memory.write(to, chunk)
        });
        copied.is_some()
    }

    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        if request.is_sealed {
            return self.drain_sealed((buffer, client), request, (at, len)).is_some();
        }
        let copied = self.plain((buffer, client), request, (at, len), |ram, to, from, chunk| {
            self.memory.read(from, chunk)?;
            ram.write_from(to, chunk).ok()
        });
        copied.is_some()
    }

    fn release(&mut self, buffer: u8) {
        let pages = self.pages.get(usize::from(buffer)).copied().unwrap_or(0);
        self.free |= run(buffer, usize::from(pages));
    }
}

/// The bits of a buffer's pages.
fn run(first: u8, pages: usize) -> u64 {
    let ones = u32::try_from(pages).ok().and_then(|pages| 1u64.checked_shl(pages)).unwrap_or(0);
    ones.saturating_sub(1).checked_shl(first.into()).unwrap_or(0)
}
