//! The atomics that the shared words are made of: loom's under `--cfg loom`, core's otherwise.
//!
//! This is the one place in the crate that knows of loom (beside `no_std` in `lib.rs`), so that
//! the modules that ship are the very ones that the interleaving tests run. Loom's atomics cannot
//! be made in a constant; [`const_unless_loom`] lets constructors be `const` where it matters.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Declares a constructor as `const fn`, or as a plain `fn` under loom.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident() -> $ret:ty $body:block) => {
        $(#[$meta])*
        #[cfg(not(loom))]
        $vis const fn $name() -> $ret $body
        $(#[$meta])*
        #[cfg(loom)]
        $vis fn $name() -> $ret $body
    };
}
pub(crate) use const_unless_loom;
