//! Every interleaving of a worker, thread 0 and another virtual CPU: a completion against mask and
//! unmask, orders against answers, a changing configuration.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p cloister-monitor --test loom_msix`.
//! A signal is a [`Notify`]. Everybody looks before it waits, so that what it finds need not have
//! come with a signal; a lost wake-up shows as loom's "deadlock". The data that a completion tells
//! of is written and read with `Relaxed`, so that only the shipped modules can order it.
#![cfg(loom)]

use cloister_monitor::apic::{Kind, Message};
use cloister_monitor::msix::{Msix, PAGE_WORDS};
use cloister_monitor::posted::Posted;
use cloister_monitor::request::{Op, Request, Requests};
use cloister_monitor::virtio::Virtio;
use cloister_virtio::{Offer, Order, Worker, wire};
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::{Arc, Notify};
use loom::thread;

const VECTOR: u8 = 0x41;
const MASKED: u64 = 1 << 32;
const F_VERSION_1: u64 = 1 << 32;
const OFFER: Offer<'static> = Offer { features: 0, queue_size: 8, config: &[] };

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// The driver brings queue 0 up, on vector 0, with rings that tell which life they belong to.
fn go_live(device: &mut Virtio, life: u32) {
    for (offset, width, value) in [
        (0x14, 1, 1),
        (0x14, 1, 3),
        (0x08, 4, 1),
        (0x0c, 4, 1),
        (0x14, 1, 0xb),
        (0x1a, 2, 0),
        (0x20, 4, life << 12),
        (0x28, 4, life << 13),
        (0x30, 4, life << 14),
        (0x1c, 2, 1),
        (0x14, 1, 0xf),
    ] {
        let _ = device.write(offset, width, value);
    }
    assert_eq!(device.read(0x14, 1), 0xf);
}

struct System {
    words: Vec<AtomicU64>,
    page: Vec<AtomicU64>,
    requests: Requests,
    posted: Posted,
    /// Signals of thread 0 and of the other virtual CPU's thread.
    zero: Notify,
    one: Notify,
    /// How many buffers the worker has used; the guest's memory.
    used: AtomicU64,
    done: AtomicU64,
}

impl System {
    /// As `cloister_virtio::Worker::used` does it.
    fn use_buffer(&self, number: u64) {
        self.used.store(number, Relaxed);
        if self.words[wire::PENDING].fetch_or(1, Release) == 0 {
            self.zero.notify();
        }
    }

    /// Thread 0: delivers to the other virtual CPU.
    fn deliver(&self, message: Message) {
        assert_eq!(message.kind, Kind::Fixed(VECTOR));
        if self.posted.vector(VECTOR, false) {
            self.one.notify();
        }
    }

    /// The guest stores an entry: asks thread 0 and waits.
    fn store_entry(&self, data: u64) {
        let values = [0xfee0_1000, data];
        let request = Request { op: Op::MemoryWrite, address: 0, width: 4, values };
        if self.requests.ask(1, &request) {
            self.zero.notify();
        }
        while self.requests.answer(1).is_none() {
            self.one.wait();
        }
    }

    /// Thread 0, until the guest has seen everything. How many messages were sent.
    fn serve(&self, device: &mut Virtio, msix: &mut Msix) -> usize {
        let mut sent = 0;
        loop {
            let mut send = |message| {
                sent += 1;
                self.deliver(message);
            };
            // As `Devices::completion` does if the interrupt is for another virtual CPU.
            if let Some(pending) = device.take_completions() {
                device.put_back(pending);
            }
            msix.raise(device.poll(true).vectors, &mut send);
            while let Some((vcpu, request)) = self.requests.next() {
                msix.write(request.address as u16, request.values, &mut send);
                self.requests.reply(vcpu, [0; 2]);
                self.one.notify();
            }
            if self.done.load(Acquire) != 0 {
                return sent;
            }
            self.zero.wait();
        }
    }

    /// The guest waits for interrupts until it has seen so many used buffers.
    fn wait_for(&self, used: u64) {
        loop {
            match self.posted.drain() {
                Some(taken) if taken.vectors[1] != 0 && self.used.load(Relaxed) == used => break,
                Some(_) => {}
                None => self.one.wait(),
            }
        }
        self.done.store(1, Release);
        self.zero.notify();
    }
}

