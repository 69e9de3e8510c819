//! The monitor's side of the words that it shares with a worker ([`wire`]).
//!
//! [`Worker`] gives orders and reads answers. The rules for memory order are here and nowhere
//! else: docs/notes/0007-msix.md tells each, `tests/loom_msix.rs` holds it.
//!
//! Invariant: a queue's words change only while the newest order is a reset that was answered.
//! What the worker writes is read once, checked, and then used as a copy.

use crate::sync::{AtomicU64, Ordering};
use cloister_virtio::wire;

/// A queue as the worker is to see it: size, and addresses of its parts. Size 0: not used.
pub type QueueWords = [u64; wire::QUEUE_WORDS];
/// Bytes of a device's own configuration.
pub const CONFIG_BYTES: usize = wire::CONFIG_WORDS * 8;
/// The largest ring there can be (virtio 1.3, "Split Virtqueues").
const SIZE_MAX: u16 = 32768;

const _: () = assert!(wire::GONE == cloister_proto::policy::DEVICE_GONE);

/// One worker, as the monitor knows it.
#[derive(Debug)]
pub struct Worker<'a> {
    words: &'a [AtomicU64; wire::WORDS],
    /// The newest order. The word in the page is only ever written: the worker could change it.
    order: u64,
    /// The device's own configuration, as it was when it was last seen whole.
    pub config: [u8; CONFIG_BYTES],
    /// How many copies were made. Drivers see whole copies only, each with a number of its own.
    pub generation: u8,
    /// The worker's generation of the copy; an odd one before there is a copy.
    seen: u64,
}

impl<'a> Worker<'a> {
    /// Takes over where an earlier life of this monitor may have left off: with a reset that no
    /// worker can have answered yet. `None` if there are too few words.
    pub fn new(words: &'a [AtomicU64]) -> Option<Worker<'a>> {
        let words = words.first_chunk::<{ wire::WORDS }>()?;
        let order = words[wire::ORDER].load(Ordering::Relaxed);
        let config = [0; CONFIG_BYTES];
        let mut worker = Worker { words, order, config, generation: 0, seen: 1 };
        worker.order(0);
        Some(worker)
    }

    /// Whether the newest order is to work the queues.
    #[inline(always)]
    pub fn is_live(&self) -> bool {
        self.order & wire::LIVE != 0
    }

    /// Orders the worker to work these queues. The last reset was answered.
    pub fn order_live(&mut self, features: u64, queues: [QueueWords; wire::QUEUES_MAX]) {
        self.words[wire::FEATURES].store(features, Ordering::Relaxed);
        let places = self.words.iter().skip(wire::QUEUES);
        for (place, value) in places.zip(queues.into_iter().flatten()) {
            place.store(value, Ordering::Relaxed);
        }
        self.order(wire::LIVE);
    }

    /// A doorbell came here instead of to the kernel: the worker is to look at every queue.
    pub fn ring(&self) {
        self.words[wire::RINGS].fetch_add(1, Ordering::Release);
    }

    /// Whether the worker has done what the newest order says. What it did before, it did before.
    pub fn has_answered(&self) -> bool {
        self.is_gone() || self.words[wire::ANSWER].load(Ordering::Acquire) == self.order
    }

    /// Whether there is no worker any more. Acquire: what it did before, it did before.
    #[inline(always)]
    pub fn is_gone(&self) -> bool {
        self.words[wire::GONE].load(Ordering::Acquire) != 0
    }

    /// Whether the worker cannot go on with the newest order.
    #[inline(always)]
    pub fn is_broken(&self) -> bool {
        self.is_gone() || self.words[wire::BROKEN].load(Ordering::Relaxed) == self.order
    }

    /// Whether the worker works, and can have nothing to say but which queues have used buffers.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        // Relaxed: what a change of the generation orders is read by `copy_config`.
        let generation = self.words[wire::CONFIG_GENERATION].load(Ordering::Relaxed);
        self.is_live() && generation == self.seen && !self.is_broken()
    }

    /// Takes the queues with used buffers, a bit each. Whoever learns of a bit sees the buffers.
    #[inline(always)]
    pub fn take_pending(&mut self) -> u64 {
        self.words[wire::PENDING].swap(0, Ordering::Acquire)
    }

    /// Puts back what was taken, to be taken again at once: a worker that finds it there meanwhile
    /// does not signal for what it adds.
    pub fn put_back(&self, pending: u64) {
        self.words[wire::PENDING].fetch_or(pending, Ordering::Relaxed);
    }

    /// After an answered reset: takes over what the worker says of itself, and forgets used buffers
    /// of the old life. Returns what it offers and its largest ring, 0 if that is no power of two.
    pub fn begin(&mut self) -> (u64, u16) {
        self.take_pending();
        self.seen = 1;
        self.copy_config();
        let offers = self.words[wire::OFFERS].load(Ordering::Relaxed);
        let size = u16::try_from(self.words[wire::QUEUE_SIZE].load(Ordering::Relaxed));
        let is_size = |size: &u16| size.is_power_of_two() && *size <= SIZE_MAX;
        (offers, size.ok().filter(is_size).unwrap_or(0))
    }

    /// Copies the configuration if there is a new one and it is whole; whether it did.
    pub fn copy_config(&mut self) -> bool {
        let before = self.words[wire::CONFIG_GENERATION].load(Ordering::Acquire);
        if self.seen == before || before & 1 != 0 {
            return false;
        }
        let mut copy = [0; CONFIG_BYTES];
        let words = self.words.iter().skip(wire::CONFIG);
        for (bytes, word) in copy.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            // Acquire: if this is a word of a later change, the generation read below is later too.
            *bytes = word.load(Ordering::Acquire).to_le_bytes();
        }
        if self.words[wire::CONFIG_GENERATION].load(Ordering::Relaxed) != before {
            // The worker will signal when it has finished.
            return false;
        }
        (self.seen, self.config) = (before, copy);
        self.generation = self.generation.wrapping_add(1);
        true
    }

    /// Gives the next order of a kind: [`wire::LIVE`], or 0 for the worker to stop.
    pub fn order(&mut self, kind: u64) {
        let next = self.order.wrapping_add(1);
        let next = if next & wire::LIVE == kind { next } else { next.wrapping_add(1) };
        // 0 is never an order.
        self.order = if next == 0 { 2 } else { next };
        self.words[wire::ORDER].store(self.order, Ordering::Release);
    }
}
