//! The part of a disk driver's task that all of them share: a driver's `main` makes its disk ready
//! and calls [`serve`].
//!
//! [`Hardware`] is a [`cloister_block::Disk`] that also has interrupts and may fall sick. `open`
//! finds the volumes of the manifest on the disk and the clients that hold them, `scan` reads the
//! disk's table of partitions, and the loop here runs rounds of `cloister_block::Server`. For
//! encrypted volumes a driver brings [`Keys`] (`lib/seal`) and calls [`serve_sealed`]; `erase` is what
//! a vault may want of one in use.
//! Invariant: a client reaches its volume alone; one whose volume is not there or too small is not
//! served, one whose key cannot be had gets a device that needs a reset, and the log says why.

#![no_std]
#![forbid(unsafe_code)]

mod erase;
mod keys;
mod open;
mod own;
mod scan;
mod serve;

pub use keys::{Answer, DATA_OFFSET, HEADER, Keys, NoKeys, Refused};
pub use serve::{Hardware, Memory, Nanoseconds, Pulse, STATUS_NO_CLIENT, serve, serve_sealed};
