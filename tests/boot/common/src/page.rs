//! The words of the page between the test supervisor and a probe. The page outlives the probe's
//! restarts: nothing wipes it, so that a life can tell what an earlier one did.

use core::sync::atomic::{AtomicU64, Ordering};

/// What to do, see [`crate::orders`].
pub const ORDER: usize = 0;
/// Arguments of the order: four words.
pub const ARGUMENTS: usize = 1;
/// Number of the newest order.
pub const ASKED: usize = 8;
/// Number of the order that the probe did last.
pub const DONE: usize = 9;
/// How many lives have begun, written by each when its memory was looked at.
pub const LIVES: usize = 10;
/// The generation that the newest life was told, plus one.
pub const GENERATION: usize = 11;
/// What was not pristine when the newest life began; zero for nothing.
pub const DIRT: usize = 12;
/// Number of slots, the slot of the signal to the supervisor, of an own thread, of an interrupt.
pub const SLOTS: usize = 13;
/// Masks of the probe's bits: set by the supervisor, by itself, by an interrupt.
pub const OWN_BITS: usize = 17;
/// Where the fault will be: instruction pointer, another that is as good, address.
pub const EXPECTED: usize = 20;
/// Results: eight words.
pub const RESULTS: usize = 24;
/// Counts up while a probe spins, polls or answers.
pub const BEAT: usize = 40;
/// Further threads: orders, and what each counts up; eight words each.
pub const THREAD_ORDER: usize = 48;
/// See [`THREAD_ORDER`].
pub const THREAD_BEAT: usize = 56;
/// Further threads: the generation in which each has begun, plus one.
pub const THREAD_LIFE: usize = 64;
/// A random caller's counts: calls that returned, state of its generator, then calls that were
/// begun, one word per call number and one for numbers that no call has.
pub const CALLS: usize = 80;
/// See [`CALLS`].
pub const SEED: usize = 81;
/// See [`CALLS`]: seventeen words.
pub const CALLS_BY_NUMBER: usize = 82;

/// The page's words.
#[derive(Clone, Copy)]
pub struct Page(pub &'static [AtomicU64]);

impl Page {
    /// A word.
    pub fn word(&self, index: usize) -> &'static AtomicU64 {
        &self.0[index]
    }

    /// Reads a word, and sees what was written before it.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word, and publishes what was written before it.
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Adds to a word that one task alone changes.
    pub fn add(&self, index: usize, value: u64) {
        let word = self.word(index);
        word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Release);
    }
}
