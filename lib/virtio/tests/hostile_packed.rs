//! Each rule that a packed ring can break, by name: what breaks it, beside the same ring unbroken.
#![cfg(not(loom))]

use cloister_virtio::{Chain, Head, QUEUE_SIZE_MAX, Queue, Record, Rule, features};
use cloister_virtio_testing::{AVAIL, INDIRECT, NEXT, PackedDriver, TestRam, USED, WRITE};

const RAM: u64 = 1 << 16;
const RING: u64 = 0x1000;
const TABLE: u64 = 0x8000;
const DATA: u64 = 0x4000;
const SIZE: u16 = 8;
const PACKED: u64 = features::RING_PACKED;

/// What the guest writes over a chain of three descriptors that begins at the first one, or over
/// the table that the first one names.
type Break = fn(&TestRam, &PackedDriver);

/// Flags of a descriptor of the first lap.
const OPEN: u16 = AVAIL;

const CHAINS: &[(Rule, &str, Break)] = &[
    (Rule::BufferEmpty, "the first has no bytes", |ram, d| d.describe(ram, 0, DATA, 0, 7, OPEN)),
    (Rule::BufferEmpty, "the last has no bytes", |ram, d| {
        d.describe(ram, 2, DATA, 0, 7, OPEN | WRITE);
    }),
    (Rule::BufferOutside, "begins at the end", |ram, d| d.describe(ram, 0, RAM, 1, 7, OPEN)),
    (Rule::BufferOutside, "one byte too long", |ram, d| {
        d.describe(ram, 0, RAM - 15, 16, 7, OPEN | WRITE);
    }),
    (Rule::BufferOutside, "wraps", |ram, d| d.describe(ram, 1, u64::MAX - 1, 16, 7, OPEN)),
    (Rule::BufferOutside, "longer than RAM", |ram, d| d.describe(ram, 0, 0, u32::MAX, 7, OPEN)),
    (Rule::ReadableLast, "readable behind writable", |ram, d| {
        d.describe(ram, 0, DATA, 1, 7, OPEN | NEXT | WRITE);
        d.describe(ram, 1, DATA, 1, 7, OPEN);
    }),
    (Rule::ChainTooLong, "a chain that never ends", |ram, d| {
        (0..SIZE).for_each(|n| d.describe(ram, n, DATA, 1, 7, OPEN | NEXT));
    }),
    (Rule::IndirectNested, "a table in a table", |ram, d| {
        table(ram, d, 16);
        entry(ram, 0, TABLE, 16, INDIRECT);
    }),
    (Rule::IndirectAndNext, "a table and more", |ram, d| {
        table(ram, d, 16);
        d.describe(ram, 0, TABLE, 16, 7, OPEN | INDIRECT | NEXT);
    }),
    (Rule::IndirectLength, "no bytes", |ram, d| table(ram, d, 0)),
    (Rule::IndirectLength, "half a descriptor", |ram, d| table(ram, d, 24)),
    (Rule::IndirectLength, "one too many", |ram, d| table(ram, d, 16 * (u32::from(SIZE) + 1))),
    (Rule::IndirectLength, "as long as a length can be", |ram, d| table(ram, d, u32::MAX)),
    (Rule::IndirectOutside, "the end", |ram, d| {
        d.describe(ram, 0, RAM - 15, 16, 7, OPEN | INDIRECT);
    }),
    (Rule::IndirectOutside, "wraps", |ram, d| {
        d.describe(ram, 0, u64::MAX - 7, 16, 7, OPEN | INDIRECT);
    }),
    (Rule::BufferEmpty, "an entry has no bytes", |ram, d| {
        table(ram, d, 32);
        entry(ram, 0, DATA, 1, 0);
        entry(ram, 1, DATA, 0, WRITE);
    }),
    (Rule::BufferOutside, "an entry is not in RAM", |ram, d| {
        table(ram, d, 32);
        entry(ram, 0, DATA, 1, 0);
        entry(ram, 1, RAM - 1, 2, WRITE);
    }),
    (Rule::ReadableLast, "a readable entry behind a writable one", |ram, d| {
        table(ram, d, 32);
        entry(ram, 0, DATA, 1, WRITE);
        entry(ram, 1, DATA, 1, 0);
    }),
    (Rule::ChainTooLong, "two direct and a full table", |ram, d| {
        d.describe(ram, 1, TABLE, 16 * u32::from(SIZE), 7, OPEN | INDIRECT);
        (0..SIZE).for_each(|n| entry(ram, n, DATA, 1, 0));
    }),
];

