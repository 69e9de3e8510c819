//! A device's life: orders, answers, doorbells, a broken rule, a restart.
#![cfg(not(loom))]

use cloister_virtio::{Chain, Change, Device, Offer, Rule, TooSmall, Worker, features, wire};
use cloister_virtio_testing::{Driver, Monitor, TestRam, page};
use core::sync::atomic::{AtomicU64, Ordering};
use proptest::prelude::*;

const OFFER: Offer<'static> =
    Offer { features: features::RINGS, queue_size: 8, config: b"configuration" };

struct Bench {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    ram: TestRam,
}

impl Bench {
    fn new() -> Bench {
        Bench { words: page(), bells: page(), ram: TestRam::new(1 << 16) }
    }

    fn monitor(&self) -> Monitor<'_> {
        Monitor::new(&self.words, &self.bells, 5)
    }

    fn device(&self) -> Device<'_, &TestRam, 2> {
        let worker = Worker::new(&self.words, &self.bells, 5, &OFFER).unwrap();
        Device::new(worker, &self.ram, OFFER.queue_size)
    }

    fn word(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }
}

#[test]
fn a_device_tells_what_it_is_before_it_answers() {
    let bench = Bench::new();
    let mut device = bench.device();
    assert_eq!(bench.word(wire::OFFERS), features::RINGS);
    assert_eq!(bench.word(wire::QUEUE_SIZE), 8);
    let config: Vec<u8> =
        (wire::CONFIG..wire::WORDS).flat_map(|n| bench.word(n).to_le_bytes()).collect();
    assert_eq!((&config[..13], config.len()), (&b"configuration"[..], 64));
    assert!(config[13..].iter().all(|byte| *byte == 0));
    assert!(device.take_wake() && !device.take_wake(), "a monitor may wait for it");
    assert_eq!((device.follow(), bench.word(wire::ANSWER)), (Change::None, 0));
    bench.monitor().reset();
    assert!(!bench.monitor().is_answered());
    assert_eq!(device.follow(), Change::Reset);
    assert!(bench.monitor().is_answered() && device.take_wake());
    assert_eq!(device.follow(), Change::None);
}

#[test]
fn a_page_that_is_too_small_is_refused() {
    let words = page();
    let small = Worker::new(&words[..wire::WORDS - 1], &words, 0, &OFFER);
    assert_eq!(small.err(), Some(TooSmall { words: wire::WORDS - 1 }));
    assert!(Worker::new(&words[..wire::WORDS], &[], usize::MAX, &OFFER).is_ok());
}

#[test]
fn guest_memory_is_touched_only_between_live_and_reset() {
    let bench = Bench::new();
    let (mut device, monitor) = (bench.device(), bench.monitor());
    let mut chain = Chain::<8>::default();
    let mut held = None;
    for life in 0..20 {
        monitor.reset();
        bench.ram.lock(true);
        if life % 2 == 0 {
            // A monitor that was restarted may forget to wait: the next order is live at once.
            assert_eq!(device.follow(), Change::Reset);
        }
        if let Some(head) = held.take().filter(|_| life % 2 == 0) {
            device.complete(0, head, 1);
        }
        if life % 2 == 0 {
            assert!(device.fetch(0, &mut chain).is_none() && !device.listen(0));
            device.interrupt(0);
        }
        bench.ram.poke(0x1000, &[0; 0x200]);
        let mut driver = Driver::new(0x1000, 8);
        bench.ram.lock(false);
        monitor.live(features::RINGS, &[driver.record()]);
        assert_eq!(device.follow(), Change::Live);
        assert!(monitor.is_answered() && !monitor.is_broken());
        assert!(device.is_live(0) && !device.is_live(1) && !device.is_live(2));
        driver.add(&bench.ram, &[(0x4000, 4, true)]).unwrap();
        held = device.fetch(0, &mut chain);
        assert!(held.is_some(), "life {life}");
    }
    assert_eq!((bench.ram.trespasses(), bench.ram.outside()), (0, 0));
}

