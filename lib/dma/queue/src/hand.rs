//! What the crate's `Hal` is to answer: its functions have no context, so whoever calls the crate
//! lays the answers out before and holds the only [`Hand`] meanwhile.
//!
//! Invariant: answers are given in the order in which they were laid out, each once; a question
//! without one is answered with the address 0, which is no address of a task.

use core::hint::spin_loop;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{self, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Most answers at a time: the buffers of a chain.
pub(crate) const ANSWERS_MAX: usize = 34;

/// Somebody holds the hand. A driver's task has one thread; host tests have many.
static IS_HELD: AtomicBool = AtomicBool::new(false);
/// Device addresses of the buffers that are shared next.
static ADDRESSES: [AtomicU64; ANSWERS_MAX] = [const { AtomicU64::new(0) }; ANSWERS_MAX];
/// How many there are, and how many were asked for.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Zeroed pages for rings: the first of them, and how many.
static PAGES: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// The right to lay out answers.
pub(crate) struct Hand(());

impl Hand {
    pub(crate) fn take() -> Hand {
        while IS_HELD.compare_exchange(false, true, Ordering::Acquire, Relaxed).is_err() {
            spin_loop();
        }
        Hand(())
    }

    /// Answers with these device addresses. `None` if they are too many.
    pub(crate) fn addresses(&self, addresses: impl Iterator<Item = u64>) -> Option<()> {
        let mut count = 0usize;
        for address in addresses {
            ADDRESSES.get(count)?.store(address, Relaxed);
            count = count.saturating_add(1);
        }
        COUNT.store(count, Relaxed);
        NEXT.store(0, Relaxed);
        Some(())
    }

    /// Gives these pages away.
    ///
    /// # Safety
    /// They are zeros, aligned to a page, and nobody else uses them as long as the rings live.
    pub(crate) unsafe fn pages(&self, first: *mut u8, count: usize) {
        PAGES.store(first, Relaxed);
        LEFT.store(count, Relaxed);
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        COUNT.store(0, Relaxed);
        LEFT.store(0, Relaxed);
        IS_HELD.store(false, Ordering::Release);
    }
}

/// The `Hal`: a device address is the task's own address.
pub(crate) struct Task;

// SAFETY: (1) `dma_alloc` gives pages out once, and `Hand::pages` says of them what is asked for
// here; the rings' memory is the queue's as long as it lives, so nothing is to be done when it is
// given back. (2) `share` tells where the device has the bytes that the slice stands for; it
// touches neither. (3) Registers in memory are not asked for: no transport of the crate is used,
// and this type is nobody else's.
unsafe impl Hal for Task {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let none = (0, NonNull::dangling());
        let (Some(left), Some(bytes)) =
            (LEFT.load(Relaxed).checked_sub(pages), pages.checked_mul(PAGE_SIZE))
        else {
            return none;
        };
        let first = PAGES.load(Relaxed);
        let (Some(given), Ok(address)) = (NonNull::new(first), PhysAddr::try_from(first.addr()))
        else {
            return none;
        };
        LEFT.store(left, Relaxed);
        PAGES.store(first.wrapping_add(bytes), Relaxed);
        (address, given)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::dangling()
    }

    unsafe fn share(_: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let next = NEXT.fetch_add(1, Relaxed);
        let address = ADDRESSES.get(next).filter(|_| next < COUNT.load(Relaxed));
        address.map_or(0, |address| address.load(Relaxed))
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
