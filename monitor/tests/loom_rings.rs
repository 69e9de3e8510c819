//! A doorbell that comes to the monitor, through the window in configuration space, under loom: the
//! worker that hears of it sees what the guest had written before. Both sides are the shipped ones.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p cloister-monitor --test loom_rings --release`.
#![cfg(loom)]

use cloister_guest_abi::platform;
use cloister_monitor::virtio::Virtio;
use cloister_virtio::{Offer, Worker, wire};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

const OFFER: Offer<'static> = Offer { features: 0, queue_size: 8, config: &[] };

/// The shared words, the kernel's counters, and a word of the guest's memory.
struct System {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    ring: AtomicU64,
}

#[test]
fn a_worker_that_hears_the_monitors_doorbell_sees_what_the_guest_wrote() {
    let mut builder = loom::model::Builder::new();
    // Without a bound the words that the worker writes first are millions of orders.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let system = Arc::new(System {
            words: words(wire::WORDS),
            bells: words(1),
            ring: AtomicU64::new(0),
        });
        let workers = system.clone();
        let worker = thread::spawn(move || {
            let worker = Worker::new(&workers.words, &workers.bells, 1, &OFFER);
            if worker.unwrap().rung(0) {
                assert_eq!(workers.ring.load(Relaxed), 1, "rung before it was written");
            }
        });
        let mut device = Virtio::new(&system.words, 1, 1 << 20).unwrap();
        system.ring.store(1, Relaxed);
        let _ = device.write(platform::VIRTIO_NOTIFY, 2, 0);
        worker.join().unwrap();
    });
}
