//! The shipped worker's page under loom, with the monitor and the kernel on other CPUs. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-virtio --test loom_worker --release`.
#![cfg(loom)]

use cloister_virtio::{Offer, Order, Record, Worker, wire};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

type Words = Arc<Vec<AtomicU64>>;

const OFFER: Offer<'static> = Offer { features: 0, queue_size: 4, config: &[1; 16] };

fn words(count: usize) -> Words {
    Arc::new((0..count).map(|_| AtomicU64::new(0)).collect())
}

fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Without a bound the words of eight queues alone are millions of orders.
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn worker<'a>(page: &'a Words, bells: &'a Words) -> Worker<'a> {
    Worker::new(page, bells, 1, &OFFER).unwrap()
}

/// The monitor writes a queue of size `size`, and the order.
fn order(page: &Words, number: u64, size: u64) {
    for (word, value) in [size, size << 8, size << 16, size << 24].into_iter().enumerate() {
        page[wire::QUEUES + word].store(value, Ordering::Relaxed);
    }
    page[wire::FEATURES].store(size, Ordering::Relaxed);
    page[wire::ORDER].store(number, Ordering::Release);
}

#[test]
fn a_live_order_comes_with_its_queues_whatever_the_monitor_does_next() {
    bounded(|| {
        let (page, bells) = (words(wire::WORDS), words(1));
        let mut worker = worker(&page, &bells);
        let monitors = page.clone();
        let monitor = thread::spawn(move || {
            order(&monitors, 1, 4);
            // A monitor that was restarted waits for no answer. A fence, because the next queues
            // must not be seen before the order that makes the last ones void.
            monitors[wire::ORDER].store(2, Ordering::Relaxed);
            fence(Ordering::Release);
            order(&monitors, 3, 2);
        });
        for _ in 0..2 {
            if let Some(Order::Live(setup)) = worker.order() {
                let size = if worker.life() == 1 { 4 } else { 2 };
                let expected =
                    Record { size, descriptors: size << 8, driver: size << 16, device: size << 24 };
                assert_eq!((setup.features, setup.queues[0]), (size, expected));
            }
        }
        monitor.join().unwrap();
        let last = worker.order();
        assert!(worker.life() == 3, "the last order is never missed: {last:?}");
    });
}

#[test]
fn after_the_answer_no_guest_page_is_touched() {
    bounded(|| {
        let (page, bells) = (words(wire::WORDS), words(1));
        page[wire::ORDER].store(2, Ordering::Relaxed);
        page[wire::PENDING].store(1, Ordering::Relaxed);
        let guest = Arc::new(AtomicU64::new(0));
        let (monitors, rams) = (page.clone(), guest.clone());
        let monitor = thread::spawn(move || {
            if monitors[wire::ANSWER].load(Ordering::Acquire) == 2 {
                // The new life begins. What the old one wrote is in the past.
                assert_eq!(rams.load(Ordering::Relaxed), 1, "a write of the old life comes later");
                assert_eq!(monitors[wire::PENDING].load(Ordering::Relaxed), 0);
                assert_eq!(monitors[wire::QUEUE_SIZE].load(Ordering::Relaxed), 4);
            }
        });
        let mut worker = worker(&page, &bells);
        guest.store(1, Ordering::Relaxed);
        assert_eq!(worker.order(), Some(Order::Reset));
        worker.answer();
        monitor.join().unwrap();
    });
}

#[test]
fn a_pending_bit_is_signalled_and_what_it_says_is_there() {
    bounded(|| {
        let (page, bells) = (words(wire::WORDS), words(1));
        let (used, signal) = (words(2), Arc::new(AtomicU64::new(0)));
        let (monitors, rings, monitors_signal) = (page.clone(), used.clone(), signal.clone());
        let take = move || {
            let bits = monitors[wire::PENDING].swap(0, Ordering::Acquire);
            for queue in (0..2).filter(|queue| bits & 1 << queue != 0) {
                assert_eq!(rings[queue].load(Ordering::Relaxed), 1, "queue {queue}");
            }
        };
        let taker = take.clone();
        let monitor = thread::spawn(move || {
            // As after each wake: first the signal is taken, then the bits.
            monitors_signal.swap(0, Ordering::AcqRel);
            taker();
        });
        let worker = worker(&page, &bells);
        for queue in 0..2 {
            used[queue].store(1, Ordering::Relaxed);
            if worker.used(queue) {
                signal.fetch_or(1, Ordering::Release);
            }
        }
        monitor.join().unwrap();
        if signal.load(Ordering::Acquire) != 0 {
            take();
        }
        assert_eq!(page[wire::PENDING].load(Ordering::Relaxed), 0, "a bit waits for a signal");
    });
}

