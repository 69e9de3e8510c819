//! How the blocks of a sealed request go through a buffer: encrypted on their way in, decrypted on
//! their way out.
//!
//! A block that lies in one piece of the client's memory goes from one memory to the other through
//! registers alone. One in several pieces, or at an odd address, goes by way of the stack. Invariant:
//! what is in a buffer is encrypted at every moment; each byte of either memory is read at most once.

use cloister_dma::{Memory, Shelf, View};
use cloister_guestmem::Ram;

use crate::buffers::{Buffers, Client};
use crate::disk::{Operation, PAGE};
use crate::pieces::Pieces;
use crate::request::Request;
use crate::seal::{BLOCK, GROUPS, Seal};

/// A block of a sealed request.
struct Sealed<'b, R, S> {
    client: &'b Client<R, S>,
    seal: &'b S,
    /// Its number within the volume.
    number: u64,
    /// Where it is in the driver's memory.
    place: u64,
}

impl<M: Memory, R: Ram, S: Seal> Buffers<M, R, S> {
    /// Calls `work` for each block of a sealed request that a buffer stands for, with the request's
    /// memory from this block on, all of which the call leaves behind.
    #[inline(always)]
    fn sealed(
        &self,
        (buffer, client): (u8, u8),
        request: &Request,
        (at, len): (u64, u64),
        mut work: impl FnMut(&Sealed<'_, R, S>, &mut Pieces<'_>) -> Option<()>,
    ) -> Option<()> {
        let client = self.client(client)?;
        let (seal, from) = client.seal.as_ref()?;
        let first = request.offset.checked_add(at)?.checked_sub(*from)?;
        // A part of a block would be encrypted as something else.
        if (first | len) % PAGE != 0 {
            return None;
        }
        // Zeros have no memory that could be left behind.
        let skip = if request.operation.moves_data() { at } else { 0 };
        let mut pieces = Pieces::new(request, skip, client.base)?;
        let (number, place) = (first.checked_div(PAGE)?, self.place(buffer));
        let mut block = Sealed { client, seal, number, place };
        let mut left = len;
        while left != 0 {
            work(&block, &mut pieces)?;
            block.number = block.number.checked_add(1)?;
            block.place = block.place.checked_add(PAGE)?;
            left = left.saturating_sub(PAGE);
        }
        Some(())
    }

    /// Encrypts what a buffer stands for into it.
    pub(crate) fn fill_sealed(
        &self,
        who: (u8, u8),
        request: &Request,
        range: (u64, u64),
    ) -> Option<()> {
        let is_write = request.operation == Operation::Write;
        self.sealed(who, request, range, |block, pieces| {
            let mut shelf;
            let theirs = if is_write { block.whole(pieces) } else { None };
            let from = match theirs {
                Some(view) => view,
                None => {
                    shelf = Shelf::ZEROS;
                    if is_write {
                        block.gather(pieces, shelf.bytes_mut())?;
                    }
                    shelf.view()
                }
            };
            block.seal.encrypt(block.number, &from, &self.memory.view(block.place)?);
            Some(())
        })
    }

    /// Decrypts what is in a buffer into what it stands for.
    pub(crate) fn drain_sealed(
        &self,
        who: (u8, u8),
        request: &Request,
        range: (u64, u64),
    ) -> Option<()> {
        self.sealed(who, request, range, |block, pieces| {
            let from = self.memory.view(block.place)?;
            let (mut shelf, theirs) = (None, block.whole(pieces));
            let to = match theirs {
                Some(view) => view,
                None => shelf.insert(Shelf::ZEROS).view(),
            };
            block.seal.decrypt(block.number, &from, &to);
            shelf.as_ref().map_or(Some(()), |shelf| block.scatter(pieces, shelf.bytes()))
        })
    }
}

impl<'b, R: Ram, S> Sealed<'b, R, S> {
    /// The view of a block that lies in one piece of the client's memory, which it leaves behind.
    #[inline(always)]
    fn whole(&self, pieces: &mut Pieces<'_>) -> Option<View<'b, GROUPS>> {
        let (at, _) = pieces.next(PAGE).filter(|(_, here)| *here == PAGE)?;
        let view = self.client.ram.view(at)?;
        pieces.pass(PAGE)?;
        Some(view)
    }

    /// Copies the next block out of the client's memory.
    #[cold]
    fn gather(&self, pieces: &mut Pieces<'_>, mut bytes: &mut [u8]) -> Option<()> {
        pieces.each(PAGE, BLOCK, |from, len| {
            let (now, rest) = core::mem::take(&mut bytes).split_at_mut_checked(len)?;
            bytes = rest;
            self.client.ram.read_into(from, now).ok()
        })
    }

    /// Copies the next block into it.
    #[cold]
    fn scatter(&self, pieces: &mut Pieces<'_>, mut bytes: &[u8]) -> Option<()> {
        pieces.each(PAGE, BLOCK, |to, len| {
            let (now, rest) = bytes.split_at_checked(len)?;
            bytes = rest;
            self.client.ram.write_from(to, now).ok()
        })
    }
}
