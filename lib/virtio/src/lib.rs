//! The device side of virtio: what a monitor and a worker share ([`wire`]), and the rings.
//!
//! The monitor emulates the transport (`monitor/`), the worker works the rings. Neither trusts
//! the guest, and the worker does not trust the monitor.
//!
//! [`Device`] is what a worker holds of one device: it follows the orders on the page and keeps a
//! [`Queue`] for each ring, so that no ring is touched after a reset was answered. Below it,
//! [`Worker`] is the page alone, [`Queue`] a ring alone and [`Chain`] one request. A guest that
//! breaks a rule of a ring gets a dead queue and a device that needs a reset; [`Rule`] has the
//! names. Memory is reached through `cloister_guestmem::Ram`, so that all of this is tested with
//! memories that watch every access.
//!
//! Invariant: what a guest or a monitor writes is read once, checked, and used as a copy; nothing
//! they write makes this code panic, loop without end, or leave RAM.

#![cfg_attr(not(any(loom, test)), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

pub mod block;
mod chain;
#[cfg(test)]
mod deaths;
mod device;
pub mod features;
mod flight;
#[cfg(test)]
mod fuse;
mod packed;
mod queue;
pub mod record;
mod rule;
mod split;
mod sync;
pub mod wire;
mod worker;

pub use chain::{Chain, Pieces};
pub use device::{Change, Device};
pub use queue::{Head, QUEUE_SIZE_MAX, Queue, Record};
pub use rule::Rule;
pub use worker::{Offer, Order, Setup, TooSmall, Worker};
