//! The entropy task's pure part: the generator ([`Pool`]), and one guest's turn ([`Client`]).
//!
//! Nothing here touches a CPU's generator, so all of it is tested on the host.

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

mod client;
mod pool;

pub use client::{Client, OFFER, QUEUE_SIZE, TURN_BYTES, TURN_REQUESTS};
pub use pool::{Pool, SEED_WORDS};
