//! Encrypted volumes: what is on the disk, in the buffers and in the client's memory, with a cipher
//! that is none but depends on the block's number as a real one does.

use std::cell::RefCell;

use cloister_block::{
    BLOCK, Bounce, Buffers, Busy, Command, Disk, Engine, Fit, Limits, Operation, Outcome, PAGE,
    Place, Progress, Request, SEGMENTS_MAX, Seal, Segment, Tag,
};
use cloister_dma::Memory;
use cloister_virtio_testing::TestRam;
use proptest::prelude::*;

const CLIENT: u8 = 2;
/// Where the driver's memory is for the disk; no address of a client is one.
const OWN: u64 = 0x7000_0000;
/// Where the client's memory would be.
const RAM: u64 = 0x10_0000_0000;
const RAM_BYTES: usize = 1 << 20;
/// Where on the disk the data begin.
const DATA: u64 = 3 * PAGE;
const BLOCKS: u64 = 40;

struct Mask;

impl Mask {
    fn apply(number: u64, block: &mut [u8; BLOCK]) {
        for (at, byte) in block.iter_mut().enumerate() {
            *byte ^= (number * 31 + at as u64 * 7 + 0xa5) as u8;
        }
    }
}

impl Seal for Mask {
    fn encrypt(&self, number: u64, block: &mut [u8; BLOCK]) {
        Mask::apply(number, block);
    }

    fn decrypt(&self, number: u64, block: &mut [u8; BLOCK]) {
        Mask::apply(number, block);
    }
}

/// The driver's memory.
struct Own(RefCell<Vec<u8>>);

impl Memory for &Own {
    fn len(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    fn address(&self, at: u64) -> u64 {
        OWN + at
    }

    fn load_u32(&self, _: u64) -> Option<u32> {
        None
    }

    fn load_u64(&self, _: u64) -> Option<u64> {
        None
    }

    fn store_u32(&self, _: u64, _: u32) -> Option<()> {
        None
    }

    fn store_u64(&self, _: u64, _: u64) -> Option<()> {
        None
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Option<()> {
        bytes.copy_from_slice(self.0.borrow().get(at as usize..)?.get(..bytes.len())?);
        Some(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        self.0.borrow_mut().get_mut(at as usize..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

/// A disk that does at once what it is told, and reaches the driver's memory alone.
struct Near<'m> {
    limits: Limits,
    blocks: Vec<u8>,
    own: &'m Own,
    done: Vec<Tag>,
    commands: Vec<Operation>,
}

impl Disk for Near<'_> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        if self.done.len() == 3 {
            return Err(Busy);
        }
        self.commands.push(command.operation);
        let mut at = (command.block * u64::from(self.limits.block_size)) as usize;
        for segment in command.segments {
            let place = segment.address.checked_sub(OWN).expect("memory of the client");
            let mut own = self.own.0.borrow_mut();
            let own = &mut own[place as usize..][..segment.len as usize];
            let disk = &mut self.blocks[at..][..own.len()];
            match command.operation {
                Operation::Read => own.copy_from_slice(disk),
                Operation::Write => disk.copy_from_slice(own),
                other => panic!("{other:?} with memory"),
            }
            at += own.len();
        }
        self.done.push(tag);
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        self.done.pop().map(|tag| (tag, Outcome::Done))
    }

    fn cancel(&mut self, _: Tag) {}
}

struct Bench<'m> {
    disk: Near<'m>,
    buffers: Buffers<&'m Own, &'m TestRam, Mask>,
    engine: Box<Engine<()>>,
}

fn own(pages: usize) -> Own {
    Own(RefCell::new(vec![0; pages * BLOCK]))
}

impl<'m> Bench<'m> {
    fn new(own: &'m Own, ram: &'m TestRam, block_size: u32) -> Bench<'m> {
        let bytes = DATA + BLOCKS * PAGE;
        let limits = Limits {
            block_size,
            blocks: bytes / u64::from(block_size),
            bytes_max: 1 << 16,
            segments_max: 8,
            fit: Fit::Pages,
            align: 4,
            zero_blocks_max: 1000,
            discard_blocks_max: 1000,
            write_cache: true,
        };
        let blocks = vec![0xcc; bytes as usize];
        let disk = Near { limits, blocks, own, done: Vec::new(), commands: Vec::new() };
        let mut buffers = Buffers::new(own, 0, PAGE);
        buffers.introduce(CLIENT, ram, RAM);
        Bench { disk, buffers, engine: Box::new(Engine::new()) }
    }

    /// Does a request; whether it went well.
    fn work(&mut self, operation: Operation, block: u64, blocks: u64, pieces: &[Segment]) -> bool {
        let mut request = Request::new(operation, DATA + block * PAGE, blocks * PAGE);
        (request.is_private, request.is_sealed) = (true, true);
        pieces.iter().for_each(|piece| request.push(*piece).unwrap());
        *self.engine.draft().unwrap() = request;
        let place = Place { client: CLIENT, queue: 0 };
        let mut held = self.engine.begin(&mut self.disk, &mut self.buffers, place, ());
        for _ in 0..1000 {
            if let Some(finished) = self.engine.poll(&mut self.disk, &mut self.buffers) {
                return finished.is_ok;
            }
            if let Progress::Held(again) = held {
                held = self.engine.resume(&mut self.disk, &mut self.buffers, again);
            }
        }
        panic!("the request never ends");
    }

