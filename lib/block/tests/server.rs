//! The server with guests at its rings and a simulated disk that reaches their memory.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use cloister_block::{
    Bounce, Busy, Client, Command, Disk, Engine, Fit, Limits, Next, Operation, Outcome, Rate,
    Request, Segment, Server, Tag, Ticket, Volume,
};
use cloister_virtio::block::{Shape, feature};
use cloister_virtio::{Device, Offer, Worker, features};
use cloister_virtio_testing::{Buffer, Driver, Monitor, TestRam, page};

const RAM: usize = 1 << 20;
const QUEUE: u16 = 128;
/// Blocks of 4 KiB of each volume.
const BLOCKS: u64 = 64;
const BLOCK: u64 = 4096;
/// Of a request: header, status, then data.
const REQUESTS: u64 = 0x4_0000;
const DATA: u64 = 0x5_0000;
const RECORDS: usize = 1 << 16;

/// Where the disk has a client's memory.
fn base(client: u8) -> u64 {
    (u64::from(client) + 1) << 32
}

fn shape(is_read_only: bool) -> Shape {
    Shape {
        blocks: BLOCKS,
        block_size: 4096,
        size_max: 0,
        seg_max: 32,
        has_topology: false,
        queues: 4,
        is_read_only,
        discard_blocks_max: 16,
        zeroes_blocks_max: 16,
    }
}

struct Out {
    tag: Tag,
    operation: Operation,
    at: u64,
    len: u64,
    segments: Vec<Segment>,
}

/// A disk whose commands end when the test says so, in any order.
struct TestDisk<'a> {
    limits: Limits,
    rams: Vec<&'a TestRam>,
    bytes: Vec<u8>,
    out: Vec<Out>,
    ended: Vec<(Tag, Outcome)>,
    depth: usize,
    seed: u64,
    is_failing: bool,
}

impl<'a> TestDisk<'a> {
    fn new(rams: Vec<&'a TestRam>, depth: usize) -> TestDisk<'a> {
        let limits = Limits {
            block_size: 512,
            blocks: BLOCKS * 8 * rams.len() as u64,
            bytes_max: 1 << 17,
            segments_max: 32,
            fit: Fit::Pages,
            align: 4,
            zero_blocks_max: 1 << 16,
            discard_blocks_max: 0,
            write_cache: true,
        };
        let bytes = vec![0; (BLOCKS * BLOCK) as usize * rams.len()];
        let (out, ended) = (Vec::new(), Vec::new());
        TestDisk {
            limits,
            rams,
            bytes,
            out,
            ended,
            depth,
            seed: 88172645463325252,
            is_failing: false,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as usize % below
    }

    /// Ends one of the commands.
    fn end_one(&mut self) -> bool {
        if self.out.is_empty() {
            return false;
        }
        let place = self.random(self.out.len());
        let out = self.out.swap_remove(place);
        if self.is_failing {
            self.ended.push((out.tag, Outcome::Failed));
            return true;
        }
        let mut at = out.at as usize;
        match out.operation {
            Operation::Zero => self.bytes[at..][..out.len as usize].fill(0),
            Operation::Read | Operation::Write => {
                for segment in &out.segments {
                    let client = (segment.address >> 32) - 1;
                    let (ram, place) = (self.rams[client as usize], segment.address & 0xffff_ffff);
                    let bytes = &mut self.bytes[at..][..segment.len as usize];
                    if out.operation == Operation::Read {
                        ram.poke(place, bytes);
                    } else {
                        bytes.copy_from_slice(&ram.peek(place, segment.len as usize));
                    }
                    at += segment.len as usize;
                }
            }
            Operation::Flush | Operation::Discard => {}
        }
        self.ended.push((out.tag, Outcome::Done));
        true
    }
}

impl Disk for TestDisk<'_> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        if self.out.len() >= self.depth {
            return Err(Busy);
        }
        self.out.push(Out {
            tag,
            operation: command.operation,
            at: command.block * 512,
            len: u64::from(command.blocks) * 512,
            segments: command.segments.to_vec(),
        });
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        self.ended.pop()
    }

    fn cancel(&mut self, _tag: Tag) {}
}

/// No buffers: everything here is made of pages.
struct None_;

