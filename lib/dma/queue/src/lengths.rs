//! Bytes that stand for lengths: [`Lengths`].
//!
//! A slice of them says how long a buffer is, which is elsewhere. They are ordinary memory of the
//! task, which no device reaches. Invariant: nobody reads or writes them.

use crate::hand::ANSWERS_MAX;
use crate::queue::{SEGMENTS_MAX, Segment};

/// Bytes that are nothing but long enough.
pub struct Lengths<'m> {
    bytes: &'m mut [u8],
}

/// Slices for the buffers of one chain.
pub(crate) struct Slices<'s> {
    pub(crate) read: [&'s [u8]; ANSWERS_MAX],
    pub(crate) written: [&'s mut [u8]; ANSWERS_MAX],
    /// How many of each there are.
    pub(crate) counts: (usize, usize),
}

impl<'m> Lengths<'m> {
    /// No buffer that devices read can be longer than these bytes, nor can all buffers of a chain
    /// that devices write.
    pub fn new(bytes: &'m mut [u8]) -> Lengths<'m> {
        Lengths { bytes }
    }

    /// Slices as long as these buffers. `None` if there is nothing as long, one is empty, or there
    /// are none or too many.
    pub(crate) fn slices(&mut self, read: &[Segment], written: &[Segment]) -> Option<Slices<'_>> {
        let counts = (read.len(), written.len());
        let total = counts.0.checked_add(counts.1).filter(|total| *total != 0)?;
        if total > SEGMENTS_MAX {
            return None;
        }
        let length = |segment: &Segment| usize::try_from(segment.len).ok().filter(|len| *len != 0);
        let mut longest = 0usize;
        for segment in read {
            longest = longest.max(length(segment)?);
        }
        // What is only read may lie at one place, what is written lies apart: behind it.
        let (shared, mut rest) = self.bytes.split_at_mut_checked(longest)?;
        let shared: &[u8] = shared;
        let mut slices = Slices {
            read: [&[]; ANSWERS_MAX],
            written: core::array::from_fn(|_| Default::default()),
            counts,
        };
        for (slice, segment) in slices.read.iter_mut().zip(read) {
            *slice = shared.get(..length(segment)?)?;
        }
        for (slice, segment) in slices.written.iter_mut().zip(written) {
            let (now, later) = rest.split_at_mut_checked(length(segment)?)?;
            (*slice, rest) = (now, later);
        }
        Some(slices)
    }

    /// Slices of one byte each, for a chain of so many buffers that comes back: how many there are
    /// is all that counts then.
    pub(crate) fn returned(&mut self, (read, written): (usize, usize)) -> Option<Slices<'_>> {
        let one = [Segment { address: 0, len: 1 }; SEGMENTS_MAX];
        self.slices(one.get(..read)?, one.get(..written)?)
    }
}

impl<'s> Slices<'s> {
    /// Those that there are.
    pub(crate) fn both(&mut self) -> (&[&'s [u8]], &mut [&'s mut [u8]]) {
        let written = self.written.get_mut(..self.counts.1).unwrap_or_default();
        (self.read.get(..self.counts.0).unwrap_or_default(), written)
    }
}
