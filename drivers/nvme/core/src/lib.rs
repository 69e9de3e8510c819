//! The NVMe driver's pure part: a controller as a [`cloister_block::Disk`].
//!
//! [`Controller`] brings a controller up, watches it and resets it; [`pair`](Pair) is one submission
//! queue with its completion queue, `prp` the lists of memory, `command` what is written into a
//! queue and `identify` what a controller says of itself. [`Physical`] is a controller that sets up
//! those of its virtual functions, which are [`Controller`]s then. Registers and memory are traits, so that
//! a simulated controller runs all of it on the host; `drivers/nvme` has the real ones.
//! Chapters are those of the NVM Express Base Specification 2.0 and the NVM Command Set
//! Specification 1.0.
//!
//! Invariant: whatever a controller writes is read once and checked. What makes no sense is a
//! [`Fault`], after which the controller is reset; nothing it does stops the task.

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

mod admin;
mod command;
mod controller;
mod fault;
mod identify;
mod pair;
mod physical;
mod plan;
mod prp;
mod registers;
mod secondary;

pub use cloister_block::{Pause, Registers};
pub use controller::Controller;
pub use fault::{Failure, Fault, Health, Sick, State};
pub use identify::{Identity, Namespace};
pub use physical::{Physical, QUEUES, VECTORS};
pub use plan::{MEMORY_MIN, OWN_PAGES, PAIR_PAGES, PAIRS_MAX, Plan};
pub use registers::wait_for_physical;
