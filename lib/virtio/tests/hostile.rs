//! Each rule of a ring, by name: what breaks it, and what is left of the queue then.
#![cfg(not(loom))]

use cloister_virtio::{Chain, QUEUE_SIZE_MAX, Queue, Record, Rule, features};
use cloister_virtio_testing::{Driver, INDIRECT, NEXT, TestRam, WRITE};

const RAM: u64 = 1 << 16;
const TABLE: u64 = 0x8000;
const DATA: u64 = 0x4000;
const SIZE: u16 = 8;

/// Rules that no ring by itself breaks.
const ELSEWHERE: [Rule; 6] = [
    Rule::Direction,
    Rule::BlockHeader,
    Rule::BlockStatus,
    Rule::BlockDirection,
    Rule::UsedChanged,
    Rule::Unfinished,
];

type Break = fn(&TestRam, &mut Driver);

/// Chains that break a rule; each begins with descriptor 0, which the test makes available.
const CHAINS: &[(Rule, &str, Break)] = &[
    (Rule::NextTooLarge, "next is the size", |ram, d| d.describe(ram, 0, DATA, 1, NEXT, SIZE)),
    (Rule::NextTooLarge, "next is the largest", |ram, d| {
        d.describe(ram, 0, DATA, 1, NEXT, u16::MAX);
    }),
    (Rule::NextTooLarge, "next is beyond its table", |ram, d| {
        d.describe(ram, 0, TABLE, 16, INDIRECT, 0);
        entry(ram, 0, DATA, 1, NEXT, 1);
    }),
    (Rule::ChainTooLong, "a descriptor names itself", |ram, d| {
        d.describe(ram, 0, DATA, 1, NEXT, 0);
    }),
    (Rule::ChainTooLong, "a loop of all", |ram, d| {
        (0..SIZE).for_each(|n| d.describe(ram, n, DATA, 1, NEXT, (n + 1) % SIZE));
    }),
    (Rule::ChainTooLong, "a loop in a table", |ram, d| {
        d.describe(ram, 0, TABLE, 32, INDIRECT, 0);
        entry(ram, 0, DATA, 1, NEXT, 1);
        entry(ram, 1, DATA, 1, NEXT, 0);
    }),
    (Rule::ChainTooLong, "one direct and a full table", |ram, d| {
        d.describe(ram, 0, DATA, 1, NEXT, 1);
        d.describe(ram, 1, TABLE, 16 * u32::from(SIZE), INDIRECT, 0);
        (0..SIZE).for_each(|n| entry(ram, n, DATA, 1, if n + 1 < SIZE { NEXT } else { 0 }, n + 1));
    }),
    (Rule::BufferEmpty, "no bytes", |ram, d| d.describe(ram, 0, DATA, 0, 0, 0)),
    (Rule::BufferEmpty, "the last has no bytes", |ram, d| {
        d.describe(ram, 0, DATA, 1, NEXT, 1);
        d.describe(ram, 1, DATA, 0, WRITE, 0);
    }),
    (Rule::BufferOutside, "begins at the end", |ram, d| d.describe(ram, 0, RAM, 1, 0, 0)),
    (Rule::BufferOutside, "one byte too long", |ram, d| {
        d.describe(ram, 0, RAM - 15, 16, WRITE, 0);
    }),
    (Rule::BufferOutside, "wraps", |ram, d| d.describe(ram, 0, u64::MAX - 1, 16, 0, 0)),
    (Rule::BufferOutside, "longer than RAM", |ram, d| d.describe(ram, 0, 0, u32::MAX, 0, 0)),
    (Rule::BufferOutside, "a device page", |ram, d| d.describe(ram, 0, 0xfed0_0000, 16, WRITE, 0)),
    (Rule::ReadableLast, "readable behind writable", |ram, d| {
        d.describe(ram, 0, DATA, 1, NEXT | WRITE, 1);
        d.describe(ram, 1, DATA, 1, 0, 0);
    }),
    (Rule::IndirectNested, "a table in a table", |ram, d| {
        d.describe(ram, 0, TABLE, 16, INDIRECT, 0);
        entry(ram, 0, TABLE, 16, INDIRECT, 0);
    }),
    (Rule::IndirectAndNext, "a table and more", |ram, d| {
        d.describe(ram, 0, TABLE, 16, INDIRECT | NEXT, 1);
    }),
    (Rule::IndirectLength, "no bytes", |ram, d| d.describe(ram, 0, TABLE, 0, INDIRECT, 0)),
    (Rule::IndirectLength, "half a descriptor", |ram, d| {
        d.describe(ram, 0, TABLE, 24, INDIRECT, 0)
    }),
    (Rule::IndirectLength, "one too many", |ram, d| {
        d.describe(ram, 0, TABLE, 16 * (u32::from(SIZE) + 1), INDIRECT, 0);
    }),
    (Rule::IndirectLength, "as long as a length can be", |ram, d| {
        d.describe(ram, 0, TABLE, u32::MAX, INDIRECT, 0);
    }),
    (Rule::IndirectLength, "65536 descriptors too many", |ram, d| {
        d.describe(ram, 0, TABLE, 16 * 65_537, INDIRECT, 0);
    }),
    (Rule::IndirectOutside, "the end", |ram, d| d.describe(ram, 0, RAM - 15, 16, INDIRECT, 0)),
    (Rule::IndirectOutside, "wraps", |ram, d| d.describe(ram, 0, u64::MAX - 7, 16, INDIRECT, 0)),
];

