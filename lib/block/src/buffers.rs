//! A driver's buffers in its own memory: [`Buffers`] is a [`Bounce`] for plain volumes.
//!
//! Payload goes through a small array on the stack, from the client's memory into the driver's or
//! back. Clients are known by number; each has its memory and the address at which the disk would
//! have it. Invariant: see [`Bounce`]; bytes outside a client's memory fail the request.

use cloister_dma::Memory;
use cloister_guestmem::{GuestPhys, Ram};

use crate::bounce::Bounce;
use crate::disk::{PAGE, Segment};
use crate::engine::CLIENTS_MAX;
use crate::request::Request;

/// Bytes of a buffer. A request that needs one goes through it piece by piece.
const BUFFER: u64 = 4 * PAGE;
/// Most buffers: a word has a bit for each.
const BUFFERS_MAX: u64 = 16;
/// Bytes that are copied at a time.
const CHUNK: usize = 512;

/// A client's memory.
#[derive(Clone, Copy, Debug)]
struct Client<R> {
    ram: R,
    /// Address of its first byte for the disk.
    base: u64,
}

/// Buffers of a driver.
pub struct Buffers<M, R> {
    memory: M,
    zeros: u64,
    /// Where the first buffer is.
    first: u64,
    /// One bit for each buffer that is free.
    free: u16,
    clients: [Option<Client<R>>; CLIENTS_MAX],
}

impl<M: Memory, R: Ram> Buffers<M, R> {
    /// As many buffers as the memory has room for from the offset `first` on; a page of zeros is at
    /// `zeros`.
    pub fn new(memory: M, zeros: u64, first: u64) -> Buffers<M, R> {
        let room = memory.len().saturating_sub(first).checked_div(BUFFER).unwrap_or(0);
        let count = u32::try_from(room.min(BUFFERS_MAX)).unwrap_or(0);
        let free = u16::MAX.checked_shl(count).map_or(u16::MAX, |rest| !rest);
        Buffers { memory, zeros, first, free, clients: [const { None }; CLIENTS_MAX] }
    }

    /// How many buffers are free.
    pub fn free(&self) -> u32 {
        self.free.count_ones()
    }

    /// Tells of a client's memory, and at which address the disk has its first byte.
    pub fn introduce(&mut self, client: u8, ram: R, base: u64) {
        if let Some(place) = self.clients.get_mut(usize::from(client)) {
            *place = Some(Client { ram, base });
        }
    }

    /// Where a buffer is in the memory.
    pub fn place(&self, buffer: u8) -> u64 {
        u64::from(buffer).saturating_mul(BUFFER).saturating_add(self.first)
    }

    /// Calls `copy` for each small piece of a request's memory that a buffer stands for, with the
    /// client's memory, the place there, the place in the buffer and room for as many bytes.
    fn each(
        &self,
        (buffer, client): (u8, u8),
        request: &Request,
        (mut skip, mut left): (u64, u64),
        mut copy: impl FnMut(&R, GuestPhys, u64, &mut [u8]) -> Option<()>,
    ) -> Option<()> {
        let client = self.clients.get(usize::from(client))?.as_ref()?;
        let mut chunk = [0; CHUNK];
        let mut to = self.place(buffer);
        for segment in request.segments() {
            let begin = skip.min(segment.len);
            skip = skip.saturating_sub(begin);
            let mut at = segment.address.checked_sub(client.base)?.checked_add(begin)?;
            let mut here = segment.len.saturating_sub(begin).min(left);
            left = left.saturating_sub(here);
            while here != 0 {
                let now = usize::try_from(here).unwrap_or(usize::MAX).min(CHUNK);
                copy(&client.ram, GuestPhys::new(at), to, chunk.get_mut(..now)?)?;
                let now = u64::try_from(now).ok()?;
                (at, to) = (at.checked_add(now)?, to.checked_add(now)?);
                here = here.saturating_sub(now);
            }
        }
        (left == 0).then_some(())
    }
}

impl<M: Memory, R: Ram> Bounce for Buffers<M, R> {
    fn zeros(&self) -> u64 {
        self.memory.address(self.zeros)
    }

    fn take(&mut self) -> Option<(u8, Segment)> {
        let number = u8::try_from(self.free.trailing_zeros()).ok()?;
        let bit = 1u16.checked_shl(number.into())?;
        self.free &= !bit;
        Some((number, Segment { address: self.memory.address(self.place(number)), len: BUFFER }))
    }

    fn fill(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        let copied = self.each((buffer, client), request, (at, len), |ram, from, to, chunk| {
            ram.read_into(from, chunk).ok()?;
            self.memory.write(to, chunk)
        });
        copied.is_some()
    }

    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        let copied = self.each((buffer, client), request, (at, len), |ram, to, from, chunk| {
            self.memory.read(from, chunk)?;
            ram.write_from(to, chunk).ok()
        });
        copied.is_some()
    }

    fn release(&mut self, buffer: u8) {
        self.free |= 1u16.checked_shl(buffer.into()).unwrap_or(0);
    }
}
