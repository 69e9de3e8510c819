//! A driver's buffers in its own memory: [`Buffers`] is a [`Bounce`] for plain and sealed volumes.
//!
//! Payload goes from the client's memory into the driver's or back, page by page where the client's
//! has a page in one piece, else through an array on the stack; that of a sealed volume is encrypted
//! or decrypted on its way by the client's [`Seal`] (`sealed`). Clients are known by number; each
//! has its memory and the address at which the disk would have it. A buffer is a run of free pages,
//! as many as the request has bytes for and as there are side by side. Invariant: see [`Bounce`];
//! bytes outside a client's memory fail the request; nothing of a sealed request is in a buffer in
//! plain text.

use cloister_dma::{Memory, View};
use cloister_guestmem::{GuestPhys, Ram};

use crate::bounce::Bounce;
use crate::disk::{PAGE, Segment};
use crate::engine::CLIENTS_MAX;
use crate::pieces::Pieces;
use crate::request::Request;
use crate::seal::{GROUPS, Plain, Seal};

/// Most pages of a buffer. A larger request goes through one piece by piece.
const BUFFER_PAGES: usize = 4;
/// Most pages of all buffers: a word has a bit for each.
const PAGES_MAX: usize = 64;
/// Bytes of a plain request that are copied at a time.
const CHUNK: usize = 512;

/// A client's memory.
pub(crate) struct Client<R, S> {
    pub(crate) ram: R,
    /// Address of its first byte for the disk.
    pub(crate) base: u64,
    /// The cipher of a sealed volume, and where on the disk the data begin; once its key is here.
    pub(crate) seal: Option<(S, u64)>,
}

/// Which way a plain request's bytes go.
#[derive(Clone, Copy)]
enum Way {
    IntoBuffer,
    OutOfIt,
}

/// Buffers of a driver; `S` is what seals volumes.
pub struct Buffers<M, R, S = Plain> {
    pub(crate) memory: M,
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

    /// A client that was introduced.
    pub(crate) fn client(&self, number: u8) -> Option<&Client<R, S>> {
        self.clients.get(usize::from(number))?.as_ref()
    }

    /// Copies the bytes of a plain request that a buffer stands for.
    fn plain(
        &self,
        (buffer, client): (u8, u8),
        request: &Request,
        (at, len): (u64, u64),
        way: Way,
    ) -> Option<()> {
        let client = self.client(client)?;
        let mut pieces = Pieces::new(request, at, client.base)?;
        let (mut place, mut left) = (self.place(buffer), len);
        while left != 0 {
            let now = left.min(PAGE);
            let (at, here) = pieces.next(now)?;
            if here == PAGE && self.page(&client.ram, at, place, way).is_some() {
                pieces.pass(PAGE)?;
            } else {
                self.chunks(&client.ram, &mut pieces, (place, now), way)?;
            }
            place = place.checked_add(now)?;
            left = left.saturating_sub(now);
        }
        Some(())
    }

    /// Copies a page that lies in one piece; `None` if that cannot be done at once.
    fn page(&self, ram: &R, at: GuestPhys, place: u64, way: Way) -> Option<()> {
        let theirs: View<'_, GROUPS> = ram.view(at)?;
        let ours = self.memory.view(place)?;
        match way {
            Way::IntoBuffer => theirs.copy_to(&ours),
            Way::OutOfIt => ours.copy_to(&theirs),
        }
        Some(())
    }

    /// Copies so many bytes by way of the stack.
    fn chunks(
        &self,
        ram: &R,
        pieces: &mut Pieces<'_>,
        (mut place, len): (u64, u64),
        way: Way,
    ) -> Option<()> {
        let mut chunk = [0; CHUNK];
        pieces.each(len, CHUNK, |at, len| {
            let chunk = chunk.get_mut(..len)?;
            match way {
                Way::IntoBuffer => {
                    ram.read_into(at, chunk).ok()?;
                    self.memory.write(place, chunk)?;
                }
                Way::OutOfIt => {
                    self.memory.read(place, chunk)?;
                    ram.write_from(at, chunk).ok()?;
                }
            }
            place = place.checked_add(u64::try_from(len).ok()?)?;
            Some(())
        })
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
        self.plain((buffer, client), request, (at, len), Way::IntoBuffer).is_some()
    }

    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        if request.is_sealed {
            return self.drain_sealed((buffer, client), request, (at, len)).is_some();
        }
        self.plain((buffer, client), request, (at, len), Way::OutOfIt).is_some()
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
