//! Port numbers and addresses behind which there is something, and the words of workers.
//!
//! Invariant: workers change only the words that are theirs; a hostile monitor is not the question
//! here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_guest_abi::platform;
use cloister_virtio::wire;

use crate::Input;

/// First numbers of ranges in which something is.
const PORTS: [u16; 18] = [
    0x20, 0x40, 0x60, 0x70, 0x80, 0xa0, 0x3f8, 0x3f8, 0x4d0, 0x500, 0x508, 0xcf8, 0xcf8, 0xcfc,
    0x1000, 0x1010, 0x1080, 0x1100,
];

/// A port, mostly one of a device.
pub fn port(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        kind @ 0..240 => PORTS[usize::from(kind) % PORTS.len()] + u16::from(input.byte() & 31),
        _ => input.short(),
    }
}

/// Bytes of an access; also widths that no instruction has.
pub fn width(input: &mut Input<'_>) -> u8 {
    [1, 2, 4, 1, 2, 4, 1, 3][usize::from(input.byte() & 7)]
}

/// An address in a device page.
pub fn address(input: &mut Input<'_>) -> u64 {
    let page = [platform::IOAPIC, platform::MSIX, platform::MSIX + 0x1000, platform::APIC];
    page[usize::from(input.byte() & 3)] + u64::from(input.short() & 0xfff)
}

/// A worker does something with its words: what it should, or anything.
pub fn disturb(words: &[AtomicU64], input: &mut Input<'_>) {
    let order = words[wire::ORDER].load(Relaxed);
    match input.byte() & 7 {
        0 | 1 => {
            words[wire::OFFERS].store(1 << 5 | 1 << 29 | 1 << 34, Relaxed);
            words[wire::QUEUE_SIZE].store(64, Relaxed);
            words[wire::ANSWER].store(order, Relaxed);
        }
        2 | 3 => drop(words[wire::PENDING].fetch_or(u64::from(input.byte()), Relaxed)),
        4 => words[wire::BROKEN].store(order, Relaxed),
        5 => drop(words[wire::CONFIG_GENERATION].fetch_add(u64::from(input.byte() & 3), Relaxed)),
        _ => {
            let own = wire::ANSWER..wire::WORDS;
            let at = own.start + usize::from(input.byte()) % own.len();
            words[at].store(input.value(), Relaxed);
        }
    }
}
