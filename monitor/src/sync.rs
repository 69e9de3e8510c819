//! The atomics that threads share: loom's under `--cfg loom`, core's otherwise, so that the modules
//! that ship are the ones that the interleaving tests run.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
