//! The console's pure part: how frames look on the serial line ([`wire`]), the line's output buffer
//! ([`Outgoing`]), which log ring has its turn ([`Rings`]), how all guests share the terminal
//! ([`Mux`]), what a person's keys mean ([`Keys`]) and what of that waits for the supervisor
//! ([`Held`]).
//!
//! Nothing here touches a device, so all of it is tested on the host.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod filter;
mod held;
mod keys;
mod mux;
mod notices;
mod outgoing;
mod rings;
mod text;
pub mod wire;

pub use held::Held;
pub use keys::{Key, Keys};
pub use mux::{FILL_MIN, Mux};
pub use notices::{Notice, Notices};
pub use outgoing::Outgoing;
pub use rings::{RINGS_MAX, Rings};
