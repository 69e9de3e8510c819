//! What monitor and worker order between a guest's memory and the words that they share, under loom: a
//! doorbell that comes to the monitor, through the window in configuration space, and a worker that
//! is given up. The monitor's side is the shipped one; so is the worker's, but for its end, which is
//! the kernel's and the supervisor's.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p cloister-monitor --test loom_rings --release`.
#![cfg(loom)]

use cloister_guest_abi::platform;
use cloister_monitor::virtio::Virtio;
use cloister_virtio::{Offer, Worker, wire};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Relaxed, Release};
use loom::thread;

const OFFER: Offer<'static> = Offer { features: 0, queue_size: 8, config: &[] };

/// The shared words, the kernel's counters, and a word of the guest's memory.
struct System {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    ring: AtomicU64,
}

fn system() -> Arc<System> {
    let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
    Arc::new(System { words: words(wire::WORDS), bells: words(1), ring: AtomicU64::new(0) })
}

#[test]
fn a_worker_that_hears_the_monitors_doorbell_sees_what_the_guest_wrote() {
    let mut builder = loom::model::Builder::new();
    // Without a bound the words that the worker writes first are millions of orders.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let system = system();
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

#[test]
fn a_reset_that_no_worker_answers_comes_after_the_last_write_of_the_one_that_was_given_up() {
    loom::model(|| {
        let system = system();
        let workers = system.clone();
        let worker = thread::spawn(move || {
            workers.ring.store(1, Relaxed);
            // As the supervisor does once the worker is parked.
            workers.words[wire::GONE].store(1, Release);
        });
        let mut device = Virtio::new(&system.words, 1, 1 << 20).unwrap();
        if device.is_ready() {
            assert_eq!(system.ring.load(Relaxed), 1, "a write of the old life comes later");
        }
        worker.join().unwrap();
        assert!(device.is_ready(), "nobody answers a reset any more");
    });
}
