//! The other side of the page: [`Monitor`], which also rings doorbells as the kernel does.

use core::sync::atomic::{AtomicU64, Ordering};

const ORDER: usize = 0;
const FEATURES: usize = 1;
const QUEUES: usize = 8;
const ANSWER: usize = 64;
const BROKEN: usize = 65;
const PENDING: usize = 66;

/// A page of words.
pub fn page() -> Vec<AtomicU64> {
    (0..512).map(|_| AtomicU64::new(0)).collect()
}

/// The monitor of a device.
pub struct Monitor<'a> {
    words: &'a [AtomicU64],
    bells: &'a [AtomicU64],
    first_bell: usize,
}

impl<'a> Monitor<'a> {
    /// The monitor's side of the page in `words`.
    pub fn new(words: &'a [AtomicU64], bells: &'a [AtomicU64], first_bell: usize) -> Self {
        Monitor { words, bells, first_bell }
    }

    /// Orders a reset.
    pub fn reset(&self) {
        self.order(0);
    }

    /// Orders to work these queues.
    pub fn live(&self, features: u64, queues: &[[u64; 4]]) {
        self.words[FEATURES].store(features, Ordering::Relaxed);
        for (number, record) in queues.iter().enumerate() {
            for (word, value) in record.iter().enumerate() {
                self.words[QUEUES + 4 * number + word].store(*value, Ordering::Relaxed);
            }
        }
        self.order(1);
    }

    fn order(&self, parity: u64) {
        let next = self.words[ORDER].load(Ordering::Relaxed) + 1;
        let order = if next % 2 == parity { next } else { next + 1 };
        self.words[ORDER].store(order, Ordering::Release);
    }

    /// Whether the last order was answered.
    pub fn is_answered(&self) -> bool {
        self.words[ANSWER].load(Ordering::Acquire) == self.words[ORDER].load(Ordering::Relaxed)
    }

    /// Whether the worker gave up on the last order.
    pub fn is_broken(&self) -> bool {
        let order = self.words[ORDER].load(Ordering::Relaxed);
        order % 2 == 1 && self.words[BROKEN].load(Ordering::Acquire) == order
    }

    /// Takes the bits of queues with used buffers.
    pub fn take_pending(&self) -> u64 {
        self.words[PENDING].swap(0, Ordering::AcqRel)
    }

    /// The guest writes to the doorbell of a queue.
    pub fn ring(&self, queue: usize) {
        let bell = self.first_bell + queue;
        let old = self.bells[bell / 2].load(Ordering::Relaxed);
        let shift = 32 * (bell % 2);
        let count = ((old >> shift) as u32).wrapping_add(1);
        let others = old & !(u64::from(u32::MAX) << shift);
        self.bells[bell / 2].store(others | u64::from(count) << shift, Ordering::Release);
    }
}