impl Bounce for None_ {
    fn zeros(&self) -> u64 {
        unreachable!("the disk zeroes by itself")
    }

    fn take(&mut self, _: u64) -> Option<(u8, Segment)> {
        None
    }

    fn fill(&mut self, _: u8, _: u8, _: &Request, _: u64, _: u64) -> bool {
        false
    }

    fn drain(&mut self, _: u8, _: u8, _: &Request, _: u64, _: u64) -> bool {
        false
    }

    fn release(&mut self, _: u8) {}
}

/// An engine for one test.
fn engine() -> &'static mut Engine<Ticket> {
    Box::leak(Box::new(Engine::new()))
}

/// The machine around one guest.
struct Bench {
    ram: TestRam,
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    records: Vec<AtomicU64>,
}

impl Bench {
    fn new() -> Bench {
        let records = (0..RECORDS).map(|_| AtomicU64::new(0)).collect();
        Bench { ram: TestRam::new(RAM), words: page(), bells: page(), records }
    }

    fn monitor(&self) -> Monitor<'_> {
        Monitor::new(&self.words, &self.bells, 0)
    }

    fn client(&self, number: u8, rate: Rate, is_read_only: bool) -> Client<'_, &TestRam> {
        let shape = shape(is_read_only);
        let config = shape.config();
        let features = shape.features() | features::RINGS;
        let offer = Offer { features, queue_size: QUEUE, config: &config };
        let worker = Worker::adopt(&self.words, &self.bells, 0, &offer).unwrap();
        let device = Device::adopting(worker, &self.ram, QUEUE, &self.records).unwrap();
        let offset = u64::from(number) * BLOCKS * BLOCK;
        let identity = *b"a volume\0\0\0\0\0\0\0\0\0\0\0\0";
        let memory = Some(base(number));
        Client::new(
            device,
            number,
            Volume { offset, shape, memory, is_sealed: false, identity },
            rate,
        )
    }
}

/// A guest's driver with four queues.
struct Guest<'b> {
    bench: &'b Bench,
    queues: Vec<Driver>,
    /// Slot and queue of each head in flight.
    out: HashMap<(usize, u16), u64>,
    free: Vec<u64>,
    statuses: HashMap<u64, u8>,
    done: u64,
}

impl<'b> Guest<'b> {
    fn new(bench: &'b Bench) -> Guest<'b> {
        let queues = (0..4).map(|queue| Driver::new(0x1_0000 * queue, QUEUE)).collect();
        let free = (0..128).rev().collect();
        let (out, statuses) = (HashMap::new(), HashMap::new());
        Guest { bench, queues, out, free, statuses, done: 0 }
    }

    fn go_live(&self) {
        let records: Vec<_> = self.queues.iter().map(Driver::record).collect();
        let wanted = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES | feature::MQ;
        self.bench.monitor().live(wanted | features::INDIRECT_DESC, &records);
    }

    /// Sends a request; the slot whose status tells how it ended.
    fn send(&mut self, queue: usize, kind: u32, sector: u64, data: &[Buffer]) -> Option<u64> {
        let slot = self.free.pop()?;
        let (header, status) = (REQUESTS + slot * 32, REQUESTS + slot * 32 + 31);
        let ram = &self.bench.ram;
        ram.poke(header, &kind.to_le_bytes());
        ram.poke(header + 8, &sector.to_le_bytes());
        ram.poke(status, &[0xff]);
        let mut buffers = vec![(header, 16, false)];
        buffers.extend(data);
        buffers.push((status, 1, true));
        let Some(head) = self.queues[queue].add(ram, &buffers) else {
            self.free.push(slot);
            return None;
        };
        self.out.insert((queue, head), slot);
        self.bench.monitor().ring(queue);
        Some(slot)
    }

    fn read(&mut self, queue: usize, block: u64, place: u64) -> Option<u64> {
        self.send(queue, 0, block * 8, &[(DATA + place * BLOCK, 4096, true)])
    }

    fn write(&mut self, queue: usize, block: u64, place: u64) -> Option<u64> {
        self.send(queue, 1, block * 8, &[(DATA + place * BLOCK, 4096, false)])
    }

    /// Takes what was used.
    fn collect(&mut self) {
        for (number, queue) in self.queues.iter_mut().enumerate() {
            while let Some((head, _)) = queue.used(&self.bench.ram) {
                let slot = self.out.remove(&(number, head)).expect("used and not in flight");
                let status = self.bench.ram.peek(REQUESTS + slot * 32 + 31, 1)[0];
                self.statuses.insert(slot, status);
                self.free.push(slot);
                self.done += 1;
            }
        }
    }
}

fn settle<'a>(server: &mut Server<'a, &'a TestRam>, disk: &mut TestDisk<'_>, now: u64) {
    for _ in 0..1000 {
        if server.round(disk, &mut None_, now) != Next::Round {
            return;
        }
    }
    panic!("the server finds work without end");
}

