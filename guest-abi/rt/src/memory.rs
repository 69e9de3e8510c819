//! The heap: everything between the program and the end of memory.
//!
//! It is made at the first allocation; until then memory behind the program is what the start code
//! left, zero. The size of memory stands in the header of the guest's image, which stays readable.

use core::alloc::Layout;
use core::ptr::NonNull;

use cloister_guest_abi::image::{self, ImageHeader};
use cloister_guest_abi::platform;
use linked_list_allocator::Heap;

use crate::Lock;

/// Size of a page.
pub const PAGE: usize = 4096;

static HEAP: Lock<Option<Heap>> = Lock::new(None);

/// The first address behind the program: from here up to [`size`] memory is zero at the start.
pub fn program_end() -> u64 {
    unsafe extern "C" {
        static __guest_end: u8;
    }
    (&raw const __guest_end) as u64
}

/// Bytes of RAM, from address 0 upwards.
pub fn size() -> u64 {
    // SAFETY: (1) the page is mapped read-only for the guest's life and never changes, (2) every
    // byte pattern is a header, (3) it is aligned to a page.
    let header = unsafe { (image::HEADER as *const ImageHeader).read() };
    let known = header.magic == image::MAGIC;
    if known { header.memory.min(platform::MEMORY_MAX) } else { platform::MEMORY_MIN }
}

/// Takes memory that is aligned and large enough; nothing if there is none.
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    let mut heap = HEAP.lock();
    heap.get_or_insert_with(make).allocate_first_fit(layout).ok()
}

fn make() -> Heap {
    let start = program_end();
    let len = size().saturating_sub(start);
    // SAFETY: (1) the program ends below, and the image's builder refuses programs that are larger
    // than memory; (2) nothing else uses what lies between the program and the end of memory;
    // (3) this runs once, under the lock.
    unsafe { Heap::new(start as *mut u8, len as usize) }
}

/// Gives memory back.
///
/// # Safety
///
/// It came from [`allocate`] with this layout and is used no more.
pub(crate) unsafe fn free(at: NonNull<u8>, layout: Layout) {
    if let Some(heap) = HEAP.lock().as_mut() {
        // SAFETY: the caller's promise.
        unsafe { heap.deallocate(at, layout) };
    }
}

/// The layout of whole pages.
pub(crate) fn pages(count: usize) -> Option<Layout> {
    Layout::from_size_align(count.checked_mul(PAGE)?, PAGE).ok()
}

/// Zeroed pages that are never given back.
pub fn leak_pages(count: usize) -> Option<&'static mut [u8]> {
    let layout = pages(count).filter(|layout| layout.size() > 0)?;
    let at = allocate(layout)?;
    // SAFETY: the pages are this caller's alone.
    unsafe { at.as_ptr().write_bytes(0, layout.size()) };
    // SAFETY: they are written, aligned, and never given back.
    Some(unsafe { core::slice::from_raw_parts_mut(at.as_ptr(), layout.size()) })
}

#[cfg(all(feature = "alloc", not(test)))]
mod global {
    //! The heap as Rust's allocator.

    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::{self, NonNull};

    struct Global;

    #[global_allocator]
    static GLOBAL: Global = Global;

    // SAFETY: `allocate` returns memory that nobody else has, of the layout's size and alignment.
    unsafe impl GlobalAlloc for Global {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            super::allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            if let Some(at) = NonNull::new(at) {
                // SAFETY: the caller of `dealloc` promises what `free` asks for.
                unsafe { super::free(at, layout) };
            }
        }
    }
}
