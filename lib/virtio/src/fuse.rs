//! Death at a chosen store, for tests: [`AtomicU64`] and [`FusedRam`] count stores and unwind
//! before the one at which the fuse has burnt down. What was stored before stays, as the memory of
//! a killed task does.

use core::cell::Cell;
use core::sync::atomic::Ordering;
use std::panic::resume_unwind;
use std::thread_local;

use cloister_guestmem::{BadAddress, GuestPhys, Ram};
use cloister_virtio_testing::TestRam;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// What unwinds.
pub(crate) struct Death;

/// How many stores the code under test may do from now on.
pub(crate) fn set(stores: u64) {
    LEFT.set(stores);
}

fn burn() {
    match LEFT.get() {
        0 => resume_unwind(std::boxed::Box::new(Death)),
        left => LEFT.set(left - 1),
    }
}

/// A word whose stores burn the fuse.
#[derive(Debug, Default)]
pub struct AtomicU64(core::sync::atomic::AtomicU64);

impl AtomicU64 {
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        burn();
        self.0.store(value, order);
    }

    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        burn();
        self.0.fetch_or(bits, order)
    }

    /// A store by somebody else.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

/// Memory of a guest in which stores of the device burn the fuse.
pub(crate) struct FusedRam<'a>(pub(crate) &'a TestRam);

impl Ram for FusedRam<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        self.0.read_into(at, bytes)
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        burn();
        self.0.write_from(at, bytes)
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        self.0.load_u16(at, order)
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        burn();
        self.0.store_u16(at, value, order)
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        burn();
        self.0.store_u32(at, value, order)
    }
}
