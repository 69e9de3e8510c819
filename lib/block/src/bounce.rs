//! Buffers of the driver for requests whose memory the disk cannot use: [`Bounce`].
//!
//! That is memory in pieces that no list of the controller can name, and all memory of an encrypted
//! volume, which the disk never reaches. Whoever implements it copies, and encrypts on the way.
//! Invariant: a buffer that was taken is used by one command until it is released.

use crate::disk::Segment;
use crate::request::Request;

/// A few buffers. Each is one piece of whole pages, and no longer than the disk takes at once. What
/// is in the buffer of a sealed request is encrypted.
pub trait Bounce {
    /// Address of a page of zeros, which nobody writes.
    fn zeros(&self) -> u64;

    /// Takes a free buffer for `len` bytes or the first of them: its number, and where it is.
    fn take(&mut self, len: u64) -> Option<(u8, Segment)>;

    /// Copies `len` bytes of a client's request, from its byte `at` on, into a buffer; those of a
    /// request without memory are zeros. `false` if that failed, and so does the request.
    fn fill(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool;

    /// Copies a buffer's first `len` bytes into the memory of a client's request, from its byte
    /// `at` on. `false` if that failed, and so does the request.
    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool;

    /// Gives a buffer back.
    fn release(&mut self, buffer: u8);
}
