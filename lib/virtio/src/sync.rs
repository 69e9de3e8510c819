//! The atomics: loom's under `--cfg loom`, core's otherwise, so that the modules that ship are the
//! ones that the interleaving tests run; in the tests of this crate itself those that a death may
//! cut short. Nothing else here knows of either.

#[cfg(test)]
pub(crate) use crate::fuse::AtomicU64;
#[cfg(not(any(loom, test)))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
#[cfg(all(loom, not(test)))]
pub(crate) use loom::sync::atomic::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{Ordering, fence};