fn table(ram: &TestRam, driver: &PackedDriver, len: u32) {
    driver.describe(ram, 0, TABLE, len, 7, OPEN | INDIRECT);
}

fn entry(ram: &TestRam, index: u16, at: u64, len: u32, flags: u16) {
    PackedDriver::new(TABLE, SIZE).describe(ram, index, at, len, 0, flags);
}

fn record(driver: &PackedDriver) -> Record {
    let [size, descriptors, driver, device] = driver.record();
    Record { size, descriptors, driver, device }
}

fn queue(ram: &TestRam, driver: &PackedDriver, features: u64) -> Queue {
    Queue::new(&record(driver), features | PACKED, QUEUE_SIZE_MAX, 1, ram).unwrap()
}

fn fetch(queue: &mut Queue, ram: &TestRam) -> Result<Option<Head>, Rule> {
    queue.fetch(&ram, &mut Chain::<256>::default())
}

/// The queue says so for ever, and touches nothing.
fn assert_dead(queue: &mut Queue, ram: &TestRam, rule: Rule, what: &str) {
    let before = ram.accesses();
    assert_eq!(queue.dead(), Some(rule), "{what}");
    assert_eq!(fetch(queue, ram).err(), Some(rule), "{what}");
    assert_eq!(queue.listen(&ram), Err(rule), "{what}");
    assert_eq!(queue.hush(&ram), Err(rule), "{what}");
    assert_eq!(queue.wants_interrupt(&ram), Err(rule), "{what}");
    assert_eq!((ram.accesses(), ram.outside()), (before, 0), "{what}");
}

/// A ring with one good chain, of three descriptors or of a table with two.
fn good(by_table: bool) -> (TestRam, PackedDriver, Queue) {
    let ram = TestRam::new(RAM as usize);
    let mut driver = PackedDriver::new(RING, SIZE);
    let queue = queue(&ram, &driver, features::INDIRECT_DESC);
    let buffers = [(DATA, 4, false), (DATA + 4, 8, true), (DATA + 12, 1, true)];
    match by_table {
        true => driver.add_indirect(&ram, TABLE, &buffers[1..]),
        false => driver.add(&ram, &buffers),
    };
    (ram, driver, queue)
}

fn broken_by_chains(count: &mut impl FnMut(Rule)) {
    for (rule, what, write) in CHAINS {
        for by_table in [false, true] {
            let (ram, _, mut control) = good(by_table);
            assert!(fetch(&mut control, &ram).is_ok_and(|head| head.is_some()), "the control");
        }
        let (ram, driver, mut queue) = good(false);
        write(&ram, &driver);
        assert_eq!(fetch(&mut queue, &ram), Err(*rule), "{what}");
        assert_dead(&mut queue, &ram, *rule, what);
        count(*rule);
    }
}

fn broken_by_rings(count: &mut impl FnMut(Rule)) {
    // More descriptors than the ring has, by flags that claim another lap.
    let (ram, driver, _) = good(false);
    let mut full = queue(&ram, &driver, 0);
    for index in 0..SIZE {
        driver.describe(&ram, index, DATA, 1, index, OPEN);
        assert!(fetch(&mut full, &ram).is_ok_and(|head| head.is_some()), "all may be in flight");
    }
    assert_eq!(fetch(&mut full, &ram), Ok(None));
    driver.describe(&ram, 0, DATA, 1, 0, USED);
    assert_eq!(fetch(&mut full, &ram), Err(Rule::AvailableTooFar));
    assert_dead(&mut full, &ram, Rule::AvailableTooFar, "all are in flight, and one more");
    count(Rule::AvailableTooFar);
    // The same, found before sleeping.
    let (ram, driver, _) = good(false);
    let mut full = queue(&ram, &driver, 0);
    (0..SIZE).for_each(|index| driver.describe(&ram, index, DATA, 1, index, OPEN));
    (0..SIZE).for_each(|_| assert!(fetch(&mut full, &ram).is_ok_and(|head| head.is_some())));
    assert_eq!(full.listen(&&ram), Ok(false));
    driver.describe(&ram, 0, DATA, 1, 0, USED);
    assert_eq!(full.listen(&&ram), Err(Rule::AvailableTooFar));
    count(Rule::AvailableTooFar);
    // A chain that goes on over one in flight.
    let (ram, driver, mut over) = good(false);
    assert!(fetch(&mut over, &ram).is_ok_and(|head| head.is_some()));
    (3..SIZE).for_each(|index| driver.describe(&ram, index, DATA, 1, 1, OPEN | NEXT));
    driver.describe(&ram, 0, DATA, 1, 1, USED);
    assert_eq!(fetch(&mut over, &ram), Err(Rule::ChainTooLong));
    assert_dead(&mut over, &ram, Rule::ChainTooLong, "over a chain in flight");
    count(Rule::ChainTooLong);
    // A table without the feature.
    let (ram, driver, _) = good(true);
    let mut plain = queue(&ram, &driver, 0);
    assert_eq!(fetch(&mut plain, &ram), Err(Rule::IndirectUnasked));
    assert_dead(&mut plain, &ram, Rule::IndirectUnasked, "a table without the feature");
    count(Rule::IndirectUnasked);
}

