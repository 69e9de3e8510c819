//! The heap: everything between the program and the end of memory.
//!
//! It is made at the first allocation; until then memory behind the program is what the start code
//! left, zero.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_abi::platform;
use linked_list_allocator::Heap;

use crate::Lock;

/// Size of a page.
pub const PAGE: usize = 4096;

static SIZE: AtomicU64 = AtomicU64::new(0);
static HEAP: Lock<Option<Heap>> = Lock::new(None);

/// The first address behind the program: from here up to [`size`] memory is zero at the start.
pub fn program_end() -> u64 {
    unsafe extern "C" {
        static __guest_end: u8;
    }
    (&raw const __guest_end) as u64
}

/// Takes the size of memory; a platform that tells none has the least.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn start(size: u64) {
    let size = if size == 0 { platform::MEMORY_MIN } else { size };
    SIZE.store(size.min(platform::MEMORY_MAX), Ordering::Relaxed);
}

/// Bytes of RAM, from address 0 upwards.
pub fn size() -> u64 {
    SIZE.load(Ordering::Relaxed)
}

/// Copies bytes out of memory at an address, whatever they mean; false if that is not all RAM. For
/// tables that a loader may have left.
pub fn read(at: u64, into: &mut [u8]) -> bool {
    let inside = at.checked_add(into.len() as u64).is_some_and(|end| end <= size());
    // Nothing useful lies at 0, and Rust reads no null pointer.
    if at == 0 || !inside {
        return false;
    }
    for (byte, address) in into.iter_mut().zip(at..) {
        // SAFETY: the address is RAM, which is mapped; a volatile read of a byte that other code
        // may be writing gives one of its values.
        *byte = unsafe { (address as *const u8).read_volatile() };
    }
    true
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

/// Zeroed words in whole pages that are never given back, for what devices share.
pub fn leak_words(pages: usize) -> Option<&'static [AtomicU64]> {
    let bytes = leak_pages(pages)?;
    let len = bytes.len() / size_of::<AtomicU64>();
    let at = bytes.as_mut_ptr().cast::<AtomicU64>();
    // SAFETY: the pages are aligned, zero is a value of every word, and the only other reference
    // to them ends here.
    Some(unsafe { core::slice::from_raw_parts(at, len) })
}

/// A value in memory that is never given back.
pub fn leak<T>(value: T) -> Option<&'static mut T> {
    let layout = Layout::new::<T>();
    let at = if layout.size() == 0 { NonNull::dangling() } else { allocate(layout)?.cast::<T>() };
    // SAFETY: the memory is this caller's alone, large enough and aligned.
    unsafe { at.write(value) };
    // SAFETY: a value was just written there, and nobody else knows the place.
    Some(unsafe { &mut *at.as_ptr() })
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
