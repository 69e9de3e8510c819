//! A request as it came from a client, checked: [`Request`].
//!
//! Whoever makes one has checked that it lies in the client's volume and that its memory is as long
//! as its bytes. Offsets are those of the disk. Invariant: no more than [`SEGMENTS_MAX`] pieces.

use crate::disk::{Operation, Segment};

/// Most pieces of memory of a request.
pub const SEGMENTS_MAX: usize = 32;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// The first byte on the disk, a multiple of the block size.
    pub offset: u64,
    /// Bytes, a multiple of the block size.
    pub len: u64,
    /// The disk may not reach its memory: all of it goes through the driver's buffers.
    pub is_private: bool,
    /// Its blocks are encrypted on their way through the buffers: zeros go through them as well, and
    /// nothing is discarded.
    pub is_sealed: bool,
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
}

impl Request {
    /// A request without memory.
    pub const fn new(operation: Operation, offset: u64, len: u64) -> Request {
        let segments = [Segment { address: 0, len: 0 }; SEGMENTS_MAX];
        Request { operation, offset, len, is_private: false, is_sealed: false, segments, count: 0 }
    }

    /// The same as a new one, in place.
    pub fn renew(&mut self, operation: Operation, offset: u64, len: u64, is_private: bool) {
        (self.operation, self.offset, self.len) = (operation, offset, len);
        (self.is_private, self.is_sealed, self.count) = (is_private, false, 0);
    }

    /// Adds a piece of memory; `None` if there are too many.
    pub fn push(&mut self, segment: Segment) -> Option<()> {
        *self.segments.get_mut(self.count)? = segment;
        self.count = self.count.saturating_add(1);
        Some(())
    }

    /// The memory.
    pub fn segments(&self) -> &[Segment] {
        self.segments.get(..self.count).unwrap_or_default()
    }

    /// The byte behind the last.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether two requests have a byte in common.
    pub fn overlaps(&self, other: &Request) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}