#[test]
fn an_order_waits_until_it_is_followed() {
    let bench = Bench::new();
    let (mut device, monitor) = (bench.device(), bench.monitor());
    assert!(!device.has_order());
    let mut driver = Driver::new(0x1000, 8);
    monitor.live(0, &[driver.record()]);
    assert!(device.has_order() && device.follow() == Change::Live && !device.has_order());
    driver.add(&bench.ram, &[(0x4000, 4, true)]).unwrap();
    let head = device.fetch(0, &mut Chain::<8>::default()).unwrap();
    // A reset that comes while the disk still writes to the guest: the answer waits for it.
    monitor.reset();
    assert!(device.has_order() && !monitor.is_answered());
    device.complete(0, head, 4);
    assert_eq!(
        driver.used(&bench.ram),
        Some((0, 4)),
        "the guest's memory is not anybody else's yet"
    );
    assert_eq!(device.follow(), Change::Reset);
    assert!(monitor.is_answered() && !device.has_order());
}

#[test]
fn used_buffers_are_reported_once_for_each_signal() {
    let bench = Bench::new();
    let (mut device, monitor) = (bench.device(), bench.monitor());
    let mut drivers = [Driver::new(0x1000, 8), Driver::new(0x2000, 8)];
    monitor.live(0, &[drivers[0].record(), drivers[1].record()]);
    assert_eq!((device.follow(), device.take_wake()), (Change::Live, true));
    let mut use_one = |device: &mut Device<'_, &TestRam, 2>, queue: usize| {
        drivers[queue].add(&bench.ram, &[(0x4000, 4, true)]).unwrap();
        let head = device.fetch(queue, &mut Chain::<8>::default()).unwrap();
        device.complete(queue, head, 4);
        device.interrupt(queue);
        device.take_wake()
    };
    assert!(use_one(&mut device, 1), "the first one is signalled");
    assert!(!use_one(&mut device, 0), "the signal is on its way already");
    assert_eq!(monitor.take_pending(), 0b11);
    assert!(use_one(&mut device, 0));
    // The monitor dies here and never takes the bit; the next one resets the device.
    monitor.reset();
    assert_eq!((device.follow(), device.take_wake()), (Change::Reset, true));
    assert_eq!(monitor.take_pending(), 0, "no interrupt belongs to the next life");
}

#[test]
fn doorbells_are_told_apart() {
    let bench = Bench::new();
    let (mut device, monitor) = (bench.device(), bench.monitor());
    let mut check = |expected: [bool; 2]| {
        assert_eq!([device.rung(0), device.rung(1)], expected);
        assert_eq!([device.rung(0), device.rung(1)], [false; 2], "once");
    };
    check([false, false]);
    monitor.ring(0);
    check([true, false]);
    monitor.ring(1);
    monitor.ring(1);
    check([false, true]);
    // Counters of others in the same words: 4 is beside 5, 7 is beside 6.
    Monitor::new(&bench.words, &bench.bells, 4).ring(0);
    Monitor::new(&bench.words, &bench.bells, 7).ring(0);
    check([false, false]);
    bench.bells[2].store(u64::from(u32::MAX) << 32, Ordering::Relaxed);
    check([true, false]);
    monitor.ring(0);
    check([true, false]);
}

#[test]
fn a_broken_rule_needs_a_reset_and_harms_no_later_life() {
    let bench = Bench::new();
    let (mut device, monitor) = (bench.device(), bench.monitor());
    for _ in 0..3 {
        let mut driver = Driver::new(0x1000, 8);
        bench.ram.poke(0x1000, &[0; 0x200]);
        monitor.live(0, &[driver.record(), Driver::new(0x2000, 8).record()]);
        assert_eq!(device.follow(), Change::Live);
        device.take_wake();
        driver.offer(&bench.ram, 8);
        assert!(device.fetch(0, &mut Chain::<8>::default()).is_none());
        assert!(monitor.is_broken() && device.take_wake());
        assert_eq!(device.take_broken(), Some(Rule::HeadTooLarge));
        assert_eq!(device.take_broken(), None, "it is told once");
        let before = bench.ram.accesses();
        assert!(!device.is_live(0) && !device.is_live(1) && !device.listen(1));
        assert_eq!(bench.ram.accesses(), before, "the other queue of the device is dead, too");
        monitor.reset();
        assert_eq!(device.follow(), Change::Reset);
        assert!(monitor.is_answered() && !monitor.is_broken());
    }
    // A queue that was never good.
    monitor.live(0, &[[16, 0x1000, 0x2000, 0x3000]]);
    assert_eq!(device.follow(), Change::Live);
    assert!(monitor.is_broken() && monitor.is_answered());
    assert_eq!(device.take_broken(), Some(Rule::QueueSize));
}

