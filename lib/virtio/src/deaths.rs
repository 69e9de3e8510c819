//! A worker that dies at every store it makes, in each kind of ring, and once more in the middle of
//! taking over: no request is lost, none is completed twice, the order of fetching is kept, and
//! neither side sleeps through what the other did.

use core::sync::atomic::Ordering;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Vec;

use cloister_virtio_testing::{Driver, PackedDriver, TestRam};

use crate::fuse::{self, AtomicU64, Death, FusedRam};
use crate::{Chain, Change, Device, Head, Offer, Worker, features, record, wire};

const QUEUES: usize = 2;
const SIZE: u16 = 8;
/// Requests of each queue: more than two laps, so that wrap counters turn.
const REQUESTS: usize = 14;
const OFFER: Offer<'static> =
    Offer { features: features::ALL_RINGS, queue_size: SIZE, config: b"disk" };
const ORDER: u64 = 3;

/// Where a request has its bytes, and its table.
fn place(queue: usize, token: usize) -> u64 {
    0x4000 + 0x1000 * queue as u64 + 0x80 * token as u64
}

fn reply(queue: usize, token: usize) -> [u8; 8] {
    (0x1234_5678_9abc_0000 + (queue * 256 + token) as u64).to_le_bytes()
}

enum Kind {
    Split(Driver),
    Packed(PackedDriver),
}

/// The driver of one queue, which looks for used chains only when it is interrupted.
struct Side {
    kind: Kind,
    number: usize,
    features: u64,
    added: usize,
    /// Where each request began in a packed ring.
    places: Vec<(u16, bool)>,
    /// Token of each id in flight.
    tokens: [Option<usize>; SIZE as usize],
    completed: Vec<usize>,
}

impl Side {
    fn new(number: usize, features: u64) -> Side {
        let at = 0x1000 * (number as u64 + 1);
        let is_packed = features & features::RING_PACKED != 0;
        let kind = match is_packed {
            true => Kind::Packed(PackedDriver::new(at, SIZE)),
            false => Kind::Split(Driver::new(at, SIZE)),
        };
        let tokens = [None; SIZE as usize];
        let (places, completed) = (Vec::new(), Vec::new());
        Side { kind, number, features, added: 0, places, tokens, completed }
    }

    fn record(&self) -> [u64; 4] {
        match &self.kind {
            Kind::Split(driver) => driver.record(),
            Kind::Packed(driver) => driver.record(),
        }
    }

    /// Adds requests while there is room; whether it did.
    fn add(&mut self, ram: &TestRam) -> bool {
        let before = self.added;
        while self.added < REQUESTS {
            let (token, at) = (self.added, place(self.number, self.added));
            let buffers = [(at, 3, false), (at + 3, 5, false), (at + 16, 8, true)];
            if let Kind::Packed(driver) = &self.kind {
                self.places.push(driver.next);
            }
            // Every other request by a table, where that is allowed.
            let by_table = self.features & features::INDIRECT_DESC != 0 && token % 2 == 1;
            let id = match (&mut self.kind, by_table) {
                (Kind::Split(driver), false) => driver.add(ram, &buffers),
                (Kind::Split(driver), true) => driver.add_indirect(ram, at + 0x20, &buffers),
                (Kind::Packed(driver), false) => driver.add(ram, &buffers),
                (Kind::Packed(driver), true) => driver.add_indirect(ram, at + 0x20, &buffers),
            };
            let Some(id) = id else {
                self.places.truncate(self.added);
                break;
            };
            ram.poke(at, &(token as u64).to_le_bytes());
            ram.poke(at + 16, &[0xee; 8]);
            self.tokens[usize::from(id)] = Some(token);
            self.added += 1;
        }
        self.added != before
    }

    /// Whether the device asked for a doorbell for what was added since `before` was next.
    fn rings(&self, ram: &TestRam, before: u16) -> bool {
        let has_events = self.features & features::EVENT_IDX != 0;
        let (a, b) = match &self.kind {
            Kind::Split(driver) => driver.device_wish(ram),
            Kind::Packed(driver) => driver.device_wish(ram),
        };
        match &self.kind {
            Kind::Split(_) if has_events => {
                b.wrapping_sub(before) < (self.added as u16).wrapping_sub(before)
            }
            Kind::Split(_) => a == 0,
            // Each place that was filled is one that may have been named.
            Kind::Packed(driver) if b == 2 => {
                let mut place = self.places[usize::from(before)];
                while place != driver.next {
                    if a == place.0 | u16::from(place.1) << 15 {
                        return true;
                    }
                    place = driver.behind(place);
                }
                false
            }
            Kind::Packed(_) => b == 0,
        }
    }

