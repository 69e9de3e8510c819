//! Memory that devices work in: the heap, whose addresses are guest-physical ones.

use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::memory;

/// All memory of a guest is mapped one to one and devices reach all of it.
pub struct Memory;

// SAFETY: `dma_alloc` returns zeroed pages that nobody else has; sharing is the identity, because
// memory is mapped one to one.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = memory::pages(pages).and_then(memory::allocate);
        let Some(at) = memory else {
            // The address 0 is how the crate learns that there is no memory.
            return (0, NonNull::dangling());
        };
        // SAFETY: the pages were just allocated, with this length.
        unsafe { at.as_ptr().write_bytes(0, pages * memory::PAGE) };
        (at.as_ptr() as PhysAddr, at)
    }

    unsafe fn dma_dealloc(_: PhysAddr, at: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = memory::pages(pages) {
            // SAFETY: the caller promises that it came from `dma_alloc` with this length.
            unsafe { memory::free(at, layout) };
        }
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        // The transport uses no registers in memory; the mapping is one to one all the same.
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
