//! The atomics of mailboxes and log rings: loom's under `--cfg loom`, core's otherwise, so that the
//! modules that ship are the ones that the interleaving tests run. Nothing else here knows of loom.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
