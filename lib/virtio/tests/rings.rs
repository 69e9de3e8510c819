//! What a ring does for a driver that keeps the rules.
#![cfg(not(loom))]

use cloister_virtio::{Chain, Head, QUEUE_SIZE_MAX, Queue, Record, features};
use cloister_virtio_testing::{Buffer, Driver, TestRam};

const RAM: usize = 1 << 16;
const TABLE: u64 = 0x8000;
const EVENT: u64 = features::EVENT_IDX;

fn queue(ram: &TestRam, driver: &Driver, features: u64) -> Queue {
    let [size, descriptors, driver, device] = driver.record();
    let record = Record { size, descriptors, driver, device };
    Queue::new(&record, features, QUEUE_SIZE_MAX, 1, ram).unwrap()
}

fn fetch(queue: &mut Queue, ram: &TestRam) -> (Head, Chain<256>) {
    let mut chain = Chain::default();
    let head = queue.fetch(&ram, &mut chain).unwrap().expect("a chain is available");
    (head, chain)
}

/// Reads and writes a chain in steps of a prime, so that pieces straddle buffers.
fn exchange(chain: &Chain<256>, ram: &TestRam) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let mut step = [0; 7];
        let len = chain.read(&ram, read.len() as u64, &mut step).unwrap();
        read.extend_from_slice(&step[..len]);
        if len < step.len() {
            break;
        }
    }
    let bytes: Vec<u8> = (0..chain.writable_len()).map(|n| n as u8).collect();
    let mut written = 0;
    for step in bytes.chunks(11) {
        assert_eq!(chain.write(&ram, written, step), Ok(step.len()));
        written += step.len() as u64;
    }
    assert_eq!(chain.write(&ram, written, b"more"), Ok(0));
    read
}

#[test]
fn buffers_are_one_piece_however_they_are_cut() {
    let text = b"the quick brown fox jumps over the lazy dog";
    let cuts: [&[usize]; 4] = [&[43], &[1, 42], &[7, 7, 7, 22], &[40, 1, 1, 1]];
    for (cut, indirect) in cuts.iter().flat_map(|cut| [(cut, false), (cut, true)]) {
        let ram = TestRam::new(RAM);
        let mut driver = Driver::new(0x1000, 16);
        let mut queue = queue(&ram, &driver, features::RINGS);
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut done = 0;
        for (place, len) in cut.iter().enumerate() {
            let at = 0x4000 + 0x100 * place as u64;
            ram.poke(at, &text[done..done + len]);
            done += len;
            buffers.push((at, *len as u32, false));
        }
        for (place, len) in cut.iter().enumerate() {
            buffers.push((0x6000 + 0x100 * place as u64, *len as u32, true));
        }
        let head = match indirect {
            true => driver.add_indirect(&ram, TABLE, &buffers),
            false => driver.add(&ram, &buffers),
        };
        let (fetched, chain) = fetch(&mut queue, &ram);
        assert_eq!((chain.readable_len(), chain.writable_len()), (43, 43));
        assert_eq!(exchange(&chain, &ram), text);
        let mut back = Vec::new();
        for (at, len, _) in buffers.iter().filter(|(_, _, is_written)| *is_written) {
            back.extend(ram.peek(*at, *len as usize));
        }
        assert_eq!(back, (0..43).collect::<Vec<u8>>());
        assert_eq!(queue.complete(&&ram, fetched, 43), Ok(()));
        assert_eq!(driver.used(&ram), head.map(|head| (head, 43)));
        assert_eq!((driver.used(&ram), queue.in_flight(), ram.outside()), (None, 0, 0));
    }
}

#[test]
fn a_direct_chain_may_end_in_a_table() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 4);
    let mut queue = queue(&ram, &driver, features::RINGS);
    driver.describe(&ram, 2, 0x4000, 8, 1, 3);
    // The flag that says *write* means nothing beside the one that names a table.
    driver.describe(&ram, 3, TABLE, 32, 4 | 2, 0);
    ram.poke(TABLE, &0x5000u64.to_le_bytes());
    ram.poke(TABLE + 8, &[16, 0, 0, 0, 1, 0, 1, 0]);
    ram.poke(TABLE + 16, &0x6000u64.to_le_bytes());
    ram.poke(TABLE + 24, &[32, 0, 0, 0, 2, 0, 0, 0]);
    driver.offer(&ram, 2);
    let (_, chain) = fetch(&mut queue, &ram);
    assert_eq!((chain.readable_len(), chain.writable_len()), (24, 32));
}

#[test]
fn indices_wrap_and_chains_complete_in_any_order() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 4);
    let mut queue = queue(&ram, &driver, 0);
    let mut held = Vec::new();
    let mut completed = 0u32;
    for turn in 0..200_000u32 {
        let buffer = (0x4000 + u64::from(turn % 64), turn % 100 + 1, true);
        let head = driver.add(&ram, &[buffer]).expect("at most four are in flight");
        let (fetched, chain) = fetch(&mut queue, &ram);
        assert_eq!(chain.writable_len(), u64::from(turn % 100 + 1));
        held.push((head, fetched));
        assert_eq!(usize::from(queue.in_flight()), held.len());
        if held.len() == 4 || turn % 3 == 0 {
            let (head, fetched) = held.remove(turn as usize % held.len());
            assert_eq!(queue.complete(&&ram, fetched, turn), Ok(()));
            assert_eq!(driver.used(&ram), Some((head, turn)));
            completed += 1;
        }
    }
    assert!(completed > 3 * 65_536 && ram.outside() == 0);
}

