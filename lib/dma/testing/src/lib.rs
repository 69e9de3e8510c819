//! Memory of simulated devices and guests, for the host tests of drivers: [`pages`] and [`ram`].
//!
//! A driver whose rings another crate works needs real memory, with an address. Here it has two
//! views, the driver's and the device's. A guest's RAM is such memory where it is moved through
//! vector registers. Invariant: the bytes live as long as the program.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::as_conversions)]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

use cloister_dma::Region;
use cloister_guestmem::GuestMemory;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// So many pages of zeros, for the driver and for the device that it shares them with.
///
/// # Panics
/// If there are no pages, or more than an address space has.
pub fn pages(count: usize) -> (Region, Region) {
    let (base, bytes) = zeros(count);
    // SAFETY: (1) allocated and never freed, all bytes zeros. (2) Aligned to a page. (3) The two
    // views come from one pointer and make no references: each is to the other what a device is,
    // and neither can be sent to another thread.
    [(); 2].map(|()| unsafe { Region::at(base, bytes) }).into()
}

/// The RAM of a guest, so many pages of zeros.
///
/// # Panics
/// As [`pages`].
pub fn ram(count: usize) -> GuestMemory {
    let (base, bytes) = zeros(count);
    // SAFETY: (1) and (2) as for `pages`. (3) The pointer is given to nobody else.
    unsafe { GuestMemory::at(base, bytes) }
}

/// Pages that are never freed, and how many bytes they have.
fn zeros(count: usize) -> (*mut u8, usize) {
    let bytes = count.checked_mul(PAGE).filter(|bytes| *bytes != 0);
    let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, PAGE).ok());
    let layout = layout.expect("so many pages are in no address space");
    // SAFETY: the layout has bytes.
    let base = unsafe { alloc_zeroed(layout) };
    if base.is_null() {
        handle_alloc_error(layout);
    }
    (base, layout.size())
}
