//! The AHCI driver's pure part: a SATA disk as a [`cloister_block::Disk`].
//!
//! [`Controller`] brings a controller and one of its ports up, watches them and recovers from
//! errors; `port` is the port's registers, `commands` are those in flight, `table` what is written
//! into memory for a command, `identify` what a disk says of itself and `log` which command an
//! error was of. Registers and memory are traits, so that a simulated controller runs all of it on
//! the host; `drivers/ahci` has the real ones. Chapters are those of Serial ATA AHCI 1.3.1, with
//! "ATA" before them of ATA/ATAPI Command Set 3.
//!
//! Invariant: whatever a controller or disk writes is read once and checked. What makes no sense is
//! a [`Fault`], after which the controller is reset; nothing it does stops the task.

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

mod commands;
mod controller;
mod fault;
mod host;
mod identify;
mod limits;
mod log;
mod plan;
mod port;
mod recovery;
mod registers;
mod table;

pub use cloister_block::{Pause, Registers};
pub use controller::Controller;
pub use fault::{Failure, Fault, Health, Sick, State};
pub use identify::Identity;
pub use plan::{MEMORY_MIN, Plan};