    /// An interrupt: takes all that was used, and asks for the next one.
    fn collect(&mut self, ram: &TestRam) {
        loop {
            let used = match &mut self.kind {
                Kind::Split(driver) => driver.used(ram),
                Kind::Packed(driver) => driver.used(ram),
            };
            let Some((id, len)) = used else { break };
            let token = self.tokens[usize::from(id)].take().expect("used, and not in flight");
            assert_eq!(len, 8);
            let written = ram.peek(place(self.number, token) + 16, 8);
            assert_eq!(written, reply(self.number, token), "the reply of {token}");
            assert!(!self.completed.contains(&token), "{token} was completed twice");
            self.completed.push(token);
        }
        match &self.kind {
            Kind::Split(driver) => driver.set_wish(ram, 0, driver.used_index(ram)),
            Kind::Packed(driver) if self.features & features::EVENT_IDX != 0 => {
                driver.set_wish(ram, driver.next_used(), 2);
            }
            Kind::Packed(driver) => driver.set_wish(ram, 0, 0),
        }
    }
}

/// What outlives the worker.
struct Memory {
    page: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    records: Vec<AtomicU64>,
    ram: TestRam,
}

/// The guest, and what the test knows.
struct Guest {
    sides: [Side; QUEUES],
    /// Requests in the order in which they were fetched.
    fetched: Vec<(usize, usize)>,
    executed: u32,
    adoptions: u32,
    readopted: u32,
}

fn zeroes(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::default()).collect()
}

fn bench(features: u64) -> (Memory, Guest) {
    let memory = Memory {
        page: zeroes(wire::WORDS),
        bells: zeroes(2),
        records: zeroes(QUEUES * record::QUEUE_WORDS),
        ram: TestRam::new(1 << 16),
    };
    let sides = [Side::new(0, features), Side::new(1, features)];
    memory.page[wire::FEATURES].set(features);
    for (number, side) in sides.iter().enumerate() {
        for (word, value) in (wire::QUEUES + wire::QUEUE_WORDS * number..).zip(side.record()) {
            memory.page[word].set(value);
        }
    }
    memory.page[wire::ORDER].set(ORDER);
    (memory, Guest { sides, fetched: Vec::new(), executed: 0, adoptions: 0, readopted: 0 })
}

impl Guest {
    /// What the guest does between two steps of the worker.
    fn go_on(&mut self, memory: &Memory) {
        let pending = memory.page[wire::PENDING].load(Ordering::Relaxed);
        memory.page[wire::PENDING].set(0);
        for (number, side) in self.sides.iter_mut().enumerate() {
            if pending & 1 << number != 0 {
                side.collect(&memory.ram);
            }
            let before = side.added as u16;
            if side.add(&memory.ram) && side.rings(&memory.ram, before) {
                let bells = memory.bells[0].load(Ordering::Relaxed);
                memory.bells[0].set(bells.wrapping_add(1 << (32 * number)));
            }
        }
    }
}

type Held = Vec<(usize, Head, Chain<4>, usize)>;
type Tested<'a> = Device<'a, FusedRam<'a>, QUEUES>;

/// Carries a request out as far as reading it.
fn execute(memory: &Memory, guest: &mut Guest, chain: &Chain<4>) -> usize {
    let mut token = [0; 8];
    assert_eq!(chain.read(&&memory.ram, 0, &mut token), Ok(8));
    let token = u64::from_le_bytes(token) as usize;
    assert!(token < REQUESTS, "a request that was never made");
    guest.executed += 1;
    token
}

fn finish(memory: &Memory, guest: &mut Guest, device: &mut Tested<'_>, held: &mut Held) {
    // Neither first in, first out nor the other way round.
    let (queue, head, chain, token) = held.swap_remove(held.len() / 2);
    chain.write(device.ram(), 0, &reply(queue, token)).expect("its buffer is in RAM");
    device.complete(queue, head, 8);
    device.interrupt(queue);
    guest.go_on(memory);
}

/// Takes all chains of a queue, and completes when three are in hand.
fn drain(memory: &Memory, guest: &mut Guest, device: &mut Tested<'_>, held: &mut Held) -> bool {
    let mut any = false;
    let mut chain = Chain::default();
    for queue in 0..QUEUES {
        while let Some(head) = device.fetch(queue, &mut chain) {
            let token = execute(memory, guest, &chain);
            guest.fetched.push((queue, token));
            held.push((queue, head, chain.clone(), token));
            any = true;
            if held.len() > 3 {
                finish(memory, guest, device, held);
            }
        }
    }
    assert_eq!(device.take_broken(), None);
    any
}

