//! The rings of a virtio device that this task drives: [`Queue`], around `VirtQueue` of the crate
//! `virtio-drivers`.
//!
//! That crate takes buffers as slices, and asks a `Hal` where the device sees them. Guests' memory
//! is never a slice, and neither is memory that devices write. So a buffer here is a
//! [`Segment`], an address and a length, and what the crate gets is a slice of the same length of
//! [`Lengths`], which nobody reads or writes: it stands for a length and nothing else. The `Hal`
//! (`hand`) tells the device addresses for it. Rings lie in a [`Region`] that is the queue's alone.
//!
//! Invariant: the crate is asked for a chain only if that chain is in flight with as many buffers
//! as it was added with; whatever the device writes beside that is a [`Fault`], and nothing the
//! device writes makes the crate panic or reach beyond its rings.

#![cfg_attr(not(test), no_std)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod hand;
mod lengths;
mod queue;

pub use lengths::Lengths;
pub use queue::{ENTRIES, Fault, Queue, RINGS_BYTES, Refused, SEGMENTS_MAX, Segment};
pub use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
pub use virtio_drivers::{Error, PhysAddr};
