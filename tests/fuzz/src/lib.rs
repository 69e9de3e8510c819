//! Fuzz targets: whatever bytes say, the rules of a device, a ring or a format hold.
//!
//! A [`Target`] is a function of bytes and nothing else, so that any engine can drive it: it reads
//! the bytes as a list of accesses ([`Input`]), does them, and asserts after each what must hold.
//! The [`engine`] of this crate is the one that CI runs: seeded and in-process, on stable Rust. It
//! has no view of the code's branches; instead a target says with [`mark`] which deep places it
//! has come to, the engine breeds from inputs that came somewhere first, and a run fails if a
//! place of [`Target::reaches`] was not seen. A coverage-guided engine needs one line for each
//! target, which calls [`Target::run`].
//!
//! Neighbours: `targets` has one module for each target, `corpus/` the seeds of each,
//! `tests/targets.rs` runs them; the loader of guests is driven from `xtask/src/guest/fuzz.rs`.
//!
//! Invariant: equal bytes make equal runs; a target keeps nothing from one to the next.

#![forbid(unsafe_code)]

pub mod engine;
mod input;
mod marks;
mod shrink;
mod targets;

pub use input::Input;
pub use marks::mark;
pub use targets::TARGETS;

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its folder in `corpus/` too.
    pub name: &'static str,
    /// Does what the bytes say. A rule that is broken is a panic.
    pub run: fn(&[u8]),
    /// Inputs in CI, beside the corpus.
    pub inputs: u32,
    /// Most bytes of an input.
    pub len_max: usize,
    /// Places that a run of so many inputs comes to.
    pub reaches: &'static [&'static str],
    /// Words that inputs of a text format are made of; none for binary ones.
    pub words: &'static [&'static str],
}