#[test]
fn what_the_guest_writes_after_the_fetch_has_no_effect() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 4);
    let mut queue = queue(&ram, &driver, 0);
    driver.add(&ram, &[(0x4000, 4, false), (0x5000, 4, true)]);
    let (head, chain) = fetch(&mut queue, &ram);
    ram.poke(0x1000, &[0xff; 64]);
    ram.poke(0x4000, b"sent");
    let mut bytes = [0; 8];
    assert_eq!(chain.read(&&ram, 0, &mut bytes), Ok(4));
    assert_eq!(chain.write(&&ram, 0, b"received"), Ok(4));
    assert_eq!((&bytes[..4], &ram.peek(0x5000, 8)[..]), (&b"sent"[..], &b"rece\0\0\0\0"[..]));
    assert_eq!(queue.complete(&&ram, head, 4), Ok(()));
}

#[test]
fn a_head_of_another_life_completes_nothing() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 4);
    let mut old = queue(&ram, &driver, 0);
    driver.add(&ram, &[(0x4000, 4, true)]);
    let (stale, _) = fetch(&mut old, &ram);
    let [size, descriptors, area, device] = driver.record();
    let record = Record { size, descriptors, driver: area, device };
    let mut new = Queue::new(&record, 0, 4, 3, &&ram).unwrap();
    let (fresh, _) = fetch(&mut new, &ram);
    assert_eq!(new.complete(&&ram, stale, 4), Ok(()));
    assert_eq!(driver.used_index(&ram), 0);
    assert_eq!(new.complete(&&ram, fresh, 4), Ok(()));
    assert_eq!(driver.used_index(&ram), 1);
}

/// The words of the specification: an interrupt is due if the used index goes from `old` to `new`
/// past the entry that the driver named.
fn passes(old: u16, new: u16, named: u16) -> bool {
    let mut index = old;
    while index != new {
        if index == named {
            return true;
        }
        index = index.wrapping_add(1);
    }
    false
}

#[test]
fn interrupts_are_wanted_exactly_when_the_named_entry_is_used() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 8);
    let mut queue = queue(&ram, &driver, EVENT);
    let (mut wanted, mut all) = (0u32, 0u32);
    let mut old = 0u16;
    // Twice around, so that every index is met as the old one, with every distance near it.
    for turn in 0..32_000u32 {
        let count = turn % 8 + 1;
        for _ in 0..count {
            driver.add(&ram, &[(0x4000, 1, true)]).unwrap();
            let (head, _) = fetch(&mut queue, &ram);
            queue.complete(&&ram, head, 1).unwrap();
            driver.used(&ram).unwrap();
        }
        let new = driver.used_index(&ram);
        let named = old.wrapping_add((turn / 8 % 24) as u16).wrapping_sub(8);
        driver.set_wish(&ram, 1, named);
        let is_wanted = queue.wants_interrupt(&&ram).unwrap();
        assert_eq!(is_wanted, passes(old, new, named), "{old} to {new}, {named}");
        assert_eq!(queue.wants_interrupt(&&ram), Ok(false), "nothing was used since");
        (wanted, all, old) = (wanted + u32::from(is_wanted), all + 1, new);
    }
    assert!(wanted > all / 10 && wanted < all / 2, "{wanted} of {all}");
}

#[test]
fn a_whole_turn_of_indices_is_more_than_an_index_can_say() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 8);
    let mut queue = queue(&ram, &driver, EVENT);
    for _ in 0..65_536 {
        driver.add(&ram, &[(0x4000, 1, true)]).unwrap();
        let (head, _) = fetch(&mut queue, &ram);
        queue.complete(&&ram, head, 1).unwrap();
        driver.used(&ram).unwrap();
    }
    assert_eq!(queue.wants_interrupt(&&ram), Ok(true));
}

#[test]
fn without_event_indices_the_flags_count() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 8);
    let mut queue = queue(&ram, &driver, 0);
    for (flags, wanted) in [(0, true), (1, false), (0, true)] {
        driver.set_wish(&ram, flags, 0x5555);
        driver.add(&ram, &[(0x4000, 1, true)]).unwrap();
        let (head, _) = fetch(&mut queue, &ram);
        queue.complete(&&ram, head, 1).unwrap();
        assert_eq!(queue.wants_interrupt(&&ram), Ok(wanted));
    }
    queue.hush(&&ram).unwrap();
    assert_eq!(driver.device_wish(&ram).0, 1);
    assert_eq!(queue.listen(&&ram), Ok(false));
    assert_eq!(driver.device_wish(&ram), (0, 0));
}

#[test]
fn listening_names_the_next_chain_and_sees_one_that_is_there() {
    let ram = TestRam::new(RAM);
    let mut driver = Driver::new(0x1000, 8);
    let mut queue = queue(&ram, &driver, EVENT);
    for number in 1..=20u16 {
        assert_eq!(queue.listen(&&ram), Ok(false));
        assert_eq!(driver.device_wish(&ram), (0, number - 1));
        driver.add(&ram, &[(0x4000, 1, true)]).unwrap();
        assert_eq!([queue.listen(&&ram), queue.listen(&&ram)], [Ok(true); 2]);
        assert_eq!(driver.device_wish(&ram), (0, number - 1), "the next one that is not fetched");
        let (head, _) = fetch(&mut queue, &ram);
        queue.complete(&&ram, head, 1).unwrap();
        driver.used(&ram).unwrap();
        queue.hush(&&ram).unwrap();
    }
}
