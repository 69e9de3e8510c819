//! The console's pure part: how log frames look on the serial line ([`wire`]), the line's output
//! buffer ([`Outgoing`]), and which ring has its turn ([`Rings`]).
//!
//! Nothing here touches a device, so all of it is tested on the host.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod outgoing;
mod rings;
pub mod wire;

pub use outgoing::Outgoing;
pub use rings::{RINGS_MAX, Rings};
