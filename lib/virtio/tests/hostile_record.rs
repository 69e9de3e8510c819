//! Taking queues over: what a new instance makes of records and rings that somebody changed, beside
//! the same records unchanged; and whose records it takes at all.
#![cfg(not(loom))]

use cloister_virtio::record::{HEAD_WORDS, QUEUE_WORDS, SLOT_WORDS, SLOTS};
use cloister_virtio::{Chain, Change, Device, Offer, Rule, TooSmall, Worker, features, wire};
use cloister_virtio_testing::{Driver, Monitor, PackedDriver, TestRam, page};
use core::sync::atomic::{AtomicU64, Ordering};

const RAM: u64 = 1 << 16;
const SIZE: u16 = 8;
const OFFER: Offer<'static> =
    Offer { features: features::ALL_RINGS, queue_size: SIZE, config: b"disk" };
const PACKED: u64 = features::RING_PACKED;
const FIRST: u64 = 0x1000;

type Tested<'a> = Device<'a, &'a TestRam, 2>;

struct Bench {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    records: Vec<AtomicU64>,
    ram: TestRam,
}

impl Bench {
    fn new() -> Bench {
        let records = (0..2 * QUEUE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Bench { words: page(), bells: page(), records, ram: TestRam::new(RAM as usize) }
    }

    fn monitor(&self) -> Monitor<'_> {
        Monitor::new(&self.words, &self.bells, 0)
    }

    /// A new instance.
    fn device(&self) -> Tested<'_> {
        let worker = Worker::adopt(&self.words, &self.bells, 0, &OFFER).unwrap();
        Device::adopting(worker, &self.ram, SIZE, &self.records).unwrap()
    }

    /// A word of a slot of the first queue.
    fn slot(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.records[HEAD_WORDS + slot * SLOT_WORDS + word]
    }

    /// A worker that has completed a chain and dies with two in flight, one of each queue.
    fn killed(packed: bool) -> Bench {
        let bench = Bench::new();
        let features = if packed { features::ALL_RINGS } else { features::RINGS };
        let buffers = [(0x4000, 16, false), (0x5000, 8, true)];
        let mut device = bench.device();
        let mut chain = Chain::<8>::default();
        if packed {
            let mut drivers = [PackedDriver::new(FIRST, SIZE), PackedDriver::new(0x2000, SIZE)];
            bench.monitor().live(features, &[drivers[0].record(), drivers[1].record()]);
            assert_eq!(device.follow(), Change::Live);
            (0..2).for_each(|_| assert!(drivers[0].add(&bench.ram, &buffers).is_some()));
            drivers[1].add(&bench.ram, &buffers).unwrap();
        } else {
            let mut drivers = [Driver::new(FIRST, SIZE), Driver::new(0x2000, SIZE)];
            bench.monitor().live(features, &[drivers[0].record(), drivers[1].record()]);
            assert_eq!(device.follow(), Change::Live);
            (0..2).for_each(|_| assert!(drivers[0].add(&bench.ram, &buffers).is_some()));
            drivers[1].add(&bench.ram, &buffers).unwrap();
        }
        let done = device.fetch(0, &mut chain).unwrap();
        device.complete(0, done, 8);
        device.fetch(0, &mut chain).unwrap();
        device.fetch(1, &mut chain).unwrap();
        bench
    }
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

fn change(word: &AtomicU64, change: fn(u64) -> u64) {
    set(word, change(word.load(Ordering::Relaxed)));
}

type Break = fn(&Bench, usize);

