//! What a packed ring does for a driver that keeps the rules.
#![cfg(not(loom))]

use cloister_virtio::{Chain, Head, QUEUE_SIZE_MAX, Queue, Record, features};
use cloister_virtio_testing::{PackedDriver, TestRam};

const RAM: usize = 1 << 16;
const DATA: u64 = 0x4000;
const TABLE: u64 = 0x8000;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

fn queue(ram: &TestRam, driver: &PackedDriver, features: u64) -> Queue {
    let [size, descriptors, driver, device] = driver.record();
    let record = Record { size, descriptors, driver, device };
    Queue::new(&record, features | features::RING_PACKED, QUEUE_SIZE_MAX, 1, ram).unwrap()
}

fn fetch(queue: &mut Queue, ram: &TestRam) -> (Head, Chain<8>) {
    let mut chain = Chain::default();
    let head = queue.fetch(&ram, &mut chain).unwrap().expect("a chain is available");
    (head, chain)
}

/// Buffers for a request: `count` of them, the first to be read.
fn buffers(count: usize) -> Vec<(u64, u32, bool)> {
    (0..count).map(|n| (DATA + 16 * n as u64, 1 + n as u32, n != 0)).collect()
}

#[test]
fn chains_of_any_length_go_round_rings_of_any_size() {
    for size in 1..=9u16 {
        let ram = TestRam::new(RAM);
        let mut driver = PackedDriver::new(0x1000, size);
        let mut queue = queue(&ram, &driver, features::INDIRECT_DESC);
        let (mut held, mut done, mut turn) = (Vec::new(), 0u32, 0usize);
        while done < 2_000 {
            turn += 1;
            // Fill the ring, then complete some, from anywhere.
            let count = 1 + turn * 7 % usize::from(size).min(4);
            let id = match turn % 3 {
                0 => driver.add_indirect(&ram, TABLE, &buffers(count)),
                _ => driver.add(&ram, &buffers(count)),
            };
            if let Some(id) = id {
                let (head, chain) = fetch(&mut queue, &ram);
                let written: u64 = (1..count as u64).map(|n| 1 + n).sum();
                assert_eq!((chain.readable_len(), chain.writable_len()), (1, written));
                assert_eq!(chain.buffers(), count);
                held.push((head, id, written as u32));
                continue;
            }
            assert_eq!(queue.fetch(&&ram, &mut Chain::<8>::default()), Ok(None));
            for _ in 0..=turn % held.len() {
                let (head, id, written) = held.swap_remove(turn % held.len());
                queue.complete(&&ram, head, written).unwrap();
                assert_eq!(driver.used(&ram), Some((id, written)), "size {size}");
                done += 1;
            }
            assert_eq!(driver.used(&ram), None);
            assert_eq!(usize::from(queue.in_flight()), held.len());
        }
        assert_eq!(ram.outside(), 0);
    }
}

#[test]
fn a_direct_chain_may_end_in_a_table() {
    let ram = TestRam::new(RAM);
    let driver = PackedDriver::new(0x1000, 4);
    let mut queue = queue(&ram, &driver, features::INDIRECT_DESC);
    driver.describe(&ram, 1, TABLE, 32, 9, 0x80 | 4);
    PackedDriver::new(TABLE, 2).describe(&ram, 0, DATA, 8, 1, 0);
    PackedDriver::new(TABLE, 2).describe(&ram, 1, DATA, 5, 1, 2);
    driver.describe(&ram, 0, DATA, 3, 8, 0x80 | 1);
    let (head, chain) = fetch(&mut queue, &ram);
    assert_eq!((chain.readable_len(), chain.writable_len()), (11, 5));
    queue.complete(&&ram, head, 5).unwrap();
    assert_eq!(ram.peek_u16(0x1000 + 12), 9, "the buffer id is that of the last descriptor");
}

/// The words of the specification: the ring passed the place that the driver named.
fn passes(driver: &PackedDriver, old: (u16, bool), new: (u16, bool), named: (u16, bool)) -> bool {
    let mut place = old;
    while place != new {
        if place == named {
            return true;
        }
        place = driver.behind(place);
    }
    false
}

