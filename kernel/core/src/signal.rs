//! Signals: a thread's word of pending bits, and a core's bitmap of threads to look at.
//!
//! [`ThreadWord`] belongs to one thread: any core posts, only the thread's own core (the *owner*)
//! takes and waits. [`CoreWord`] belongs to one core: any core marks, only the owner drains.
//!
//! A sender does `if word.post_bit(bit) && core.mark(local) { send an IPI }`. The owner of `core`
//! drains it in the IPI's handler, once at the seal, and with interrupts off directly before it
//! enters a guest; an IPI that comes while interrupts are off stays latched, and so ends the halt
//! of a core that idles. For each drained thread it calls
//! [`ThreadWord::take_ops`] and [`ThreadWord::finish_wait`].
//!
//! Invariant: no thread sleeps on a pending bit of its mask once every post that set such a bit
//! has been followed by its mark and every mark by a drain. It needs no sequential consistency:
//! sender and waiter meet in read-modify-write operations on `bits`, which have one total order.
//! Whichever comes second has acquired what the first one released, so either the waiter finds
//! the bit or the sender finds the mask. docs/notes/0002-signals.md has the argument in full.

use crate::sync::{AtomicU32, AtomicU64, Ordering, const_unless_loom};

/// Operation bit: the thread's task changed its [`crate::park::ParkWord`]; catch up with it.
pub const OP_PARK: u32 = 1;

/// What other cores may tell a thread.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ThreadWord {
    /// Bits that were posted and not taken.
    bits: AtomicU64,
    /// The mask that the thread sleeps on, zero while it does not. Written by the owner only.
    waiting: AtomicU64,
    /// Operations that were posted and not taken.
    op: AtomicU32,
}

impl ThreadWord {
    const_unless_loom! {
        /// A word with nothing pending, of a thread that does not wait.
        pub fn new() -> ThreadWord {
            let (bits, waiting) = (AtomicU64::new(0), AtomicU64::new(0));
            ThreadWord { bits, waiting, op: AtomicU32::new(0) }
        }
    }

    /// Sets a bit, of whose number only the lowest six bits count, from any core. True if the thread
    /// sleeps on it and it was clear: then its core must look (mark it; on the same core call
    /// [`ThreadWord::finish_wait`] directly). One locked instruction, and nothing more if the bit
    /// was set already: whoever set it has seen to the look, or the thread found the bit when it
    /// began to wait.
    #[inline]
    #[must_use = "a waiter sleeps on unless its core looks"]
    pub fn post_bit(&self, bit: u32) -> bool {
        let mask = 1u64.wrapping_shl(bit);
        if self.bits.fetch_or(mask, Ordering::AcqRel) & mask != 0 {
            return false;
        }
        self.waiting.load(Ordering::Relaxed) & mask != 0
    }

    /// Begins to wait for a bit of `mask`. Nonzero: these bits were pending and are taken, and the
    /// thread does not wait. Zero: the thread waits. Owner only.
    #[inline]
    #[must_use = "nonzero bits are taken and would be lost"]
    pub fn begin_wait(&self, mask: u64) -> u64 {
        // The swap releases this store: a sender that comes later in the order of `bits` sees it.
        self.waiting.store(mask, Ordering::Relaxed);
        let got = self.split(self.bits.swap(0, Ordering::AcqRel), mask);
        if got != 0 {
            self.waiting.store(0, Ordering::Relaxed);
        }
        got
    }

    /// Looks at a thread that may wait: if a bit of its mask is pending, it waits no longer and
    /// the bits are taken. Zero: it does not wait, or sleeps on. Owner only.
    #[inline]
    #[must_use = "nonzero bits are taken and would be lost"]
    pub fn finish_wait(&self) -> u64 {
        let mask = self.waiting.load(Ordering::Relaxed);
        // The drained mark (or program order, on the same core) made the sender's bit visible.
        if self.bits.load(Ordering::Relaxed) & mask == 0 {
            return 0;
        }
        self.waiting.store(0, Ordering::Relaxed);
        self.split(self.bits.swap(0, Ordering::Acquire), mask)
    }

    /// Ends a wait without taking anything (a deadline, a stop). Owner only.
    #[inline]
    pub fn cancel_wait(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Forgets the pending bits and the wait, for a restart; operations stay pending. Owner only.
    /// The new instance looks at everything that it can be told of before it waits: what the
    /// sender of a forgotten bit wrote is visible to it then.
    pub fn reset(&self) {
        self.waiting.store(0, Ordering::Relaxed);
        self.bits.swap(0, Ordering::Acquire);
    }

    /// Adds operations, from any core; the caller marks the thread's core afterwards. Whoever
    /// takes an operation sees everything that its poster wrote before.
    #[inline]
    pub fn post_op(&self, op: u32) {
        self.op.fetch_or(op, Ordering::Release);
    }

    /// Takes all operations. Owner only.
    #[inline]
    pub fn take_ops(&self) -> u32 {
        if self.op.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.op.swap(0, Ordering::Acquire)
    }

    /// Keeps the bits of `all` outside `mask` pending and returns the others. A swap and, rarely,
    /// an OR are wait-free; an atomic AND that returns the old value is a loop on x86. The gap
    /// between the two is harmless: a sender that posts such a bit meanwhile takes it for new, and
    /// the mask does not hold it.
    #[inline]
    fn split(&self, all: u64, mask: u64) -> u64 {
        if all & !mask != 0 {
            self.bits.fetch_or(all & !mask, Ordering::Relaxed);
        }
        all & mask
    }
}

/// Which of a core's threads it must look at.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CoreWord {
    /// One bit per thread, by its rank on the core.
    pending: AtomicU64,
}

impl CoreWord {
    const_unless_loom! {
        /// A word with no thread marked.
        pub fn new() -> CoreWord {
            CoreWord { pending: AtomicU64::new(0) }
        }
    }

    /// Marks thread `local` (0 to 63), from any core. True if nothing was marked before: the
    /// caller must send the core an IPI. Otherwise whoever marked first has sent one.
    #[inline]
    #[must_use = "the core may sleep on unless an IPI is sent"]
    pub fn mark(&self, local: u32) -> bool {
        self.pending.fetch_or(1u64.wrapping_shl(local), Ordering::Release) == 0
    }

    /// Takes all marks. Owner only. The first look is a plain load: a mark that it misses made the
    /// word non-zero, so its IPI is still to come, and the handler drains again.
    #[inline]
    pub fn drain(&self) -> u64 {
        if self.pending.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.pending.swap(0, Ordering::Acquire)
    }
}