/// Takes over what an earlier instance left, in its order.
fn readopt(memory: &Memory, guest: &mut Guest, device: &mut Tested<'_>, held: &mut Held) {
    guest.adoptions += 1;
    let mut last = None;
    let mut chain = Chain::default();
    while let Some((queue, head)) = device.readopt(&mut chain) {
        let token = execute(memory, guest, &chain);
        let place = guest.fetched.iter().position(|of| *of == (queue, token));
        // One that was committed by a fetch that did not return is the newest.
        let place = place.unwrap_or(guest.fetched.len());
        assert!(last.is_none_or(|last| last < place), "readopted in another order");
        last = Some(place);
        if place == guest.fetched.len() {
            guest.fetched.push((queue, token));
        }
        assert!(!guest.sides[queue].completed.contains(&token), "{token} again");
        guest.readopted += 1;
        held.push((queue, head, chain.clone(), token));
    }
    assert_eq!(device.take_broken(), None);
}

/// One life of the worker, until it sleeps for ever.
fn work(memory: &Memory, guest: &mut Guest) {
    let worker = Worker::adopt(&memory.page, &memory.bells, 0, &OFFER).expect("a large page");
    let ram = FusedRam(&memory.ram);
    let mut device: Tested<'_> =
        Device::adopting(worker, ram, SIZE, &memory.records).expect("a large region");
    let change = device.follow();
    assert_eq!(device.take_broken(), None);
    assert!(device.is_live(0) && device.is_live(1), "{change:?}");
    let mut held = Held::new();
    if change == Change::Adopted {
        readopt(memory, guest, &mut device, &mut held);
    }
    guest.go_on(memory);
    let mut owed = change == Change::Adopted;
    loop {
        // Doorbells, and what is there before sleeping, are all that a worker goes by.
        let mut again = false;
        for queue in 0..QUEUES {
            let rung = device.rung(queue);
            assert!(rung || !owed, "a doorbell that an earlier instance may have missed");
            again |= rung;
            device.hush(queue);
        }
        owed = false;
        if again {
            drain(memory, guest, &mut device, &mut held);
        }
        while !held.is_empty() {
            finish(memory, guest, &mut device, &mut held);
        }
        for queue in 0..QUEUES {
            while device.listen(queue) {
                again |= drain(memory, guest, &mut device, &mut held);
            }
        }
        if !again {
            return;
        }
    }
}

/// Works with workers that live for so many stores each, and a last one that dies of nothing. What
/// is left of the last fuse that burnt, if it did not burn down.
fn survive(features: u64, lives: &[u64]) -> (Guest, bool) {
    let (memory, mut guest) = bench(features);
    let mut lived = false;
    for stores in lives.iter().copied().chain([u64::MAX]) {
        fuse::set(stores);
        let ended = catch_unwind(AssertUnwindSafe(|| work(&memory, &mut guest)));
        fuse::set(u64::MAX);
        match ended {
            Ok(()) => {
                lived |= stores != u64::MAX;
                break;
            }
            Err(reason) if reason.is::<Death>() => {}
            Err(reason) => {
                std::println!("features {features:#x}, deaths after {lives:?} stores");
                resume_unwind(reason);
            }
        }
    }
    for side in &guest.sides {
        let mut completed = side.completed.clone();
        completed.sort_unstable();
        let all: Vec<usize> = (0..REQUESTS).collect();
        assert_eq!(completed, all, "features {features:#x}, deaths after {lives:?} stores");
    }
    assert_eq!(memory.ram.outside(), 0);
    (guest, lived)
}

fn kinds() -> impl Iterator<Item = u64> {
    let indirect = [0, features::INDIRECT_DESC];
    let events = [0, features::EVENT_IDX];
    let packed = [0, features::RING_PACKED];
    let both = packed.into_iter().flat_map(move |packed| events.map(|events| packed | events));
    both.flat_map(move |both| indirect.map(|indirect| both | indirect))
}

#[test]
fn a_worker_may_die_at_any_store() {
    for features in kinds() {
        let (mut deaths, mut adoptions, mut readopted) = (0u64, 0, 0);
        for stores in 0.. {
            let (guest, lived) = survive(features, &[stores]);
            if lived {
                break;
            }
            (deaths, adoptions) = (deaths + 1, adoptions + guest.adoptions);
            readopted += guest.readopted;
        }
        std::println!("{features:#x}: {deaths} deaths, {adoptions} adoptions, {readopted} chains");
        assert!(deaths > 300 && u64::from(adoptions) + 300 > deaths && readopted > 300);
    }
}

#[test]
fn a_worker_may_die_again_while_it_takes_over() {
    for features in kinds() {
        let mut deaths = 0u64;
        for first in (270..900).step_by(37) {
            for second in 0..30 {
                let (_, lived) = survive(features, &[first, second, second % 11]);
                deaths += 3 - u64::from(lived);
            }
        }
        std::println!("{features:#x}: {deaths} deaths");
    }
}
