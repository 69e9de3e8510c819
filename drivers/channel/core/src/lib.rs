//! The channel task's pure part: a [`Pipe`] between the virtio consoles of two guests.
//!
//! Nothing here touches a guest but through `cloister_guestmem::Ram`, so all of it is tested on
//! the host.

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

mod end;
mod pipe;

pub use end::{OFFER, QUEUE_SIZE};
pub use pipe::{Pipe, TURN_BYTES, TURN_MESSAGES};
