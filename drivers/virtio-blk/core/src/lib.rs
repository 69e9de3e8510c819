//! The virtio disk driver's pure part: a virtio block device as a [`cloister_block::Disk`].
//!
//! [`Controller`] brings a device up, watches it and resets it; `structures` finds its registers
//! through the capabilities of its PCI function, `device` is those registers and the `Transport`
//! that the rings of `lib/dma/queue` want, `identity` what a device says of itself, `requests`
//! are those in flight and `request` is what is written into memory for one. Registers are a trait,
//! so that a simulated device runs all of it on the host; `drivers/virtio-blk` has the real ones.
//! Chapters are those of Virtual I/O Device (VIRTIO) Version 1.3.
//!
//! Invariants: a device that an IOMMU need not confine is refused; whatever a device writes is read
//! once and checked. What makes no sense is a [`Fault`], after which the device is reset; nothing it
//! does stops the task.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod controller;
mod device;
mod fault;
mod identity;
mod plan;
mod registers;
mod request;
mod requests;
mod structures;

pub use cloister_block::Pause;
pub use controller::Controller;
pub use fault::{Failure, Fault, Health, Sick, State};
pub use identity::Identity;
pub use plan::{LENGTHS_BYTES, MEMORY_MIN, Plan};
pub use registers::Registers;
