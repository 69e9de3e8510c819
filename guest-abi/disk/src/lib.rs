//! The driver's side of the platform's disk, without hardware: rings, requests, completions.
//!
//! [`Queue`] keeps up to 128 requests in flight on one ring, [`Layout::Split`] or
//! [`Layout::Packed`], in memory that the caller brings as an [`Area`]. It says when the doorbell
//! is to be rung and when nothing more will come without an interrupt; the caller has registers and
//! vectors. [`Geometry`] is what a disk says of itself. Neighbours: `cloister_guest_abi::disk` has
//! the numbers, `guest-abi/rt` binds a queue to a device; the tests work it against `lib/virtio`.
//!
//! Invariant: what a device writes is read once and checked. A request that is completed twice, or
//! was never made, is an error of the device ([`Broken`]) and gives no buffer away.

#![no_std]
#![forbid(unsafe_code)]

mod area;
mod geometry;
mod packed;
mod queue;
mod request;
mod ring;
mod split;

pub use area::Area;
pub use geometry::Geometry;
pub use queue::{Broken, Data, Done, Fault, Queue, RING_BYTES, Refused, SLOT_BYTES, Token};
pub use request::Request;
pub use ring::{Layout, Options};
