//! The shipped queue under loom, with a driver on another CPU: what an index promises is seen, and
//! neither side sleeps through the other's news. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-virtio --test loom_queue --release`.
#![cfg(loom)]

use cloister_guestmem::{BadAddress, GuestPhys, Ram};
use cloister_virtio::{Chain, Queue, Record, features};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use loom::thread;

/// A queue of one descriptor: table, driver area, device area, and a buffer of two bytes.
const DRIVER: u64 = 16;
const DEVICE: u64 = 24;
const BUFFER: u64 = 38;
const RAM: u64 = 40;

/// Offset of the index in either ring, of its first entry, and of the wish behind the entries.
const INDEX: u64 = 2;
const ENTRY: u64 = 4;
const USED_EVENT: u64 = DRIVER + 6;
const AVAILABLE_EVENT: u64 = DEVICE + 12;

/// Memory of halfwords; payload has no order of its own.
struct LoomRam(Vec<AtomicU16>);

impl LoomRam {
    fn new() -> Arc<LoomRam> {
        Arc::new(LoomRam((0..RAM / 2).map(|_| AtomicU16::new(0)).collect()))
    }

    fn at(&self, at: u64) -> &AtomicU16 {
        &self.0[(at / 2) as usize]
    }

    /// The driver describes its buffer, for the device to write, and makes it available.
    fn offer(&self) {
        self.at(0).store(BUFFER as u16, Ordering::Relaxed);
        self.at(8).store(2, Ordering::Relaxed);
        self.at(12).store(2, Ordering::Relaxed);
        self.at(DRIVER + ENTRY).store(0, Ordering::Relaxed);
        self.at(DRIVER + INDEX).store(1, Ordering::Release);
    }

    fn queue(&self, features: u64) -> Queue {
        let record = Record { size: 1, descriptors: 0, driver: DRIVER, device: DEVICE };
        Queue::new(&record, features, 1, 1, &self).unwrap()
    }
}