/// Fields of the word at the slot's place 1: id, descriptors, buffers, readable ones.
const CASES: &[(Rule, &str, Break)] = &[
    (Rule::Unfinished, "a number of another slot", |b, s| change(b.slot(s, 0), |n| n ^ 1)),
    (Rule::Unfinished, "a number of another queue", |b, s| change(b.slot(s, 0), |n| n ^ 0x100)),
    (Rule::Unfinished, "a number without a count", |b, s| {
        change(b.slot(s, 0), |n| n & 0xff | 1 << 9)
    }),
    (Rule::Unfinished, "a free slot with a number", |b, _| set(b.slot(5, 0), 1)),
    (Rule::Unfinished, "no buffers", |b, s| change(b.slot(s, 1), |w| w & !(0xffff << 32))),
    (Rule::Unfinished, "more buffers than fit", |b, s| change(b.slot(s, 1), |w| w | 63 << 32)),
    (Rule::Unfinished, "more buffers than the queue has", |b, s| {
        change(b.slot(s, 1), |w| w | 9 << 32);
    }),
    (Rule::Unfinished, "more readable than buffers", |b, s| change(b.slot(s, 1), |w| w | 7 << 48)),
    (Rule::Unfinished, "no descriptors", |b, s| change(b.slot(s, 1), |w| w & !(0xffff << 16))),
    (Rule::Unfinished, "more descriptors than the ring", |b, s| {
        change(b.slot(s, 1), |w| w | 0xff << 16);
    }),
    (Rule::Unfinished, "a buffer without bytes", |b, s| set(b.slot(s, 3), 0)),
    (Rule::Unfinished, "a buffer outside", |b, s| set(b.slot(s, 2), RAM)),
    (Rule::Unfinished, "a buffer that wraps", |b, s| set(b.slot(s, 4), u64::MAX)),
    (Rule::Unfinished, "a buffer one byte too long", |b, s| set(b.slot(s, 5), RAM - 0x5000 + 1)),
    (Rule::Unfinished, "a buffer of 2^32 bytes", |b, s| set(b.slot(s, 5), 1 << 32)),
    (Rule::Unfinished, "a word that is no retirement", |b, _| {
        change(&b.records[1], |w| w | 1 << 60)
    }),
    (Rule::Unfinished, "other features", |b, _| change(&b.records[2], |w| w ^ 1)),
    (Rule::Unfinished, "another size", |b, _| set(&b.records[3], 4)),
    (Rule::Unfinished, "another ring", |b, _| set(&b.records[4], 0x3000)),
    (Rule::Unfinished, "another driver area", |b, _| set(&b.records[5], 0x3000)),
    (Rule::Unfinished, "another device area", |b, _| set(&b.records[6], 0x3000)),
    (Rule::Unfinished, "a queue that moved", |b, _| set(&b.words[wire::QUEUES + 1], 0x3000)),
    (Rule::QueueSize, "a queue that grew", |b, _| set(&b.words[wire::QUEUES], 16)),
    (Rule::QueueOutside, "a queue that left RAM", |b, _| set(&b.words[wire::QUEUES + 1], RAM)),
];

/// Cases that only one kind of ring has.
const SPLIT: &[(Rule, &str, Break)] = &[
    (Rule::Unfinished, "an id that is not the slot's", |b, s| change(b.slot(s, 1), |w| w ^ 4)),
    (Rule::Unfinished, "two descriptors of the ring", |b, s| {
        change(b.slot(s, 1), |w| w & !(0xffff << 16) | 2 << 16);
    }),
    (Rule::UsedChanged, "a used index that goes on", |b, _| b.ram.poke(device_area() + 2, &[2])),
    (Rule::UsedChanged, "a used index that goes back", |b, _| b.ram.poke(device_area() + 2, &[0])),
    (Rule::UsedChanged, "a place that the index is far from", |b, _| {
        set(&b.records[1], 7 | 1 << 16 | 2 << 32);
    }),
    (Rule::Unfinished, "a retired slot that is not its own", |b, _| {
        set(&b.records[1], 1 << 16 | 4 << 32);
    }),
    (Rule::Unfinished, "a retired slot that there is not", |b, _| {
        set(&b.records[1], 1 << 16 | 200 << 32);
    }),
    (Rule::Unfinished, "two descriptors retired", |b, _| set(&b.records[1], 2 << 16 | 2 << 32)),
];