    /// A block as it is on the disk, with the mask taken off.
    fn plain(&self, block: u64) -> [u8; BLOCK] {
        let at = (DATA + block * PAGE) as usize;
        let mut bytes = self.disk.blocks[at..][..BLOCK].try_into().unwrap();
        Mask::apply(block, &mut bytes);
        bytes
    }
}

/// Pieces of so many bytes with such lengths, with gaps between them.
fn pieces(bytes: u64, lengths: &[u64]) -> Vec<Segment> {
    let (mut left, mut at, mut pieces) = (bytes, RAM + 0x2000, Vec::new());
    for len in lengths.iter().cycle() {
        let len = if pieces.len() + 1 == SEGMENTS_MAX { left } else { left.min(*len) };
        pieces.push(Segment { address: at, len });
        (at, left) = (at + len + 0x333, left - len);
        if left == 0 {
            return pieces;
        }
    }
    pieces
}

fn poke(ram: &TestRam, pieces: &[Segment], bytes: &[u8]) {
    let mut at = 0;
    for piece in pieces {
        ram.poke(piece.address - RAM, &bytes[at..][..piece.len as usize]);
        at += piece.len as usize;
    }
}

fn peek(ram: &TestRam, pieces: &[Segment]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| ram.peek(piece.address - RAM, piece.len as usize)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_has_the_blocks_encrypted_by_their_numbers(
        first in 0..BLOCKS - 12,
        blocks in 1..12u64,
        lengths in prop::collection::vec(1..9000u64, 1..6),
        room in 2..9usize,
        block_size in prop::sample::select(vec![512u32, 4096]),
        seed: u8,
    ) {
        let (own, ram) = (own(room), TestRam::new(RAM_BYTES));
        let mut bench = Bench::new(&own, &ram, block_size);
        bench.buffers.seal(CLIENT, Mask, DATA);
        let free = bench.buffers.free();
        let data: Vec<u8> =
            (0..blocks * PAGE).map(|at| (at * 13 + at / 4096 + u64::from(seed)) as u8).collect();
        let from = pieces(data.len() as u64, &lengths);
        poke(&ram, &from, &data);
        prop_assert!(bench.work(Operation::Write, first, blocks, &from));
        for (block, bytes) in (first..).zip(data.chunks(BLOCK)) {
            prop_assert!(bench.plain(block)[..] == *bytes, "block {block}");
        }
        let around = [&bench.disk.blocks[..(DATA + first * PAGE) as usize],
            &bench.disk.blocks[(DATA + (first + blocks) * PAGE) as usize..]];
        prop_assert!(around.concat().iter().all(|byte| *byte == 0xcc));
        let to = pieces(data.len() as u64, &[700, 5000]);
        prop_assert!(bench.work(Operation::Read, first, blocks, &to));
        prop_assert!(peek(&ram, &to) == data);
        prop_assert_eq!(bench.buffers.free(), free);
    }
}

#[test]
fn zeros_are_encrypted_and_nothing_is_discarded() {
    let (own, ram) = (own(5), TestRam::new(RAM_BYTES));
    let mut bench = Bench::new(&own, &ram, 512);
    bench.buffers.seal(CLIENT, Mask, DATA);
    assert!(bench.work(Operation::Zero, 5, 9, &[]));
    assert!((5..14).all(|block| bench.plain(block) == [0; BLOCK]));
    assert!(bench.disk.commands.iter().all(|command| *command == Operation::Write));
    bench.disk.commands.clear();
    assert!(bench.work(Operation::Discard, 5, 9, &[]));
    assert!(bench.disk.commands.is_empty(), "the disk is told nothing");
    assert!((5..14).all(|block| bench.plain(block) == [0; BLOCK]));
}

#[test]
fn without_a_key_nothing_reaches_the_disk() {
    let (own, ram) = (own(5), TestRam::new(RAM_BYTES));
    let mut bench = Bench::new(&own, &ram, 512);
    let piece = [Segment { address: RAM, len: PAGE }];
    assert!(!bench.work(Operation::Write, 0, 1, &piece));
    assert!(!bench.work(Operation::Zero, 0, 1, &[]));
    assert!(bench.disk.commands.is_empty());
    bench.buffers.seal(CLIENT, Mask, DATA);
    assert!(bench.work(Operation::Write, 0, 1, &piece));
    bench.buffers.unseal(CLIENT);
    assert!(!bench.work(Operation::Read, 0, 1, &piece), "after its key was forgotten");
    assert_eq!(bench.buffers.free(), 4);
}

#[test]
fn buffers_are_as_large_as_asked_for_and_lie_apart() {
    let own = own(1 + 7);
    let mut buffers: Buffers<&Own, &TestRam, Mask> = Buffers::new(&own, 0, PAGE);
    let sizes = [1u64, 4 * PAGE, 100 * PAGE, PAGE].map(|len| buffers.take(len));
    let found: Vec<_> = sizes.iter().flatten().map(|(_, piece)| *piece).collect();
    assert_eq!(found.iter().map(|piece| piece.len / PAGE).collect::<Vec<_>>(), [1, 4, 2]);
    for (place, piece) in found.iter().enumerate() {
        assert!(piece.address > OWN && piece.address + piece.len <= OWN + 8 * PAGE);
        let others = found.iter().skip(place + 1);
        assert!(others.clone().all(|other| piece.address + piece.len <= other.address
            || other.address + other.len <= piece.address));
    }
    assert!(sizes[3].is_none() && buffers.free() == 0);
    sizes.iter().flatten().for_each(|(number, _)| buffers.release(*number));
    assert_eq!(buffers.free(), 7);
}
