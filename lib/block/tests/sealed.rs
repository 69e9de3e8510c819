//! Encrypted volumes, and plain ones by way of the same buffers: what is on the disk, in the buffers and in the client's memory, with a cipher
//! that is none but depends on the block's number, and the byte's place, as a real one does.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use cloister_block::{
    BLOCK, Bounce, Buffers, Busy, Command, Disk, Engine, Fit, GROUPS, Limits, Operation, Outcome,
    PAGE, Place, Progress, Request, SEGMENTS_MAX, Seal, Segment, Tag,
};
use cloister_dma::{Memory, Region, Shelf, View};
use cloister_dma_testing::{pages, ram};
use cloister_guestmem::{BadAddress, GuestMemory, GuestPhys, Ram};
use cloister_virtio_testing::TestRam;
use proptest::prelude::*;

const CLIENT: u8 = 2;
/// Where the client's memory would be.
const RAM: u64 = 0x10_0000_0000;
const RAM_BYTES: usize = 1 << 20;
/// Where on the disk the data begin.
const DATA: u64 = 3 * PAGE;
const BLOCKS: u64 = 40;

struct Mask;

impl Mask {
    fn apply(number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>) {
        for (nth, (from, to)) in from.spots().zip(to.spots()).enumerate() {
            let mut group = from.load();
            for (at, byte) in group.as_flattened_mut().iter_mut().enumerate() {
                let at = nth * BLOCK / GROUPS + at;
                *byte ^= (number * 31 + at as u64 * 7 + at as u64 / 256 + 0xa5) as u8;
            }
            to.store(group);
        }
    }
}

impl Seal for Mask {
    fn encrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>) {
        Mask::apply(number, from, to);
    }

    fn decrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>) {
        Mask::apply(number, from, to);
    }
}

/// A guest's RAM that counts the blocks it gave views of, and the copies.
struct Watched {
    ram: GuestMemory,
    views: Cell<u64>,
    copies: Cell<u64>,
}

impl Watched {
    fn new() -> Watched {
        let ram = ram(RAM_BYTES / BLOCK);
        Watched { ram, views: Cell::new(0), copies: Cell::new(0) }
    }

    /// Views and copies since the last time.
    fn count(&self) -> (u64, u64) {
        (self.views.take(), self.copies.take())
    }
}

impl Ram for Watched {
    fn size(&self) -> u64 {
        self.ram.size()
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        self.copies.set(self.copies.get() + 1);
        self.ram.read_into(at, bytes)
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        self.copies.set(self.copies.get() + 1);
        self.ram.write_from(at, bytes)
    }

    fn view<const N: usize>(&self, at: GuestPhys) -> Option<View<'_, N>> {
        let view = self.ram.view(at)?;
        self.views.set(self.views.get() + 1);
        Some(view)
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        self.ram.load_u16(at, order)
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        self.ram.store_u16(at, value, order)
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        self.ram.store_u32(at, value, order)
    }
}

/// A disk that does at once what it is told, and reaches the driver's memory alone.
struct Near<'m> {
    limits: Limits,
    blocks: Vec<u8>,
    /// What it reaches of the driver's memory.
    own: &'m Region,
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
            let place = segment.address.checked_sub(self.own.address(0));
            let place = place.expect("memory of the client");
            let disk = &mut self.blocks[at..][..segment.len as usize];
            let moved = match command.operation {
                Operation::Read => self.own.write(place, disk),
                Operation::Write => self.own.read(place, disk),
                other => panic!("{other:?} with memory"),
            };
            moved.expect("memory of nobody");
            at += disk.len();
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

struct Bench<'m, R> {
    disk: Near<'m>,
    buffers: Buffers<&'m Region, &'m R, Mask>,
    engine: Box<Engine<()>>,
    is_sealed: bool,
}

impl<'m, R: Ram> Bench<'m, R> {
    fn new((own, device): &'m (Region, Region), ram: &'m R, block_size: u32) -> Bench<'m, R> {
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
        let disk = Near { limits, blocks, own: device, done: Vec::new(), commands: Vec::new() };
        let mut buffers = Buffers::new(own, 0, PAGE);
        buffers.introduce(CLIENT, ram, RAM);
        Bench { disk, buffers, engine: Box::new(Engine::new()), is_sealed: true }
    }

    /// Does a request; whether it went well.
    fn work(&mut self, operation: Operation, block: u64, blocks: u64, pieces: &[Segment]) -> bool {
        let mut request = Request::new(operation, DATA + block * PAGE, blocks * PAGE);
        (request.is_private, request.is_sealed) = (true, self.is_sealed);
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

    /// A block as it is on the disk, with the mask taken off if there is one.
    fn plain(&self, block: u64) -> [u8; BLOCK] {
        let at = (DATA + block * PAGE) as usize;
        let (mut sealed, mut plain) = (Shelf::ZEROS, Shelf::ZEROS);
        sealed.bytes_mut().copy_from_slice(&self.disk.blocks[at..][..BLOCK]);
        if !self.is_sealed {
            return sealed.bytes().try_into().unwrap();
        }
        Mask::apply(block, &sealed.view(), &plain.view());
        plain.bytes().try_into().unwrap()
    }
}

/// Pieces of so many bytes with such lengths, with gaps between them.
fn pieces(bytes: u64, lengths: &[u64], gap: u64) -> Vec<Segment> {
    let (mut left, mut at, mut pieces) = (bytes, RAM + 0x2000, Vec::new());
    for len in lengths.iter().cycle() {
        let len = if pieces.len() + 1 == SEGMENTS_MAX { left } else { left.min(*len) };
        pieces.push(Segment { address: at, len });
        (at, left) = (at + len + gap, left - len);
        if left == 0 {
            return pieces;
        }
    }
    pieces
}