const PACKED_ONLY: &[(Rule, &str, Break)] = &[
    (Rule::Unfinished, "a place behind the ring", |b, _| set(&b.records[1], 8)),
    (Rule::Unfinished, "more in flight than the ring", |b, s| {
        change(b.slot(s, 1), |w| w & !(0xffff << 16) | 9 << 16);
    }),
    (Rule::Unfinished, "a retired place behind the ring", |b, _| set(&b.records[1], 9 | 1 << 16)),
    (Rule::Unfinished, "more retired than the ring", |b, _| {
        set(&b.records[1], 1 << 15 | 9 << 16);
    }),
];

fn device_area() -> u64 {
    Driver::new(FIRST, SIZE).areas[2]
}

/// The control: a new instance takes over what was left.
fn is_taken_over(bench: &Bench) {
    let mut device = bench.device();
    assert_eq!(device.follow(), Change::Adopted);
    let mut chain = Chain::<8>::default();
    assert!(device.fetch(0, &mut chain).is_none(), "nothing new before the old");
    assert!(device.listen(0) && device.listen(1) && device.rung(0) && device.rung(1));
    for queue in 0..2 {
        let (number, head) = device.readopt(&mut chain).expect("one of each queue");
        assert_eq!((number, chain.readable_len(), chain.writable_len()), (queue, 16, 8));
        device.complete(number, head, 8);
    }
    assert!(device.readopt(&mut chain).is_none());
    assert_eq!((device.take_broken(), bench.monitor().is_broken()), (None, false));
    assert_eq!(bench.monitor().take_pending(), 0b11);
}

#[test]
fn every_change_of_a_record_ends_in_a_reset() {
    let mut cases = 0;
    for packed in [false, true] {
        let own = if packed { PACKED_ONLY } else { SPLIT };
        for (rule, what, write) in CASES.iter().chain(own) {
            is_taken_over(&Bench::killed(packed));
            let bench = Bench::killed(packed);
            write(&bench, slot_in_flight(&bench));
            bench.monitor().take_pending();
            let mut device = bench.device();
            assert_eq!(device.follow(), Change::Live, "{what}");
            assert_eq!(device.take_broken(), Some(*rule), "{what}, packed {packed}");
            assert!(bench.monitor().is_broken() && bench.monitor().is_answered(), "{what}");
            let mut chain = Chain::<8>::default();
            assert!(device.readopt(&mut chain).is_none() && device.fetch(0, &mut chain).is_none());
            assert!(!device.is_live(0) && !device.is_live(1));
            assert_eq!(bench.ram.outside(), 0, "{what}");
            // Nor does the next instance guess.
            let mut next = bench.device();
            next.follow();
            assert!(!next.is_live(0) && bench.monitor().is_broken(), "{what}");
            // A reset ends it.
            bench.monitor().reset();
            assert_eq!(next.follow(), Change::Reset);
            cases += 1;
        }
    }
    println!("{cases} cases");
}

/// The slot of the first queue that is in flight.
fn slot_in_flight(bench: &Bench) -> usize {
    let is_taken = |slot: &usize| bench.slot(*slot, 0).load(Ordering::Relaxed) != 0;
    (0..usize::from(SIZE)).find(is_taken).expect("one is in flight")
}

#[test]
fn a_record_that_changes_while_it_is_read_back_ends_in_a_reset() {
    for (word, value) in [(0, 0), (0, 7), (1, 0), (2, RAM), (3, 0)] {
        let bench = Bench::killed(false);
        let mut device = bench.device();
        assert_eq!(device.follow(), Change::Adopted);
        set(bench.slot(slot_in_flight(&bench), word), value);
        let mut chain = Chain::<8>::default();
        // The one of the other queue may come first, and then none.
        while device.readopt(&mut chain).is_some() {}
        assert_eq!(device.take_broken(), Some(Rule::Unfinished), "word {word}");
        assert!(bench.monitor().is_broken());
    }
    // A chain that is larger than what the caller has room for.
    let bench = Bench::killed(false);
    let mut device = bench.device();
    assert_eq!(device.follow(), Change::Adopted);
    assert!(device.readopt(&mut Chain::<1>::default()).is_none());
    assert_eq!(device.take_broken(), Some(Rule::Unfinished));
}

