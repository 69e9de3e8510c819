//! The part of a disk driver's task that all of them share: a driver says what its [`Kind`] of
//! controllers is, makes one, and calls [`drive`].
//!
//! `function` is the controller's life on the bus and in the log, `bus` the registers and the time
//! that its core is given. `open` finds the volumes of the manifest on the disk and the clients that
//! hold them, `scan` reads the disk's table of partitions, and the loop in `serve` runs rounds of
//! `cloister_block::Server`. A program brings [`Keys`]: [`NoKeys`], or those of `lib/seal` for
//! encrypted volumes; `erase` is what a vault may want of one in use, by commands of the driver's
//! `own`.
//! Invariant: a client reaches its volume alone; one whose volume is not there or too small is not
//! served, one whose key cannot be had gets a device that needs a reset, and the log says why.

#![no_std]
#![forbid(unsafe_code)]

mod bus;
mod erase;
mod function;
mod keys;
mod open;
mod own;
mod scan;
mod serve;

pub use bus::{Clock, Registers, off_the_bus, on_the_bus};
pub use function::{Granted, Kind, drive, no_disk, no_grant};
pub use keys::{Answer, DATA_OFFSET, HEADER, Keys, NoKeys, Refused};
pub use serve::{Pulse, STATUS_NO_CLIENT};
