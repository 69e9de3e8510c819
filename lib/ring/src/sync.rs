//! The atomics of the mailbox: loom's under `--cfg loom`, core's otherwise, so that the module
//! that ships is the one that the interleaving test runs. Nothing else here knows of loom.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