#[test]
fn records_of_another_life_are_nobody_s() {
    for packed in [false, true] {
        let features = if packed { PACKED } else { 0 };
        let fresh = |bench: &Bench| {
            bench.ram.poke(FIRST, &[0; 0x200]);
            bench.ram.poke(0x2000, &[0; 0x200]);
            bench.monitor().live(features, &[PackedDriver::new(FIRST, SIZE).record()]);
        };
        // The device was reset while nobody worked it, and is live again.
        let bench = Bench::killed(packed);
        bench.monitor().reset();
        fresh(&bench);
        let mut device = bench.device();
        let change = device.follow();
        assert_eq!((change, device.take_broken()), (Change::Live, None));
        assert!(device.readopt(&mut Chain::<8>::default()).is_none());
        assert!(device.fetch(0, &mut Chain::<8>::default()).is_none());
        assert!(!bench.monitor().is_broken());
        // A new instance that finds a reset forgets, even if the order's number comes again.
        let bench = Bench::killed(packed);
        let order = bench.words[wire::ORDER].load(Ordering::Relaxed);
        bench.monitor().reset();
        assert_eq!(bench.device().follow(), Change::Reset);
        set(&bench.words[wire::ORDER], order);
        let mut device = bench.device();
        assert_eq!(device.follow(), Change::Live);
        assert!(device.is_live(0) && device.readopt(&mut Chain::<8>::default()).is_none());
        // Records that somebody wiped under a live device are missed.
        let bench = Bench::killed(packed);
        bench.records.iter().for_each(|word| set(word, 0));
        let mut device = bench.device();
        device.follow();
        assert!(bench.monitor().is_broken() && !device.is_live(0));
    }
}

#[test]
fn a_device_that_was_given_up_is_not_taken_over() {
    let bench = Bench::killed(false);
    let mut device = bench.device();
    assert_eq!(device.follow(), Change::Adopted);
    device.refuse();
    let mut next = bench.device();
    assert_eq!(next.follow(), Change::Live);
    assert!(!next.is_live(0) && bench.monitor().is_broken());
}

#[test]
fn a_chain_that_no_record_can_hold_kills_its_queue() {
    let bench = Bench::new();
    let mut device: Device<'_, _, 1> = {
        let offer = Offer { queue_size: SLOTS, ..OFFER };
        let worker = Worker::adopt(&bench.words, &bench.bells, 0, &offer).unwrap();
        Device::adopting(worker, &bench.ram, 256, &bench.records).unwrap()
    };
    let mut driver = Driver::new(FIRST, SLOTS);
    bench.monitor().live(features::RINGS, &[driver.record()]);
    assert_eq!(device.follow(), Change::Live);
    let buffers = vec![(0x4000, 1, false); 63];
    driver.add(&bench.ram, &buffers[..62]).unwrap();
    driver.add(&bench.ram, &buffers).unwrap();
    let mut chain = Chain::<128>::default();
    assert!(device.fetch(0, &mut chain).is_some());
    assert!(device.fetch(0, &mut chain).is_none());
    assert_eq!(device.take_broken(), Some(Rule::ChainTooLong));
}

#[test]
fn a_region_that_is_too_small_is_refused() {
    let bench = Bench::new();
    let worker = || Worker::adopt(&bench.words, &bench.bells, 0, &OFFER).unwrap();
    let small = &bench.records[1..];
    let refused = Device::<_, 2>::adopting(worker(), &bench.ram, SIZE, small);
    assert_eq!(refused.err(), Some(TooSmall { words: 2 * QUEUE_WORDS - 1 }));
    let many = Device::<_, 5>::adopting(worker(), &bench.ram, SIZE, &bench.records);
    assert!(many.is_err(), "more queues than a region has");
}