/// A system whose device is live, MSI-X on, vector 0 masked; runs worker, guest and thread 0.
/// Checks the number of messages.
fn race(worker: fn(&System), guest: fn(&System), counts: core::ops::RangeInclusive<usize>) {
    explore(move || {
        let system = Arc::new(System {
            words: words(wire::WORDS),
            page: words(PAGE_WORDS),
            requests: Requests::default(),
            posted: Posted::default(),
            zero: Notify::new(),
            one: Notify::new(),
            used: AtomicU64::new(0),
            done: AtomicU64::new(0),
        });
        let mut device = Virtio::new(&system.words, 1, 1 << 20).unwrap();
        system.words[wire::QUEUE_SIZE].store(8, Relaxed);
        system.words[wire::ANSWER].store(system.words[wire::ORDER].load(Relaxed), Relaxed);
        let _ = device.poll(true);
        go_live(&mut device, 1);
        let mut msix = Msix::new(&system.page, 2).unwrap();
        msix.set_control(true, false, &mut |_| panic!("a message"));
        let threads = [worker, guest].map(|role| {
            let system = Arc::clone(&system);
            thread::spawn(move || role(&system))
        });
        let sent = system.serve(&mut device, &mut msix);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(counts.contains(&sent), "{sent} messages");
        assert_eq!(msix.read(0x800), [0, 0], "still pending");
    });
}

#[test]
fn no_completion_is_lost_when_two_come_while_the_guest_unmasks() {
    race(
        |system| {
            system.use_buffer(1);
            system.use_buffer(2);
        },
        |system| {
            system.store_entry(u64::from(VECTOR));
            system.wait_for(2);
        },
        1..=2,
    );
}

#[test]
fn unmasking_delivers_a_completion_exactly_once_though_the_guest_masks_again() {
    race(
        |system| system.use_buffer(1),
        |system| {
            system.store_entry(u64::from(VECTOR));
            system.store_entry(u64::from(VECTOR) | MASKED);
            system.store_entry(u64::from(VECTOR));
            system.wait_for(1);
        },
        1..=1,
    );
}

/// What the shipped worker and the shipped transport share in a model.
struct Shared {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    worker: Notify,
    monitor: Notify,
    /// The guest's memory: the worker's last access under each order.
    touched: AtomicU64,
}

/// The worker's side, through two lives of the device.
fn work_two_lives(theirs: &Shared) {
    let mut worker = Worker::new(&theirs.words, &theirs.bells, 0, &OFFER).unwrap();
    loop {
        match worker.order() {
            None => theirs.worker.wait(),
            Some(Order::Reset) => {
                theirs.touched.store(worker.life(), Relaxed);
                worker.answer();
                theirs.monitor.notify();
            }
            Some(Order::Live(setup)) => {
                let [queue, unused, ..] = setup.queues;
                let life = queue.descriptors >> 12;
                let parts = (queue.size, queue.driver >> 13, queue.device >> 14);
                assert_eq!((parts, setup.features), ((8, life, life), F_VERSION_1));
                assert_eq!(unused.size, 0);
                assert!(life == 1 || life == 2);
                if worker.used(0) {
                    theirs.monitor.notify();
                }
                if life == 2 {
                    return;
                }
            }
        }
    }
}

/// The shipped worker against the shipped transport, through two lives of the device.
#[test]
fn a_worker_sees_whole_queues_and_a_driver_no_reset_before_its_time() {
    explore(|| {
        let shared = Arc::new(Shared {
            words: words(wire::WORDS),
            bells: words(4),
            worker: Notify::new(),
            monitor: Notify::new(),
            touched: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || work_two_lives(&theirs));
        let mut device = Virtio::new(&shared.words, 1, 1 << 20).unwrap();
        shared.worker.notify();
        let settle = |device: &mut Virtio| {
            while !device.is_ready() {
                let action = device.poll(true);
                assert_eq!(action.vectors, 0, "a completion of the old life");
                if !device.is_ready() {
                    shared.monitor.wait();
                }
            }
            let order = shared.words[wire::ORDER].load(Relaxed);
            assert_eq!(shared.touched.load(Relaxed), order, "the reset was told too early");
            assert_eq!(device.poll(true).vectors, 0, "a completion of the old life");
        };
        settle(&mut device);
        go_live(&mut device, 1);
        shared.worker.notify();
        assert!(device.write(0x14, 1, 0).signal);
        assert_eq!(device.read(0x14, 1), 0xf);
        shared.worker.notify();
        settle(&mut device);
        go_live(&mut device, 2);
        shared.worker.notify();
        while device.poll(true).vectors == 0 {
            shared.monitor.wait();
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_driver_never_sees_half_of_a_configuration() {
    explore(|| {
        let shared = Arc::new((words(wire::WORDS), words(4), Notify::new()));
        let mut device = Virtio::new(&shared.0, 1, 1 << 20).unwrap();
        shared.0[wire::ANSWER].store(shared.0[wire::ORDER].load(Relaxed), Relaxed);
        let _ = device.poll(true);
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let worker = Worker::new(&theirs.0, &theirs.1, 0, &OFFER).unwrap();
            for value in [1, 2] {
                worker.configure(&[value; 16]);
                theirs.2.notify();
            }
        });
        loop {
            let _ = device.poll(true);
            let (first, second) = (device.read(0x80, 4), device.read(0x88, 4));
            assert_eq!(first, second, "half of a configuration");
            if first == 0x0202_0202 {
                break;
            }
            shared.2.wait();
        }
        thread.join().unwrap();
    });
}