impl Ram for LoomRam {
    fn size(&self) -> u64 {
        RAM
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        for (place, pair) in (at.get()..).step_by(2).zip(bytes.chunks_mut(2)) {
            pair.copy_from_slice(&self.at(place).load(Ordering::Relaxed).to_le_bytes());
        }
        Ok(())
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        for (place, pair) in (at.get()..).step_by(2).zip(bytes.chunks(2)) {
            let value = u16::from_le_bytes([pair[0], pair[1]]);
            self.at(place).store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        Ok(self.at(at.get()).load(order))
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        self.at(at.get()).store(value, order);
        Ok(())
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        self.at(at.get()).store(value as u16, order);
        self.at(at.get() + 2).store((value >> 16) as u16, order);
        Ok(())
    }
}

fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Without a bound the halfwords of each descriptor alone are millions of orders.
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn what_an_index_promises_is_seen_on_either_side() {
    bounded(|| {
        let ram = LoomRam::new();
        let guests = ram.clone();
        let driver = thread::spawn(move || {
            guests.offer();
            // Once is enough: in some of the orders it is there.
            if guests.at(DEVICE + INDEX).load(Ordering::Acquire) == 1 {
                assert_eq!(guests.at(DEVICE + ENTRY + 4).load(Ordering::Relaxed), 2, "its length");
                assert_eq!(guests.at(BUFFER).load(Ordering::Relaxed), 0x5555, "its bytes");
            }
        });
        let mut queue = ram.queue(0);
        let mut chain = Chain::<1>::default();
        if let Some(head) = queue.fetch(&*ram, &mut chain).expect("the chain is seen whole") {
            assert_eq!(chain.writable_len(), 2);
            chain.write(&*ram, 0, &[0x55; 2]).unwrap();
            queue.complete(&*ram, head, 2).unwrap();
        }
        driver.join().unwrap();
    });
}

/// The driver makes a chain available while the device goes to sleep: it rings, or the device
/// stays awake.
fn no_kick_is_lost(features: u64) {
    bounded(move || {
        let ram = LoomRam::new();
        let bell = Arc::new(AtomicU64::new(0));
        // The device is busy: the driver need not ring.
        let mut queue = ram.queue(features);
        match features {
            0 => queue.hush(&*ram).unwrap(),
            _ => ram.at(AVAILABLE_EVENT).store(7, Ordering::Relaxed),
        }
        let (guests, kernels) = (ram.clone(), bell.clone());
        let driver = thread::spawn(move || {
            guests.offer();
            fence(Ordering::SeqCst);
            let wants = match features {
                0 => guests.at(DEVICE).load(Ordering::Relaxed) == 0,
                _ => guests.at(AVAILABLE_EVENT).load(Ordering::Relaxed) == 0,
            };
            if wants {
                kernels.fetch_add(1, Ordering::Release);
            }
        });
        let is_awake = queue.listen(&*ram).unwrap();
        driver.join().unwrap();
        let rung = bell.load(Ordering::Acquire) != 0;
        assert!(is_awake || rung, "the device sleeps and the driver has not rung");
    });
}

#[test]
fn no_kick_is_lost_with_event_indices() {
    no_kick_is_lost(features::EVENT_IDX);
}

#[test]
fn no_kick_is_lost_with_flags() {
    no_kick_is_lost(0);
}

/// The device uses a chain while the driver goes to sleep: it interrupts, or the driver stays
/// awake.
fn no_interrupt_is_lost(features: u64) {
    bounded(move || {
        let ram = LoomRam::new();
        ram.offer();
        let (asleep, awake) = match features {
            0 => (0, 1),
            _ => (0, 9),
        };
        let wish = if features == 0 { DRIVER } else { USED_EVENT };
        ram.at(wish).store(awake, Ordering::Relaxed);
        let guests = ram.clone();
        let driver = thread::spawn(move || {
            guests.at(wish).store(asleep, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            guests.at(DEVICE + INDEX).load(Ordering::Acquire) == 1
        });
        let mut queue = ram.queue(features);
        let head = queue.fetch(&*ram, &mut Chain::<1>::default()).unwrap().unwrap();
        queue.complete(&*ram, head, 2).unwrap();
        let interrupts = queue.wants_interrupt(&*ram).unwrap();
        let is_awake = driver.join().unwrap();
        assert!(interrupts || is_awake, "the driver sleeps and was not interrupted");
    });
}

#[test]
fn no_interrupt_is_lost_with_event_indices() {
    no_interrupt_is_lost(features::EVENT_IDX);
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    no_interrupt_is_lost(0);
}

/// A packed queue of one descriptor, in the same bytes: ring, driver's and device's events.
const EVENTS: [u64; 2] = [DRIVER, DRIVER + 4];
/// Flags of a descriptor, and of an event structure, in their halfwords.
const FLAGS: u64 = 14;
const OPEN: u16 = 1 << 7 | 2;
const USED: u16 = 1 << 15 | 1 << 7 | 2;

impl LoomRam {
    /// The driver makes its buffer available.
    fn offer_packed(&self) {
        self.at(0).store(BUFFER as u16, Ordering::Relaxed);
        self.at(8).store(2, Ordering::Relaxed);
        self.at(12).store(5, Ordering::Relaxed);
        self.at(FLAGS).store(OPEN, Ordering::Release);
    }

    fn packed(&self, features: u64) -> Queue {
        let record = Record { size: 1, descriptors: 0, driver: EVENTS[0], device: EVENTS[1] };
        Queue::new(&record, features | features::RING_PACKED, 1, 1, &self).unwrap()
    }
}

#[test]
fn what_packed_flags_promise_is_seen_on_either_side() {
    bounded(|| {
        let ram = LoomRam::new();
        let guests = ram.clone();
        let driver = thread::spawn(move || {
            guests.offer_packed();
            // Both sides use the same halfword, so that the model tries no other order by itself.
            thread::yield_now();
            // Once is enough: in some of the orders it is there.
            if guests.at(FLAGS).load(Ordering::Acquire) == USED {
                assert_eq!(guests.at(8).load(Ordering::Relaxed), 2, "its length");
                assert_eq!(guests.at(12).load(Ordering::Relaxed), 5, "its id");
                assert_eq!(guests.at(BUFFER).load(Ordering::Relaxed), 0x5555, "its bytes");
            }
        });
        let mut queue = ram.packed(0);
        let mut chain = Chain::<1>::default();
        if let Some(head) = queue.fetch(&*ram, &mut chain).expect("the chain is seen whole") {
            assert_eq!(chain.writable_len(), 2);
            chain.write(&*ram, 0, &[0x55; 2]).unwrap();
            queue.complete(&*ram, head, 2).unwrap();
        }
        driver.join().unwrap();
    });
}

#[test]
fn no_kick_of_a_packed_ring_is_lost() {
    for features in [0, features::EVENT_IDX] {
        bounded(move || {
            let ram = LoomRam::new();
            let bell = Arc::new(AtomicU64::new(0));
            let mut queue = ram.packed(features);
            queue.hush(&*ram).unwrap();
            let (guests, kernels) = (ram.clone(), bell.clone());
            let driver = thread::spawn(move || {
                guests.offer_packed();
                fence(Ordering::SeqCst);
                // Either everything is wanted, or the place that was just filled.
                if guests.at(EVENTS[1] + 2).load(Ordering::Acquire) != 1 {
                    kernels.fetch_add(1, Ordering::Release);
                }
            });
            let is_awake = queue.listen(&*ram).unwrap();
            driver.join().unwrap();
            let rung = bell.load(Ordering::Acquire) != 0;
            assert!(is_awake || rung, "the device sleeps and the driver has not rung");
        });
    }
}

#[test]
fn no_interrupt_of_a_packed_ring_is_lost() {
    for features in [0, features::EVENT_IDX] {
        bounded(move || {
            let ram = LoomRam::new();
            ram.offer_packed();
            ram.at(EVENTS[0] + 2).store(1, Ordering::Relaxed);
            let guests = ram.clone();
            let driver = thread::spawn(move || {
                // With event indices the place of the chain, of the first lap.
                guests.at(EVENTS[0]).store(1 << 15, Ordering::Relaxed);
                let flags = if features == 0 { 0 } else { 2 };
                guests.at(EVENTS[0] + 2).store(flags, Ordering::Release);
                fence(Ordering::SeqCst);
                guests.at(FLAGS).load(Ordering::Acquire) == USED
            });
            let mut queue = ram.packed(features);
            let head = queue.fetch(&*ram, &mut Chain::<1>::default()).unwrap().unwrap();
            queue.complete(&*ram, head, 2).unwrap();
            let interrupts = queue.wants_interrupt(&*ram).unwrap();
            let is_awake = driver.join().unwrap();
            assert!(interrupts || is_awake, "the driver sleeps and was not interrupted");
        });
    }
}
