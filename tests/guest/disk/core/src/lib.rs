//! What the disk's micro-guest knows without a disk.
//!
//! [`stamp`] fills a block with its number, a sequence number, the run's generation and a checksum,
//! and tells later what a block holds. [`Model`] says which of the writes a block may hold: the
//! newest that was completed, or one that was under way at the same time. [`Plan`] chooses the next
//! request, the same for the same seed.
//!
//! Invariant: a disk that loses, tears, repeats late or swaps a write is found by the next read of
//! the block; a disk that only chooses an order among concurrent writes never is.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod model;
mod plan;
mod stamp;

pub use model::{Kind, Model, ReadId, Wrong};
pub use plan::{Choice, Limits, Plan};
pub use stamp::{BLOCK, Content, Damaged, content, stamp};