#[test]
fn a_worker_that_was_restarted_while_live_says_so() {
    let bench = Bench::new();
    let monitor = bench.monitor();
    let driver = Driver::new(0x1000, 8);
    // An earlier life, of which nothing is left.
    bench.device();
    monitor.live(0, &[driver.record()]);
    let mut device = bench.device();
    assert!(monitor.is_broken() && monitor.is_answered() && device.take_wake());
    assert_eq!(device.follow(), Change::None, "it does not work rings that it knows nothing of");
    assert_eq!(bench.ram.accesses(), 0);
    // Before a live order there is nothing to lose.
    monitor.reset();
    let mut device = bench.device();
    assert!(!monitor.is_broken());
    assert_eq!(device.follow(), Change::Reset);
    monitor.live(0, &[driver.record()]);
    assert_eq!(device.follow(), Change::Live);
    assert!(!monitor.is_broken() && device.is_live(0));
}

#[test]
fn a_new_configuration_has_a_new_even_generation() {
    let bench = Bench::new();
    let worker = Worker::new(&bench.words, &bench.bells, 0, &OFFER).unwrap();
    worker.configure(b"another one..");
    assert_eq!(bench.word(wire::CONFIG_GENERATION), 2);
    assert_eq!(bench.word(wire::CONFIG), u64::from_le_bytes(*b"another "));
    // An earlier life of the worker ended in the middle of a change.
    bench.words[wire::CONFIG_GENERATION].store(3, Ordering::Relaxed);
    worker.configure(b"a third");
    assert_eq!(bench.word(wire::CONFIG_GENERATION), 4);
}

#[test]
fn whatever_the_page_says_the_worker_writes_its_own_words() {
    let bench = Bench::new();
    let mut device = bench.device();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut lives = 0;
    for _ in 0..100_000 {
        let word = next() as usize % wire::ANSWER;
        let value = [next(), next() % 64, 0x1000 * (next() % 17), 8][next() as usize % 4];
        bench.words[word].store(value, Ordering::Relaxed);
        if next() % 4 == 0 {
            bench.words[wire::ORDER].fetch_add(1, Ordering::Relaxed);
        }
        let before: Vec<u64> = (0..wire::ANSWER).map(|word| bench.word(word)).collect();
        device.follow();
        lives += u32::from(device.is_live(0));
        device.fetch(0, &mut Chain::<8>::default());
        device.listen(1);
        let after: Vec<u64> = (0..wire::ANSWER).map(|word| bench.word(word)).collect();
        assert_eq!(before, after);
    }
    assert!(lives > 10 && bench.ram.outside() == 0, "{lives} lives");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn one_look_at_all_doorbells_finds_what_a_look_at_each_finds(
        first in 0usize..9,
        rings in prop::collection::vec(prop::option::of(0usize..20), 0..40),
    ) {
        const QUEUES: usize = 4;
        let (words, bells) = (page(), page());
        let worker = || Worker::new(&words, &bells, first, &OFFER).unwrap();
        let (mut each, mut all) = (worker(), worker());
        for ring in rings {
            match ring {
                // A counter of this device, or of a neighbour whose counters share its words.
                Some(bell) => {
                    let by = if bell & 1 == 0 { 1 } else { 1 << 32 };
                    bells[bell / 2].fetch_add(by, Ordering::Relaxed);
                }
                None => {
                    words[wire::RINGS].fetch_add(1, Ordering::Relaxed);
                }
            }
            let expected = (0..QUEUES).fold(0u8, |set, queue| set | u8::from(each.rung(queue)) << queue);
            prop_assert_eq!(all.rings(QUEUES), expected);
            prop_assert_eq!(all.rings(QUEUES), 0);
        }
    }
}
