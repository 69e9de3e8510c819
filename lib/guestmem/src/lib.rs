//! A guest's RAM as a worker sees it: bounds-checked copies, never a reference to guest bytes.
//!
//! [`GuestPhys`] and [`Range`] are guest-physical addresses and pieces of memory that cannot wrap;
//! [`Ram`] is what may be done with a guest's memory, [`GuestMemory`] does it to a mapping, and
//! [`Guest`] keeps what was read out of logs. Only RAM is here: guest-physical 0 up to its size,
//! so no access of a worker reaches the address of a virtual device.
//!
//! Neighbours: `lib/rt` makes a [`GuestMemory`] of a grant, `lib/virtio` works rings through
//! [`Ram`], whose tests bring memories of their own. Invariant: the guest changes its RAM whenever
//! it likes, so every access is a copy by value, made once; docs/soundness/guestmem.md.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod address;
mod guest;
mod memory;

pub use address::{GuestPhys, Range};
pub use guest::Guest;
pub use memory::{BadAddress, CopyWords, GuestMemory, Ram};
