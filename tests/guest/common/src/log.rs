//! What handlers leave for the case that waits for them: the vectors that came, in order.
//!
//! One log for all vCPUs of the guest; a case clears it, makes something happen and looks.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cloister_guest_rt::apic;
use cloister_guest_rt::interrupts::Frame;

/// Most entries.
const ENTRIES: usize = 512;

static LEN: AtomicUsize = AtomicUsize::new(0);
static VECTORS: [AtomicU64; ENTRIES] = [const { AtomicU64::new(0) }; ENTRIES];
static PLACES: [AtomicU64; ENTRIES] = [const { AtomicU64::new(0) }; ENTRIES];

/// Forgets everything.
pub fn clear() {
    LEN.store(0, Ordering::Release);
}

/// How many came.
pub fn len() -> usize {
    LEN.load(Ordering::Acquire)
}

/// The vector and the interrupted instruction of the nth, from 0.
pub fn entry(index: usize) -> (u64, u64) {
    match (VECTORS.get(index), PLACES.get(index)) {
        (Some(vector), Some(place)) if index < len() => {
            (vector.load(Ordering::Acquire), place.load(Ordering::Acquire))
        }
        _ => (0, 0),
    }
}

/// Writes down that a vector came.
pub fn note(frame: &Frame) {
    let index = LEN.load(Ordering::Acquire).min(ENTRIES - 1);
    VECTORS[index].store(frame.vector, Ordering::Release);
    PLACES[index].store(frame.rip, Ordering::Release);
    LEN.store(index + 1, Ordering::Release);
}

/// A handler: writes down and ends the interrupt.
pub fn take(frame: &mut Frame) {
    note(frame);
    apic::eoi();
}
