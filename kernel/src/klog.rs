//! The kernel's own log: one ring per core, written through `defmt`.
//!
//! A frame is put together in the core's [`LogState`] and pushed whole. The kernel runs with
//! interrupts off and NMI handlers do not log, so a core's state has one user at a time.

use crate::arch::x86_64::{cpu, window};
use cloister_abi::layout::PAGE;
use cloister_abi::log::{KIND_DEFMT, Writer};
use core::sync::atomic::AtomicU64;

const BUFFER: usize = 240;
const WORDS: usize = (window::LOG_PAGES * PAGE) as usize / 8;

/// The frame under construction; it lies behind the core's objects.
pub struct LogState {
    /// This core.
    pub core: u8,
    len: u8,
    bytes: [u8; BUFFER],
}

/// Where it lies.
pub const LOG_STATE: u64 =
    window::SMALL_STACKS - window::SMALL_STACK - size_of::<LogState>() as u64;

/// # Safety
/// Between `acquire` and `release` only, on this core.
unsafe fn state() -> &'static mut LogState {
    // SAFETY: the page is mapped, filled at boot, and belongs to this core.
    unsafe { &mut *(LOG_STATE as *mut LogState) }
}

#[defmt::global_logger]
struct Logger;

// SAFETY: the kernel does not preempt itself, and each core has its own state and ring.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: this is the beginning of the frame.
        unsafe { state() }.len = 0;
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: the log pages are mapped; all of the ring's words are atomic.
        let words = unsafe { core::slice::from_raw_parts(window::LOG as *const AtomicU64, WORDS) };
        // SAFETY: the frame ends here.
        let state = unsafe { state() };
        let mut writer = Writer::adopt(words, u16::MAX - u16::from(state.core));
        let frame = state.bytes.get(..usize::from(state.len)).unwrap_or(&[]);
        writer.push(KIND_DEFMT, state.core, cpu::rdtsc(), frame);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: between `acquire` and `release`.
        let state = unsafe { state() };
        let room = state.bytes.iter_mut().skip(usize::from(state.len));
        let written = room.zip(bytes).map(|(to, from)| *to = *from).count();
        state.len += written as u8;
    }
}
