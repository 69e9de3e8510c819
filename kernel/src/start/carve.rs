//! Memory for the kernel's objects: a cursor that moves through one range of RAM and never back.

use crate::arch::x86_64::{paging, window};
use cloister_abi::boot::{BootInfo, MemRange, RANGE_RAM};
use cloister_abi::layout::PAGE;

/// The part of a range's memory that is not handed out yet.
pub struct Carver {
    next: u64,
    end: u64,
}

impl Carver {
    /// Begins behind the image, in the range of RAM that it lies in.
    pub fn new(info: &BootInfo) -> Carver {
        let inside = |range: &&MemRange| {
            range.kind == RANGE_RAM && range.base <= info.free && info.free - range.base < range.len
        };
        let end = info.ranges.iter().find(inside).map_or(info.free, |r| r.base + r.len);
        Carver { next: info.free, end: end.min(window::PHYSICAL_END) & !(PAGE - 1) }
    }

    /// How many pages are left.
    pub fn left(&self) -> u64 {
        (self.end - self.next) / PAGE
    }

    /// `count` pages in a row as they are, from a multiple of `align`.
    #[inline(never)]
    pub fn raw_pages(&mut self, count: u64, align: u64) -> u64 {
        let first = self.next.next_multiple_of(align);
        let left = self.end.saturating_sub(first) / PAGE;
        assert!(count <= left, "too little memory below 4 GiB for this appliance");
        self.next = first + count * PAGE;
        first
    }

    /// `count` zeroed pages in a row. The caller has checked that they are left.
    #[inline(never)]
    pub fn pages(&mut self, count: u64) -> u64 {
        let first = self.raw_pages(count, PAGE);
        for phys in (first..self.next).step_by(PAGE as usize) {
            // SAFETY: the page was never handed out, so nothing else refers to it.
            let page: &mut [u64; 512] = unsafe { paging::page(phys) };
            page.fill(0);
        }
        first
    }

    /// One zeroed page.
    pub fn page(&mut self) -> u64 {
        self.pages(1)
    }

    /// The first byte that is not handed out.
    pub fn next(&self) -> u64 {
        self.next
    }
}
