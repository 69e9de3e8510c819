//! The task's side of its log: `defmt` frames into the task's own ring.
//!
//! A frame is collected in [`BYTES`] and pushed whole, with the TSC of its end, so the ring never
//! holds half a message and nobody waits for a reader. `defmt`'s raw encoding is used: the ring's
//! frames carry their length. A frame longer than the buffer is replaced by a line that says so.
//!
//! Everything here is atomic, so the logger needs no `unsafe` beyond the trait's name: threads of
//! one task take turns by [`HELD`], and one that has died in the middle of a frame is passed over
//! after a bounded wait, at the cost of one garbled frame.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering};

use cloister_abi::layout::{LOG_RING, LOG_RING_MAX};
use cloister_abi::log::{KIND_DEFMT, KIND_TEXT, Writer};
use cloister_abi::table::{MAP_READ, MAP_WRITE};

use crate::grants::grants;
use crate::memory::Shared;
use crate::time::{Duration, Instant};
use crate::{cpu, wait};

/// Most bytes of one message.
const FRAME_MAX: usize = 512;
/// How often a thread looks whether another one's message is complete, and how long it sleeps in
/// between; then it takes the logger over.
const TURNS: u32 = 50;
const TURN: Duration = Duration::from_micros(20);

static HELD: AtomicBool = AtomicBool::new(false);
static LEN: AtomicUsize = AtomicUsize::new(0);
static BYTES: [AtomicU8; FRAME_MAX] = [const { AtomicU8::new(0) }; FRAME_MAX];

/// Bytes of the ring, 0 for none.
static RING_BYTES: AtomicU32 = AtomicU32::new(0);
/// What the frames carry.
static SOURCE: AtomicU16 = AtomicU16::new(0);
static CORE: AtomicU8 = AtomicU8::new(0);

/// In place of a message that is longer than the buffer.
const TOO_LONG: &[u8] = b"a log message of more than 512 bytes is left out here; log less at once";

/// Finds the ring; the start code calls it before `main`.
pub(crate) fn start() {
    let grants = grants();
    SOURCE.store(grants.task(), Ordering::Relaxed);
    CORE.store(grants.core().to_le_bytes()[0], Ordering::Relaxed);
    RING_BYTES.store(grants.log_bytes(), Ordering::Relaxed);
}

/// Forgets a frame that was begun; the panic handler calls it.
#[cfg(not(test))]
pub(crate) fn abandon() {
    HELD.store(false, Ordering::Relaxed);
}

/// Appends a frame to the ring. The writer is adopted anew each time: all that it needs to know
/// stands in the ring, and so nothing has to be kept between two messages.
fn push(kind: u8, frame: &[u8]) {
    let bytes = u64::from(RING_BYTES.load(Ordering::Relaxed)).min(LOG_RING_MAX);
    if bytes == 0 {
        return;
    }
    // SAFETY: the kernel maps the task's log ring there, writable and page aligned, as long as the
    // task information says; this is the only place that looks at it.
    let ring = unsafe { Shared::at(LOG_RING, bytes, MAP_READ | MAP_WRITE) };
    let mut writer = Writer::adopt(ring.words(), SOURCE.load(Ordering::Relaxed));
    writer.push(kind, CORE.load(Ordering::Relaxed), cpu::tsc(), frame);
}

#[cfg_attr(not(test), defmt::global_logger)]
struct Logger;

// SAFETY: `acquire` lets one thread in at a time, `write` and `release` come between it and the
// next `acquire`; should a thread be passed over, all it shares with the next one are atomics.
#[cfg_attr(test, allow(unused))]
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        for _ in 0..TURNS {
            if !HELD.swap(true, Ordering::Acquire) {
                break;
            }
            wait::sleep_until(Instant::from_tsc(cpu::tsc()) + TURN);
        }
        LEN.store(0, Ordering::Relaxed);
    }

    unsafe fn flush() {
        // The ring is the destination; there is nothing behind it that could be waited for.
    }

    unsafe fn release() {
        let len = LEN.load(Ordering::Relaxed);
        let mut frame = [0; FRAME_MAX];
        for (to, from) in frame.iter_mut().zip(&BYTES) {
            *to = from.load(Ordering::Relaxed);
        }
        match frame.get(..len) {
            Some(frame) => push(KIND_DEFMT, frame),
            None => push(KIND_TEXT, TOO_LONG),
        }
        HELD.store(false, Ordering::Release);
    }

    unsafe fn write(bytes: &[u8]) {
        let len = LEN.load(Ordering::Relaxed);
        for (to, from) in BYTES.iter().skip(len).zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        LEN.store(len.saturating_add(bytes.len()), Ordering::Relaxed);
    }
}
