//! The memory that a task finds mapped: the system page, its task information, and the regions
//! that the manifest grants.
//!
//! Addresses come from the layout or from the task information, both made by the image builder
//! and mapped by the kernel before the task's first instruction, for the system's whole life.
//! Memory that anybody may write is only ever seen as atomic words ([`Shared`]); plain bytes are
//! given out only for regions of the payload, which nobody can write.

use core::sync::atomic::AtomicU64;

use cloister_abi::info::SystemPage;
use cloister_abi::layout;
use cloister_abi::table::MAP_WRITE;

/// Facts about the machine. The kernel fills the page before the seal, so `init` alone sees it
/// change.
pub fn system() -> &'static SystemPage {
    let page = layout::SYSTEM_PAGE as *const SystemPage;
    // SAFETY: (1) the kernel maps the page at this address in every task, for ever, so the pointer
    // is valid and aligned. (2) Every byte pattern is a `SystemPage`. (3) Nothing writes it while
    // this task runs: it is read-only here, and the kernel writes it before the seal only, in
    // calls from `init` that do not return to it (`seal`) or that change no field (the others).
    unsafe { &*page }
}

/// Bytes of a region of the payload, or of the task information.
///
/// # Safety
/// `va .. va + len` must be mapped readable for the life of the task, and no one may write it.
pub(crate) unsafe fn constant(va: u64, len: u64) -> &'static [u8] {
    let start = va as *const u8;
    // SAFETY: (1) the caller vouches for the mapping and that it never changes. (2) Bytes have no
    // alignment and no invalid patterns. (3) A mapping ends below `USER_END`, far below
    // `isize::MAX`.
    unsafe { core::slice::from_raw_parts(start, len as usize) }
}

/// Memory that this task shares with another one, or with the kernel.
#[derive(Clone, Copy)]
pub struct Shared {
    va: u64,
    len: u64,
    writable: bool,
}

impl Shared {
    /// The shared region at an address.
    ///
    /// # Safety
    /// `va .. va + len` must be mapped for the life of the task, writable if `rights` say so, `va`
    /// a multiple of 8, and every view of it by this task's program must be one of atomic words.
    pub(crate) unsafe fn at(va: u64, len: u64, rights: u8) -> Shared {
        Shared { va, len, writable: rights & MAP_WRITE != 0 }
    }

    /// Its words. A store to memory that is not writable stops this task.
    pub fn words(&self) -> &'static [AtomicU64] {
        let start = self.va as *const AtomicU64;
        let count = (self.len / 8) as usize;
        // SAFETY: (1) whoever made this value vouched for mapping and alignment. (2) Every pattern
        // is a valid `AtomicU64`. (3) Others may change the words at any time, which atomics
        // allow. (4) In a read-only mapping a store faults; loads of 8 bytes are plain moves.
        unsafe { core::slice::from_raw_parts(start, count) }
    }

    /// Whether this task may write it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }
}
