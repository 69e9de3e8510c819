//! The start code, in which vCPU 0 of every guest begins: `start.s`, one page.
//!
//! It does what [`cloister_guest_abi::image`] promises and runs in the guest, on the guest's own
//! budget, at every start and every reset. The build puts the page in front of a guest's header
//! and segments. Invariant: it reads nothing but its own page, the header and the segments, and
//! it needs no memory to be anything before it has written it.

#![no_std]
#![no_main]

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use cloister_guest_abi::cpuid::TIMING_LEAF;
use cloister_guest_abi::image::{
    GDT, HEADER, ImageHeader, KHZ_DIGITS, PAGE_TABLES, START, START_32, STARTED, Segment,
};

/// End of what the start code builds in RAM: the page of the descriptor table is the last.
const BUILT_END: u64 = GDT + 0x1000;

global_asm!(
    include_str!("start.s"),
    PAGE_TABLES = const PAGE_TABLES,
    GDT = const GDT,
    STARTED = const STARTED,
    BUILT_END = const BUILT_END,
    HEADER = const HEADER,
    HEADER_LEN = const size_of::<ImageHeader>(),
    SEGMENTS = const offset_of!(ImageHeader, segments),
    MEMORY = const offset_of!(ImageHeader, memory),
    ENTRY = const offset_of!(ImageHeader, entry),
    ARGUMENT = const offset_of!(ImageHeader, argument),
    STACK = const offset_of!(ImageHeader, stack),
    KHZ_AT = const offset_of!(ImageHeader, khz_at),
    SEGMENT_LEN = const size_of::<Segment>(),
    FROM = const offset_of!(Segment, from),
    TO = const offset_of!(Segment, to),
    LEN = const offset_of!(Segment, len),
    TIMING_LEAF = const TIMING_LEAF,
    KHZ_DIGITS = const KHZ_DIGITS,
    START = const START,
    START_32 = const START_32,
);

/// Rust wants one; nothing here can panic, and the linker script throws it away.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
