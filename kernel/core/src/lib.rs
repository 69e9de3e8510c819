//! The kernel's pure logic: what can be decided without touching hardware.
//!
//! [`signal`] and [`park`] are the cross-core protocol (docs/notes/0002-signals.md), [`sched`] is
//! one core's scheduler (docs/notes/0003-scheduling.md), [`caps`] looks capabilities up, [`table`]
//! and [`validate`] turn the system table's bytes into typed arrays that keep every rule of
//! `cloister_abi::table`. Everything here runs on a plain host under test; nothing here panics on
//! any input, allocates, or is `unsafe`.

#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
// Constructors are constants that the kernel's statics name; a `Default` beside each adds nothing.
#![allow(clippy::new_without_default)]

mod sync;

pub mod caps;
pub mod park;
pub mod sched;
pub mod signal;
pub mod table;
pub mod validate;