#[test]
fn interrupts_are_wanted_exactly_when_the_named_place_is_used() {
    let ram = TestRam::new(RAM);
    let mut driver = PackedDriver::new(0x1000, 7);
    let mut queue = queue(&ram, &driver, features::EVENT_IDX);
    let (mut wanted, mut all, mut old) = (0u32, 0u32, (0, true));
    for turn in 0..20_000usize {
        for step in 0..turn % 4 {
            driver.add(&ram, &buffers(1 + (turn + step) % 3)).unwrap();
            let (head, _) = fetch(&mut queue, &ram);
            queue.complete(&&ram, head, 1).unwrap();
            driver.used(&ram).unwrap();
        }
        let new = driver.next;
        let named = ((turn / 4 % 7) as u16, turn / 28 % 2 == 0);
        driver.set_wish(&ram, named.0 | u16::from(named.1) << 15, DESC);
        let is_wanted = queue.wants_interrupt(&&ram).unwrap();
        // Up to nine descriptors are less than two laps, so places are not named twice.
        assert_eq!(is_wanted, passes(&driver, old, new, named), "{old:?} {new:?} {named:?}");
        assert_eq!(queue.wants_interrupt(&&ram), Ok(false), "nothing was used since");
        (wanted, all, old) = (wanted + u32::from(is_wanted), all + 1, new);
    }
    assert!(wanted > all / 10 && wanted < all / 2, "{wanted} of {all}");
}

#[test]
fn flags_of_the_event_structure_count() {
    for (features, cases) in [
        (0, [(0, true), (DISABLE, false), (DESC, true), (3, true)]),
        (features::EVENT_IDX, [(0, true), (DISABLE, false), (DESC, false), (3, true)]),
    ] {
        let ram = TestRam::new(RAM);
        let mut driver = PackedDriver::new(0x1000, 8);
        let mut queue = queue(&ram, &driver, features);
        for (flags, wanted) in cases {
            driver.set_wish(&ram, 7 | 1 << 15, flags);
            driver.add(&ram, &buffers(1)).unwrap();
            let (head, _) = fetch(&mut queue, &ram);
            queue.complete(&&ram, head, 1).unwrap();
            assert_eq!(queue.wants_interrupt(&&ram), Ok(wanted), "{features:#x} {flags}");
            driver.used(&ram).unwrap();
        }
        // A place that the ring has not: rather one interrupt too many.
        driver.set_wish(&ram, 8, DESC);
        driver.add(&ram, &buffers(1)).unwrap();
        let (head, _) = fetch(&mut queue, &ram);
        queue.complete(&&ram, head, 1).unwrap();
        assert_eq!(queue.wants_interrupt(&&ram), Ok(true));
    }
}

#[test]
fn listening_names_the_next_chain_and_sees_one_that_is_there() {
    for features in [0, features::EVENT_IDX] {
        let ram = TestRam::new(RAM);
        let mut driver = PackedDriver::new(0x1000, 3);
        let mut queue = queue(&ram, &driver, features);
        for turn in 0..20 {
            let (index, wrap) = driver.next;
            let asked = match features {
                0 => (0, 0),
                _ => (index | u16::from(wrap) << 15, DESC),
            };
            assert_eq!(queue.listen(&&ram), Ok(false));
            assert_eq!(driver.device_wish(&ram), asked);
            driver.add(&ram, &buffers(1 + turn % 2)).unwrap();
            assert_eq!([queue.listen(&&ram), queue.listen(&&ram)], [Ok(true); 2]);
            assert_eq!(driver.device_wish(&ram), asked, "the next one that is not fetched");
            let (head, _) = fetch(&mut queue, &ram);
            queue.complete(&&ram, head, 1).unwrap();
            driver.used(&ram).unwrap();
            queue.hush(&&ram).unwrap();
            assert_eq!(driver.device_wish(&ram).1, DISABLE);
        }
    }
}