/// Rounds until everything has ended.
fn finish<'a>(
    server: &mut Server<'a, &'a TestRam>,
    disk: &mut TestDisk<'_>,
    guest: &mut Guest<'_>,
) {
    settle(server, disk, 0);
    while disk.end_one() {
        settle(server, disk, 0);
    }
    guest.collect();
}

fn one(bench: &Bench) -> (Server<'_, &TestRam>, TestDisk<'_>, Guest<'_>) {
    let mut server = Server::new(engine());
    server.add(0, bench.client(0, Rate::UNBOUNDED, false)).unwrap();
    let mut disk = TestDisk::new(vec![&bench.ram], 16);
    settle(&mut server, &mut disk, 0);
    let guest = Guest::new(bench);
    guest.go_live();
    settle(&mut server, &mut disk, 0);
    assert!(bench.monitor().is_answered());
    (server, disk, guest)
}

#[test]
fn every_kind_of_request_ends_as_it_should() {
    let bench = Bench::new();
    let (mut server, mut disk, mut guest) = one(&bench);
    bench.ram.poke(DATA, &[0x11; 4096]);
    bench.ram.poke(DATA + 0x8000, &40u64.to_le_bytes());
    bench.ram.poke(DATA + 0x8008, &8u32.to_le_bytes());
    let range = [(DATA + 0x8000, 16, false)];
    for (number, (kind, sector, data, expected)) in [
        (1, 40, vec![(DATA, 4096, false)], 0u8),
        (4, 0, vec![], 0),
        (0, 40, vec![(DATA + 4096, 4096, true)], 0),
        (8, 0, vec![(DATA + 0x9000, 20, true)], 0),
        (11, 0, range.to_vec(), 0),
        (13, 0, range.to_vec(), 0),
        (0, 40, vec![(DATA + 0x2000, 4096, true)], 0),
        (0, BLOCKS * 8, vec![(DATA, 4096, true)], 1),
        (1, BLOCKS * 8 - 8, vec![(DATA, 8192, false)], 1),
        (0, 1, vec![(DATA, 4096, true)], 1),
        (77, 0, vec![], 2),
    ]
    .into_iter()
    .enumerate()
    {
        let slot = guest.send(number % 4, kind, sector, &data).unwrap();
        finish(&mut server, &mut disk, &mut guest);
        assert_eq!(guest.statuses.get(&slot), Some(&expected), "{kind} at {sector}");
    }
    assert_eq!(bench.ram.peek(DATA + 4096, 4096), [0x11; 4096]);
    assert_eq!(bench.ram.peek(DATA + 0x2000, 4096), [0; 4096]);
    assert_eq!(bench.ram.peek(DATA + 0x9000, 9), *b"a volume\0");
    assert_eq!(bench.monitor().take_pending(), 0b1111);
    assert!(!bench.monitor().is_broken() && server.is_idle());
    assert_eq!(bench.ram.outside(), 0);
}

#[test]
fn an_error_of_the_disk_is_one_of_its_request_alone() {
    let bench = Bench::new();
    let (mut server, mut disk, mut guest) = one(&bench);
    let bad = guest.write(0, 3, 0).unwrap();
    settle(&mut server, &mut disk, 0);
    disk.is_failing = true;
    finish(&mut server, &mut disk, &mut guest);
    disk.is_failing = false;
    assert_eq!((guest.statuses[&bad], guest.done), (1, 1));
    let good = guest.read(1, 3, 1).unwrap();
    finish(&mut server, &mut disk, &mut guest);
    assert_eq!((guest.statuses[&good], guest.done), (0, 2));
    assert!(guest.free.len() == 128 && !bench.monitor().is_broken());
}