fn entry(ram: &TestRam, index: u16, at: u64, len: u32, flags: u16, next: u16) {
    // The table has the layout of a queue's own, so a driver whose queue lies there writes it.
    Driver::new(TABLE, SIZE).describe(ram, index, at, len, flags, next);
}

fn record(driver: &Driver) -> Record {
    let [size, descriptors, driver, device] = driver.record();
    Record { size, descriptors, driver, device }
}

fn queue(ram: &TestRam, driver: &Driver, features: u64) -> Queue {
    Queue::new(&record(driver), features, QUEUE_SIZE_MAX, 1, ram).unwrap()
}

/// The queue says so for ever, and touches nothing.
fn assert_dead(queue: &mut Queue, ram: &TestRam, rule: Rule, what: &str) {
    let mut chain = Chain::<256>::default();
    let before = ram.accesses();
    assert_eq!(queue.dead(), Some(rule), "{what}");
    assert_eq!(queue.fetch(&ram, &mut chain), Err(rule), "{what}");
    assert_eq!(queue.listen(&ram), Err(rule), "{what}");
    assert_eq!(queue.hush(&ram), Err(rule), "{what}");
    assert_eq!(queue.wants_interrupt(&ram), Err(rule), "{what}");
    assert_eq!((ram.accesses(), ram.outside()), (before, 0), "{what}");
}

/// What the case names, and how often each rule was broken by one.
fn broken_by_records(count: &mut impl FnMut(Rule)) {
    let ram = TestRam::new(RAM as usize);
    let good = record(&Driver::new(0x1000, SIZE));
    let end = |bytes| RAM - bytes;
    let cases = [
        (Rule::QueueSize, Record { size: 0, ..good }),
        (Rule::QueueSize, Record { size: 3, ..good }),
        (Rule::QueueSize, Record { size: 16, ..good }),
        (Rule::QueueSize, Record { size: 1 << 15, ..good }),
        (Rule::QueueSize, Record { size: 1 << 16, ..good }),
        (Rule::QueueSize, Record { size: 1 << 32 | 8, ..good }),
        (Rule::QueueAlignment, Record { descriptors: 0x1008, ..good }),
        (Rule::QueueAlignment, Record { driver: 0x2001, ..good }),
        (Rule::QueueAlignment, Record { device: 0x3002, ..good }),
        (Rule::QueueOutside, Record { descriptors: end(16 * 7), ..good }),
        (Rule::QueueOutside, Record { descriptors: !15, ..good }),
        (Rule::QueueOutside, Record { driver: end(20), ..good }),
        (Rule::QueueOutside, Record { driver: 0xc000_0000, ..good }),
        (Rule::QueueOutside, Record { device: end(68), ..good }),
        (Rule::QueueOutside, Record { device: !3, ..good }),
    ];
    for (rule, record) in cases {
        assert_eq!(Queue::new(&record, 0, SIZE, 1, &&ram).err(), Some(rule), "{record:?}");
        count(rule);
    }
    let last = Record { descriptors: end(128), driver: end(22), device: end(72), ..good };
    assert!(Queue::new(&last, 0, SIZE, 1, &&ram).is_ok(), "areas may end where RAM ends");
    assert_eq!(ram.accesses(), 0, "a queue is judged without a look at it");
}

fn broken_by_chains(count: &mut impl FnMut(Rule)) {
    for (rule, what, write) in CHAINS {
        let ram = TestRam::new(RAM as usize);
        let mut driver = Driver::new(0x1000, SIZE);
        let mut queue = queue(&ram, &driver, features::RINGS);
        write(&ram, &mut driver);
        driver.offer(&ram, 0);
        let mut chain = Chain::<256>::default();
        assert_eq!(queue.fetch(&&ram, &mut chain), Err(*rule), "{what}");
        assert_dead(&mut queue, &ram, *rule, what);
        count(*rule);
    }
}

