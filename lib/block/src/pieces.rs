//! The memory of a request, as its client's memory has it: [`Pieces`].
//!
//! `buffers` and `sealed` walk over it, once for all blocks of a buffer. Invariant: bytes come in
//! their order, each once, and an address that is not the client's ends the walk.

use core::slice::Iter;

use cloister_guestmem::GuestPhys;

use crate::disk::Segment;
use crate::request::Request;

/// A request's memory from some byte on.
pub(crate) struct Pieces<'r> {
    segments: Iter<'r, Segment>,
    /// What is left of the segment that was begun, for the disk.
    now: Segment,
    /// Where the disk would have the first byte of the client's memory.
    base: u64,
}

impl<'r> Pieces<'r> {
    /// The memory behind the first `skip` bytes.
    pub(crate) fn new(request: &'r Request, skip: u64, base: u64) -> Option<Pieces<'r>> {
        let segments = request.segments().iter();
        let mut pieces = Pieces { segments, now: Segment::default(), base };
        pieces.each(skip, usize::MAX, |_, _| Some(()))?;
        Some(pieces)
    }

    /// Goes on to the next segment where one has ended.
    #[inline(always)]
    fn begin(&mut self) -> Option<()> {
        while self.now.len == 0 {
            self.now = *self.segments.next()?;
        }
        Some(())
    }

    /// Where the next bytes are, and how many of them at most `len` are there together.
    #[inline(always)]
    pub(crate) fn next(&mut self, len: u64) -> Option<(GuestPhys, u64)> {
        self.begin()?;
        let at = self.now.address.checked_sub(self.base)?;
        Some((GuestPhys::new(at), self.now.len.min(len)))
    }

    /// Leaves bytes behind that [`Pieces::next`] told of.
    #[inline(always)]
    pub(crate) fn pass(&mut self, len: u64) -> Option<()> {
        self.now.address = self.now.address.checked_add(len)?;
        self.now.len = self.now.len.checked_sub(len)?;
        Some(())
    }

    /// Calls `copy` for each piece of at most `most` bytes of the next `len`, with the place and
    /// the piece's length.
    pub(crate) fn each(
        &mut self,
        mut len: u64,
        most: usize,
        mut copy: impl FnMut(GuestPhys, usize) -> Option<()>,
    ) -> Option<()> {
        while len != 0 {
            let (at, here) = self.next(len)?;
            let now = usize::try_from(here).unwrap_or(usize::MAX).min(most);
            copy(at, now)?;
            let now = u64::try_from(now).ok()?;
            self.pass(now)?;
            len = len.saturating_sub(now);
        }
        Some(())
    }
}