#[test]
fn a_reset_is_answered_when_the_disk_is_done_and_not_before() {
    let bench = Bench::new();
    let (mut server, mut disk, mut guest) = one(&bench);
    for number in 0..100 {
        guest.read(number % 4, number as u64 % BLOCKS, number as u64 % 16).unwrap();
    }
    settle(&mut server, &mut disk, 0);
    bench.monitor().reset();
    let mut ended = 0;
    loop {
        settle(&mut server, &mut disk, 0);
        if bench.monitor().is_answered() {
            break;
        }
        assert!(disk.end_one(), "nothing is in flight, and no answer");
        ended += 1;
    }
    assert!(ended > 0 && disk.out.is_empty() && disk.ended.is_empty());
    bench.ram.lock(true);
    for queue in 0..4 {
        bench.monitor().ring(queue);
    }
    settle(&mut server, &mut disk, 0);
    assert_eq!(bench.ram.trespasses(), 0);
    assert!(server.is_idle());
    bench.ram.lock(false);
    // The next life begins with nothing of this one.
    let mut guest = Guest::new(&bench);
    bench.ram.poke(0, &[0; 0x4_0000]);
    guest.go_live();
    finish(&mut server, &mut disk, &mut guest);
    assert_eq!(guest.done, 0);
    guest.read(2, 1, 1).unwrap();
    finish(&mut server, &mut disk, &mut guest);
    assert_eq!(guest.done, 1);
}

#[test]
fn what_is_left_of_a_closed_client_ends_and_nothing_begins() {
    let benches = [Bench::new(), Bench::new()];
    let mut server = Server::new(engine());
    for (number, bench) in (0u8..).zip(&benches) {
        server.add(number, bench.client(number, Rate::UNBOUNDED, false)).unwrap();
    }
    // Shallow, so that requests of both are held.
    let mut disk = TestDisk::new(benches.iter().map(|bench| &bench.ram).collect(), 8);
    let mut guests = [Guest::new(&benches[0]), Guest::new(&benches[1])];
    settle(&mut server, &mut disk, 0);
    for guest in &mut guests {
        guest.go_live();
        for number in 0..40 {
            guest.read(number % 4, number as u64 % BLOCKS, number as u64 % 16).unwrap();
        }
    }
    settle(&mut server, &mut disk, 0);
    server.close(0, &mut disk, &mut None_);
    let mut left = disk.out.len();
    assert_eq!(left, 8);
    while !server.settle(&mut disk, &mut None_) {
        assert_eq!(disk.out.len(), left, "something was begun");
        assert!(disk.end_one(), "nothing is in flight, and it does not settle");
        left -= 1;
    }
    assert!(disk.out.is_empty() && disk.ended.is_empty() && !server.is_idle());
    let [lost, kept] = &mut guests;
    finish(&mut server, &mut disk, kept);
    lost.collect();
    assert_eq!((lost.done, kept.done), (0, 40));
    assert!(server.is_idle());
}

#[test]
fn a_read_only_volume_stays_what_it_is() {
    let bench = Bench::new();
    let mut server = Server::new(engine());
    server.add(0, bench.client(0, Rate::UNBOUNDED, true)).unwrap();
    let mut disk = TestDisk::new(vec![&bench.ram], 16);
    settle(&mut server, &mut disk, 0);
    let mut guest = Guest::new(&bench);
    guest.go_live();
    bench.ram.poke(DATA, &[0x11; 4096]);
    let slot = guest.write(0, 0, 0).unwrap();
    finish(&mut server, &mut disk, &mut guest);
    assert_eq!(guest.statuses[&slot], 1);
    assert!(disk.bytes.iter().all(|byte| *byte == 0));
}