fn broken_by_records(count: &mut impl FnMut(Rule)) {
    let ram = TestRam::new(RAM as usize);
    let good = record(&PackedDriver::new(RING, SIZE));
    for (rule, record) in [
        (Rule::QueueSize, Record { size: 0, ..good }),
        (Rule::QueueSize, Record { size: 9, ..good }),
        (Rule::QueueSize, Record { size: 1 << 15, ..good }),
        (Rule::QueueSize, Record { size: 1 << 32 | 8, ..good }),
        (Rule::QueueAlignment, Record { descriptors: 0x1008, ..good }),
        (Rule::QueueAlignment, Record { driver: 0x2002, ..good }),
        (Rule::QueueAlignment, Record { device: 0x3002, ..good }),
        (Rule::QueueOutside, Record { descriptors: RAM - 112, ..good }),
        (Rule::QueueOutside, Record { driver: RAM, ..good }),
        (Rule::QueueOutside, Record { device: !3, ..good }),
    ] {
        assert_eq!(Queue::new(&record, PACKED, SIZE, 1, &&ram).err(), Some(rule), "{record:?}");
        count(rule);
    }
    let last = Record { size: 3, descriptors: RAM - 48, driver: RAM - 4, device: RAM - 4 };
    assert!(Queue::new(&last, PACKED, SIZE, 1, &&ram).is_ok(), "any size, up to the end of RAM");
    assert_eq!(Queue::new(&last, 0, SIZE, 1, &&ram).err(), Some(Rule::QueueSize), "but split");
    assert_eq!(ram.accesses(), 0, "a queue is judged without a look at it");
}

#[test]
fn every_rule_of_a_packed_ring_has_a_name_and_kills_the_queue() {
    let mut counts = [0u32; Rule::ALL.len()];
    let mut count = |rule: Rule| {
        let place = Rule::ALL.iter().position(|other| *other == rule);
        counts[place.expect("ALL has every rule")] += 1;
    };
    broken_by_records(&mut count);
    broken_by_chains(&mut count);
    broken_by_rings(&mut count);
    // There are no heads and no next indices, and the rest is of other rings and devices.
    let elsewhere = [
        Rule::HeadTooLarge,
        Rule::HeadInFlight,
        Rule::NextTooLarge,
        Rule::ChainTooLarge,
        Rule::Direction,
        Rule::BlockHeader,
        Rule::BlockStatus,
        Rule::BlockDirection,
        Rule::UsedChanged,
        Rule::Unfinished,
    ];
    for (rule, count) in Rule::ALL.iter().zip(counts) {
        println!("{rule:?}: {count}");
        assert_eq!(count == 0, elsewhere.contains(rule), "{rule:?}: {count}");
    }
}

#[test]
fn what_the_guest_writes_to_descriptors_in_flight_has_no_effect() {
    let (ram, driver, mut queue) = good(false);
    let mut chain = Chain::<8>::default();
    let head = queue.fetch(&&ram, &mut chain).unwrap().expect("a chain");
    (0..SIZE).for_each(|index| driver.describe(&ram, index, u64::MAX, u32::MAX, 3, WRITE));
    assert_eq!((chain.readable_len(), chain.writable_len()), (4, 9));
    assert_eq!(queue.complete(&&ram, head, 9), Ok(()));
    // The used descriptor is whole, whatever stood there.
    let used = ram.peek(RING + 8, 8);
    assert_eq!(used, [9, 0, 0, 0, 7, 0, (AVAIL | WRITE) as u8, (USED >> 8) as u8]);
    assert_eq!((queue.in_flight(), ram.outside()), (0, 0));
}