fn poke(ram: &impl Ram, pieces: &[Segment], bytes: &[u8]) {
    let mut at = 0;
    for piece in pieces {
        let place = GuestPhys::new(piece.address - RAM);
        ram.write_from(place, &bytes[at..][..piece.len as usize]).unwrap();
        at += piece.len as usize;
    }
}

fn peek(ram: &impl Ram, pieces: &[Segment]) -> Vec<u8> {
    let peek = |piece: &Segment| {
        let mut bytes = vec![0; piece.len as usize];
        ram.read_into(GuestPhys::new(piece.address - RAM), &mut bytes).unwrap();
        bytes
    };
    pieces.iter().flat_map(peek).collect()
}

/// A write of these blocks from these pieces of memory, and a read into those.
fn there_and_back(
    ram: &impl Ram,
    (room, block_size, is_sealed): (usize, u32, bool),
    (first, data): (u64, &[u8]),
    [from, to]: &[Vec<Segment>; 2],
) -> Result<(), TestCaseError> {
    let (own, blocks) = (pages(room), data.len() as u64 / PAGE);
    let mut bench = Bench::new(&own, ram, block_size);
    bench.buffers.seal(CLIENT, Mask, DATA);
    bench.is_sealed = is_sealed;
    let free = bench.buffers.free();
    poke(ram, from, data);
    prop_assert!(bench.work(Operation::Write, first, blocks, from));
    for (block, bytes) in (first..).zip(data.chunks(BLOCK)) {
        prop_assert!(bench.plain(block)[..] == *bytes, "block {block}");
    }
    let around = [
        &bench.disk.blocks[..(DATA + first * PAGE) as usize],
        &bench.disk.blocks[(DATA + (first + blocks) * PAGE) as usize..],
    ];
    prop_assert!(around.concat().iter().all(|byte| *byte == 0xcc));
    prop_assert!(bench.work(Operation::Read, first, blocks, to));
    prop_assert!(peek(ram, to) == data);
    prop_assert_eq!(bench.buffers.free(), free);
    Ok(())
}

fn lengths() -> impl Strategy<Value = Vec<u64>> {
    let length = prop_oneof![1..9000u64, (1..5u64).prop_map(|pages| pages * PAGE), 1..200u64];
    prop::collection::vec(length, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_has_the_blocks_as_they_are_or_encrypted_by_their_numbers(
        first in 0..BLOCKS - 12,
        blocks in 1..12u64,
        from in lengths(),
        to in lengths(),
        gap in prop::sample::select(vec![0u64, 0x333, 0x1230, 0x8]),
        room in 2..9usize,
        block_size in prop::sample::select(vec![512u32, 4096]),
        is_sealed: bool,
        seed: u8,
    ) {
        let data: Vec<u8> =
            (0..blocks * PAGE).map(|at| (at * 13 + at / 4096 + u64::from(seed)) as u8).collect();
        let ways = [from, to].map(|lengths| pieces(data.len() as u64, &lengths, gap));
        let (room, blocks) = ((room, block_size, is_sealed), (first, &data[..]));
        // Without views, and with them where they may be had.
        there_and_back(&TestRam::new(RAM_BYTES), room, blocks, &ways)?;
        there_and_back(&Watched::new(), room, blocks, &ways)?;
    }
}

#[test]
fn a_block_in_one_piece_is_never_copied() {
    let (own, ram) = (pages(5), Watched::new());
    let mut bench = Bench::new(&own, &ram, 512);
    bench.buffers.seal(CLIENT, Mask, DATA);
    let piece = |at, len| Segment { address: RAM + at, len };
    let cases = [
        (vec![piece(0x3000, 9 * PAGE)], (9, 0)),
        (vec![piece(0x3230, 9 * PAGE)], (9, 0)),
        // No multiple of sixteen.
        (vec![piece(0x3238, 9 * PAGE)], (0, 9)),
        // The first block is in two pieces.
        (vec![piece(0x3000, 16), piece(0x3010, 9 * PAGE - 16)], (8, 2)),
    ];
    for (memory, expected) in cases {
        for operation in [Operation::Write, Operation::Read] {
            ram.count();
            assert!(bench.work(operation, 3, 9, &memory));
            assert_eq!(ram.count(), expected, "{operation:?} {memory:?}");
        }
    }
}

#[test]
fn zeros_are_encrypted_and_nothing_is_discarded() {
    let (own, ram) = (pages(5), TestRam::new(RAM_BYTES));
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
    let (own, ram) = (pages(5), TestRam::new(RAM_BYTES));
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
    let (own, _) = pages(1 + 7);
    let mut buffers: Buffers<&Region, &TestRam, Mask> = Buffers::new(&own, 0, PAGE);
    let sizes = [1u64, 4 * PAGE, 100 * PAGE, PAGE].map(|len| buffers.take(len));
    let found: Vec<_> = sizes.iter().flatten().map(|(_, piece)| *piece).collect();
    assert_eq!(found.iter().map(|piece| piece.len / PAGE).collect::<Vec<_>>(), [1, 4, 2]);
    for (place, piece) in found.iter().enumerate() {
        assert!(
            piece.address > own.address(0) && piece.address + piece.len <= own.address(8 * PAGE)
        );
        let others = found.iter().skip(place + 1);
        assert!(others.clone().all(|other| piece.address + piece.len <= other.address
            || other.address + other.len <= piece.address));
    }
    assert!(sizes[3].is_none() && buffers.free() == 0);
    sizes.iter().flatten().for_each(|(number, _)| buffers.release(*number));
    assert_eq!(buffers.free(), 7);
}