/// Both guests keep so many requests in flight, of so many blocks each. How many blocks each got
/// in so many completions.
fn load(depth: usize, wanted: [(usize, u64); 2]) -> [u64; 2] {
    let benches = [Bench::new(), Bench::new()];
    let mut server = Server::new(engine());
    for (number, bench) in (0u8..).zip(&benches) {
        server.add(number, bench.client(number, Rate::UNBOUNDED, false)).unwrap();
    }
    let mut disk = TestDisk::new(benches.iter().map(|bench| &bench.ram).collect(), depth);
    let mut guests = [Guest::new(&benches[0]), Guest::new(&benches[1])];
    settle(&mut server, &mut disk, 0);
    guests.iter().for_each(Guest::go_live);
    let mut done = [0; 2];
    let mut number = 0;
    for _ in 0..6000 {
        for (guest, (many, blocks)) in guests.iter_mut().zip(wanted) {
            while guest.out.len() < many {
                number += 1;
                let len = (blocks * BLOCK) as u32;
                let data = [(DATA, len, true)];
                if guest.send(number % 4, 0, 0, &data).is_none() {
                    break;
                }
            }
        }
        settle(&mut server, &mut disk, 0);
        assert!(disk.end_one());
        settle(&mut server, &mut disk, 0);
        guests.iter_mut().for_each(Guest::collect);
        done = [0, 1].map(|number| guests[number].done * wanted[number].1);
    }
    done
}

#[test]
fn two_guests_at_full_load_have_the_same() {
    // Disks that take more, as many and fewer commands than both want.
    for depth in [256, 64, 8] {
        for wanted in [[(64, 1), (64, 1)], [(120, 1), (64, 1)], [(64, 4), (64, 4)]] {
            let done = load(depth, wanted);
            let sum: u64 = done.iter().sum();
            assert!(
                done.iter().all(|part| part * 100 >= sum * 40),
                "{done:?} of a disk of {depth} with {wanted:?}"
            );
        }
    }
}

#[test]
fn small_requests_do_not_wait_for_large_ones() {
    let [small, large] = load(256, [(64, 1), (64, 32)]);
    assert!(small > 2 * (large / 32), "{small} small requests and {} large ones", large / 32);
}

#[test]
fn a_rate_bounds_requests_and_says_when_to_go_on() {
    let bench = Bench::new();
    let mut server = Server::new(engine());
    server.add(0, bench.client(0, Rate::new(Some(1000), None), false)).unwrap();
    let mut disk = TestDisk::new(vec![&bench.ram], 16);
    let mut guest = Guest::new(&bench);
    settle(&mut server, &mut disk, 0);
    guest.go_live();
    let start = 5_000_000_000;
    let (mut now, end) = (start, start + 1_000_000_000);
    while now < end {
        while guest.out.len() < 32 {
            guest.read(1, 0, 0).unwrap();
        }
        let next = loop {
            match server.round(&mut disk, &mut None_, now) {
                Next::Round => {}
                next => break next,
            }
        };
        while disk.end_one() {}
        now = match next {
            Next::WaitUntil(moment) => {
                assert!(moment > now);
                moment
            }
            _ => now + 1000,
        };
        settle(&mut server, &mut disk, now);
        guest.collect();
    }
    assert!((990..=1025).contains(&guest.done), "{} in a second", guest.done);
}

#[test]
fn a_new_server_goes_on_where_the_old_one_was_killed() {
    for kill_at in 0..40 {
        let bench = Bench::new();
        let (mut server, mut disk, mut guest) = one(&bench);
        for number in 0..40u64 {
            bench.ram.poke(DATA + number % 16 * BLOCK, &[number as u8 + 1; 4096]);
            let queue = number as usize % 4;
            if number % 3 == 0 {
                guest.read(queue, number, number % 16).unwrap();
            } else {
                guest.write(queue, number % 10, number % 16).unwrap();
            }
        }
        settle(&mut server, &mut disk, 0);
        for _ in 0..kill_at {
            disk.end_one();
            settle(&mut server, &mut disk, 0);
        }
        guest.collect();
        let before = guest.done;
        // The controller is reset before a new instance begins: the disk does nothing more.
        let _ = server;
        disk.out.clear();
        disk.ended.clear();
        let mut server = Server::new(engine());
        server.add(0, bench.client(0, Rate::UNBOUNDED, false)).unwrap();
        finish(&mut server, &mut disk, &mut guest);
        assert_eq!(guest.done, 40, "killed after {kill_at}, {before} had ended");
        assert!(guest.statuses.values().all(|status| *status == 0) && guest.out.is_empty());
        assert!(!bench.monitor().is_broken() && server.is_idle());
    }
}
