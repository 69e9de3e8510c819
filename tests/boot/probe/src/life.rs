//! What a life finds in its memory, and how it spoils it for the next one to find it pristine.
//!
//! The canaries are atomics with values that only the image or the start code can have put there.

use core::sync::atomic::{AtomicU64, Ordering};

use boot_common::page::{DIRT, GENERATION, LIVES, OWN_BITS, Page, SLOTS};
use boot_common::raw;
use cloister_rt::abi::table::CapKind;
use cloister_rt::generation;

/// What the image has at the start of `.data`; the section is longer than a page.
const PATTERN: u64 = 0x7072_6973_7469_6e65;
static DATA: [AtomicU64; 700] = [const { AtomicU64::new(PATTERN) }; 700];
static ZERO: [AtomicU64; 700] = [const { AtomicU64::new(0) }; 700];

/// `.data` was not what the image has.
const DIRTY_DATA: u64 = 1;
/// `.bss` was not zero.
const DIRTY_ZERO: u64 = 2;
/// A floating point register was not in its initial state.
const DIRTY_FPU: u64 = 4;

/// Looks at the memory of the new life, spoils it, and tells the supervisor.
pub fn begin(page: &Page, dirty_fpu: bool) {
    let data = DATA.iter().any(|w| w.load(Ordering::Relaxed) != PATTERN);
    let zero = ZERO.iter().any(|w| w.load(Ordering::Relaxed) != 0);
    let found = [(data, DIRTY_DATA), (zero, DIRTY_ZERO), (dirty_fpu, DIRTY_FPU)];
    let dirt = found.iter().filter(|(is_dirty, _)| *is_dirty);
    page.set(DIRT, dirt.fold(0, |all, (_, bit)| all | bit));
    dirty();
    let slots = [
        raw::slots(),
        raw::slot("boss", CapKind::Thread).unwrap_or(u64::MAX),
        raw::slot("thread/main", CapKind::Thread).unwrap_or(u64::MAX),
        raw::slot("uart1", CapKind::Irq).unwrap_or(u64::MAX),
    ];
    for (index, slot) in slots.into_iter().enumerate() {
        page.set(SLOTS + index, slot);
    }
    let bits = [raw::bit("boss"), raw::bit("thread/main"), raw::bit("uart1")];
    for (index, bit) in bits.into_iter().enumerate() {
        page.set(OWN_BITS + index, bit);
    }
    page.set(GENERATION, generation() + 1);
    page.add(LIVES, 1);
}

/// Spoils what a restart has to put in order again.
pub fn dirty() {
    for (index, word) in (1..).zip(DATA.iter().chain(&ZERO)) {
        word.store(index, Ordering::Relaxed);
    }
}
