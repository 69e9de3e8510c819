//! What other threads want of a virtual CPU: interrupts and signals of the interrupt controllers.
//!
//! A [`Posted`] belongs to one virtual CPU. Anyone sets bits in it and then signals the owner's
//! thread if [`Posted::vector`] or [`Posted::event`] say that nobody has since the owner looked
//! last; the owner takes everything with [`Posted::drain`]. Neighbours: `run` drains, `apic` and
//! `bus` decide where a message goes, from the [`Posted::route`] that each owner publishes.
//!
//! Invariant: what was posted before a drain began and was not taken by an earlier one is taken by
//! it, or its poster was told to signal. The outstanding flag is exchanged, never just stored, so
//! poster and owner agree on an order: if the poster found the flag set, the owner's next exchange
//! reads what this poster released.

use crate::apic::Route;
use crate::num::index;
use crate::sync::{AtomicU64, Ordering};

/// A non-maskable interrupt.
pub const NMI: u64 = 1;
/// INIT. Forgets a start-up message that came before it.
pub const INIT: u64 = 1 << 1;
/// Start-up: the page is in bits 8 to 15.
pub const STARTUP: u64 = 1 << 2;
/// Where the page of a start-up message is.
pub const STARTUP_PAGE: u32 = 8;

/// What a drain took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Vectors, 64 a word.
    pub vectors: [u64; 4],
    /// Those of them that are level-triggered.
    pub levels: [u64; 4],
    /// [`NMI`], [`INIT`], [`STARTUP`].
    pub events: u64,
}

/// The posted descriptor of one virtual CPU.
#[derive(Debug, Default)]
pub struct Posted {
    vectors: [AtomicU64; 4],
    levels: [AtomicU64; 4],
    events: AtomicU64,
    outstanding: AtomicU64,
    route: AtomicU64,
}

impl Posted {
    /// An empty one.
    #[cfg(not(loom))]
    pub const fn new() -> Posted {
        Posted {
            vectors: [const { AtomicU64::new(0) }; 4],
            levels: [const { AtomicU64::new(0) }; 4],
            events: AtomicU64::new(0),
            outstanding: AtomicU64::new(0),
            route: AtomicU64::new(0),
        }
    }

    /// Posts an interrupt. Whether the caller is to signal the owner.
    #[must_use]
    pub fn vector(&self, vector: u8, level: bool) -> bool {
        let (word, bit) = (index(u64::from(vector >> 6)), 1u64 << (vector & 63));
        // The kind of trigger goes first: whoever takes the vector then finds it.
        if level && let Some(levels) = self.levels.get(word) {
            levels.fetch_or(bit, Ordering::Relaxed);
        }
        if let Some(vectors) = self.vectors.get(word) {
            vectors.fetch_or(bit, Ordering::Release);
        }
        self.announce()
    }

    /// Posts [`NMI`], [`INIT`], or [`STARTUP`] with a page. Whether to signal the owner.
    #[must_use]
    pub fn event(&self, event: u64) -> bool {
        if event & (INIT | STARTUP) == 0 {
            self.events.fetch_or(event, Ordering::Release);
            return self.announce();
        }
        let replace = |old: u64| {
            // INIT undoes a start-up before it. A CPU takes the first start-up after INIT, so a
            // second one, with the same page or not, is dropped.
            match (event & INIT != 0, old & STARTUP != 0) {
                (true, _) => Some(old & NMI | INIT),
                (false, true) => None,
                (false, false) => Some(old | event),
            }
        };
        let replaced = self.events.fetch_update(Ordering::Release, Ordering::Relaxed, replace);
        replaced.is_ok() && self.announce()
    }

    /// Takes all that was posted, or `None` if nothing was since the last time.
    pub fn drain(&self) -> Option<Taken> {
        if self.outstanding.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if self.outstanding.swap(0, Ordering::Acquire) == 0 {
            return None;
        }
        let mut taken = Taken { events: take(&self.events), ..Taken::default() };
        let words = taken.vectors.iter_mut().zip(&mut taken.levels);
        for ((vectors, levels), (mine, marks)) in words.zip(self.vectors.iter().zip(&self.levels)) {
            *vectors = take(mine);
            if *vectors != 0 {
                // A mark whose vector has not come yet stays for the next time.
                *levels = marks.fetch_and(!*vectors, Ordering::Relaxed) & *vectors;
            }
        }
        Some(taken)
    }

    /// Publishes how the owner's local APIC is addressed. The word says all, so it orders nothing.
    pub fn set_route(&self, route: Route) {
        self.route.store(route.to_word(), Ordering::Relaxed);
    }

    /// How the owner's local APIC is addressed.
    pub fn route(&self) -> Route {
        Route::from_word(self.route.load(Ordering::Relaxed))
    }

    /// Marks the descriptor as not empty; whether it was not marked before.
    fn announce(&self) -> bool {
        self.outstanding.swap(1, Ordering::Release) == 0
    }
}

/// Takes a word; a word that is empty is only read, which costs less than an exchange.
fn take(word: &AtomicU64) -> u64 {
    if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Acquire) }
}