#[test]
fn no_doorbell_is_lost_between_looking_and_sleeping() {
    bounded(|| {
        let (page, bells) = (words(wire::WORDS), words(2));
        let (ring, signal) = (words(1), Arc::new(AtomicU64::new(0)));
        let (guests, kernels, kernels_signal) = (ring.clone(), bells.clone(), signal.clone());
        let guest = thread::spawn(move || {
            guests[0].store(1, Ordering::Relaxed);
            // The counter of queue 0 is number 1: the upper half of the first word.
            kernels[0].fetch_add(1 << 32, Ordering::Release);
            kernels_signal.fetch_or(1, Ordering::Release);
        });
        let mut worker = worker(&page, &bells);
        let mut found = 0;
        let mut look = |worker: &mut Worker<'_>| {
            let rung = worker.rings(2);
            assert_eq!(rung & !1, 0, "nobody rang for queue 1");
            if rung != 0 {
                found += 1;
                assert_eq!(ring[0].load(Ordering::Relaxed), 1, "rung before the ring was written");
            }
        };
        // A wake for something else comes at any moment.
        signal.swap(0, Ordering::Acquire);
        look(&mut worker);
        guest.join().unwrap();
        // Asleep, until the bit is set; then awake.
        if signal.swap(0, Ordering::Acquire) != 0 {
            look(&mut worker);
        }
        assert_eq!(found, 1, "the doorbell was seen so often");
    });
}

#[test]
fn no_doorbell_is_lost_that_comes_by_way_of_the_monitor() {
    bounded(|| by_way_of_the_monitor(true));
    bounded(|| by_way_of_the_monitor(false));
}

fn by_way_of_the_monitor(is_each: bool) {
    let (page, bells) = (words(wire::WORDS), words(2));
    let (ring, signal) = (words(1), Arc::new(AtomicU64::new(0)));
    let (guests, monitors, monitors_signal) = (ring.clone(), page.clone(), signal.clone());
    let guest = thread::spawn(move || {
        guests[0].store(1, Ordering::Relaxed);
        monitors[wire::RINGS].fetch_add(1, Ordering::Release);
        monitors_signal.fetch_or(1, Ordering::Release);
    });
    let mut worker = worker(&page, &bells);
    let mut found = [0; 2];
    let mut look = |worker: &mut Worker<'_>| {
        // By itself, or with all others in one look.
        let rung = if is_each { None } else { Some(worker.rings(2)) };
        for (queue, found) in found.iter_mut().enumerate() {
            if rung.map_or_else(|| worker.rung(queue), |rung| rung & 1 << queue != 0) {
                *found += 1;
                assert_eq!(ring[0].load(Ordering::Relaxed), 1, "rung before it was written");
            }
        }
    };
    signal.swap(0, Ordering::Acquire);
    look(&mut worker);
    guest.join().unwrap();
    if signal.swap(0, Ordering::Acquire) != 0 {
        look(&mut worker);
    }
    assert_eq!(found, [1; 2], "every queue is rung once");
}

#[test]
fn a_configuration_is_read_whole_or_known_to_be_torn() {
    bounded(|| {
        let (page, bells) = (words(wire::WORDS), words(1));
        let worker = worker(&page, &bells);
        let monitors = page.clone();
        let monitor = thread::spawn(move || {
            let generation = &monitors[wire::CONFIG_GENERATION];
            let before = generation.load(Ordering::Acquire);
            let config = [0, 1].map(|n| monitors[wire::CONFIG + n].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before % 2 == 0 && generation.load(Ordering::Relaxed) == before {
                assert_eq!(config[0], config[1], "two configurations in one");
                let expected = if before == 0 { 1 } else { 2 };
                assert_eq!(config[0].to_le_bytes(), [expected; 8], "generation {before}");
            }
        });
        worker.configure(&[2; 16]);
        monitor.join().unwrap();
    });
}