fn broken_by_rings(count: &mut impl FnMut(Rule)) {
    let mut check = |rule: Rule, features: u64, write: &dyn Fn(&TestRam, &mut Driver)| {
        let ram = TestRam::new(RAM as usize);
        let mut driver = Driver::new(0x1000, SIZE);
        let mut queue = queue(&ram, &driver, features);
        write(&ram, &mut driver);
        let mut chain = Chain::<256>::default();
        let end = (0..=SIZE).find_map(|_| queue.fetch(&&ram, &mut chain).err());
        assert_eq!(end, Some(rule));
        assert_dead(&mut queue, &ram, rule, rule.text());
        count(rule);
    };
    let one = |ram: &TestRam, d: &mut Driver| d.describe(ram, 0, DATA, 1, 0, 0);
    for jump in [SIZE + 1, 0x8000, u16::MAX] {
        check(Rule::AvailableTooFar, 0, &|ram, d| d.set_available(ram, jump));
    }
    for head in [SIZE, 0x8000, u16::MAX] {
        check(Rule::HeadTooLarge, 0, &|ram, d| d.offer(ram, head));
    }
    check(Rule::HeadInFlight, 0, &|ram, d| {
        one(ram, d);
        d.offer(ram, 0);
        d.offer(ram, 0);
    });
    check(Rule::IndirectUnasked, features::EVENT_IDX, &|ram, d| {
        d.describe(ram, 0, TABLE, 16, INDIRECT, 0);
        d.offer(ram, 0);
    });
}

/// Needs more bytes than a small memory has, so the chain names the same ones again and again.
fn broken_by_size(count: &mut impl FnMut(Rule)) {
    let ram = TestRam::new(1 << 26);
    let mut driver = Driver::new(0x1000, 256);
    let mut queue = queue(&ram, &driver, 0);
    for index in 0..=64 {
        let (len, flags) = if index < 64 { (1 << 26, NEXT) } else { (1, 0) };
        driver.describe(&ram, index, 0, len, flags, index + 1);
    }
    driver.offer(&ram, 1);
    let mut chain = Chain::<256>::default();
    // From descriptor 1 it is one byte more than 63 times 64 MiB; from 0 one more than 2^32.
    assert!(queue.fetch(&&ram, &mut chain).is_ok_and(|head| head.is_some()));
    driver.offer(&ram, 0);
    assert_eq!(queue.fetch(&&ram, &mut chain), Err(Rule::ChainTooLarge));
    assert_dead(&mut queue, &ram, Rule::ChainTooLarge, "one byte too many");
    count(Rule::ChainTooLarge);
}

#[test]
fn every_rule_has_a_name_and_kills_the_queue() {
    let mut counts = [0u32; Rule::ALL.len()];
    let mut count = |rule: Rule| {
        let place = Rule::ALL.iter().position(|other| *other == rule);
        counts[place.expect("ALL has every rule")] += 1;
    };
    broken_by_records(&mut count);
    broken_by_chains(&mut count);
    broken_by_rings(&mut count);
    broken_by_size(&mut count);
    for (rule, count) in Rule::ALL.iter().zip(counts) {
        println!("{rule:?}: {count}");
        // What a queue's buffers are for is the device's to know, and what an earlier instance
        // left is in the record: see `hostile_block.rs`, `hostile_record.rs`, the drivers' tests.
        assert_eq!(count == 0, ELSEWHERE.contains(rule), "{rule:?}: {count}");
    }
}

#[test]
fn the_available_index_may_go_as_far_as_there_are_free_descriptors() {
    for taken in 0..=SIZE {
        for more in 0..=SIZE + 2 {
            let ram = TestRam::new(RAM as usize);
            let mut driver = Driver::new(0x1000, SIZE);
            let mut queue = queue(&ram, &driver, features::EVENT_IDX);
            let mut chain = Chain::<256>::default();
            for _ in 0..taken {
                driver.add(&ram, &[(DATA, 1, true)]).unwrap();
                assert!(queue.fetch(&&ram, &mut chain).is_ok_and(|head| head.is_some()));
            }
            driver.set_available(&ram, taken + more);
            let expected = match taken + more {
                all if all > SIZE => Err(Rule::AvailableTooFar),
                _ => Ok(more != 0),
            };
            assert_eq!(queue.listen(&&ram), expected, "{taken} taken, {more} more");
        }
    }
}
