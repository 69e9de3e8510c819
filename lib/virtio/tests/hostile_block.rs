//! Requests of a block device: what each is refused with, by rule or by status, beside the same
//! request unbroken.
#![cfg(not(loom))]

use cloister_virtio::block::{CONFIG_BYTES, Data, Kind, Parsed, Request, Shape, Status, feature};
use cloister_virtio::{Chain, QUEUE_SIZE_MAX, Queue, Record, Rule, features};
use cloister_virtio_testing::{Driver, TestRam};

const RAM: usize = 1 << 20;
const HEADER: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const STATUS: u64 = 0x5000;
const BLOCK: u32 = 4096;

const SHAPE: Shape = Shape {
    blocks: 1_000,
    block_size: BLOCK,
    size_max: 0,
    seg_max: 32,
    has_topology: false,
    queues: 4,
    is_read_only: false,
    discard_blocks_max: 64,
    zeroes_blocks_max: 32,
};
const READ_ONLY: Shape = Shape { is_read_only: true, ..SHAPE };

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

const ERROR: Result<Parsed, Rule> = Ok(Parsed::Done(Status::Error));
const UNSUPPORTED: Result<Parsed, Rule> = Ok(Parsed::Done(Status::Unsupported));

/// A request as a driver makes it: header of so many bytes, data to read or write, status.
#[derive(Clone, Copy)]
struct Made {
    kind: u32,
    sector: u64,
    header: u32,
    sent: u32,
    wanted: u32,
    status: u32,
    shape: &'static Shape,
    features: u64,
}

const fn made(kind: u32, sector: u64, sent: u32, wanted: u32) -> Made {
    let features = SHAPE.features();
    Made { kind, sector, header: 16, sent, wanted, status: 1, shape: &SHAPE, features }
}

const READ: Made = made(IN, 8, 0, 2 * BLOCK);
const WRITE: Made = made(OUT, 8, 2 * BLOCK, 0);
const FLUSHES: Made = made(FLUSH, 0, 0, 0);
const IDENTITY: Made = made(GET_ID, 0, 0, 20);
const DISCARDS: Made = made(DISCARD, 0, 16, 0);
const WRITES_ZEROES: Made = made(ZEROES, 0, 16, 0);

/// What the device makes of it, with a segment at the data, and its chain.
fn parse(made: &Made, segment: Segment) -> (Result<Parsed, Rule>, TestRam, Chain<34>) {
    let ram = TestRam::new(RAM);
    ram.poke(HEADER, &made.kind.to_le_bytes());
    ram.poke(HEADER + 8, &made.sector.to_le_bytes());
    ram.poke(DATA, &segment.0.to_le_bytes());
    ram.poke(DATA + 8, &segment.1.to_le_bytes());
    ram.poke(DATA + 12, &segment.2.to_le_bytes());
    let mut driver = Driver::new(0x1000, 8);
    let [size, descriptors, area, device] = driver.record();
    let record = Record { size, descriptors, driver: area, device };
    let mut queue = Queue::new(&record, features::RINGS, QUEUE_SIZE_MAX, 1, &&ram).unwrap();
    let buffers = [
        (HEADER, made.header, false),
        (DATA, made.sent, false),
        (DATA, made.wanted, true),
        (STATUS, made.status, true),
    ];
    let buffers: Vec<_> = buffers.into_iter().filter(|(_, len, _)| *len != 0).collect();
    driver.add(&ram, &buffers).unwrap();
    let mut chain = Chain::default();
    queue.fetch(&&ram, &mut chain).unwrap().expect("a chain");
    let parsed = Request::parse(&&ram, &chain, made.shape, made.features);
    (parsed, ram, chain)
}

fn is_work(made: &Made, segment: Segment) -> bool {
    matches!(parse(made, segment).0, Ok(Parsed::Work(_)))
}

const LAST: u64 = 999 * 8;

/// Requests that are refused: what is wrong, with what, and the request.
#[rustfmt::skip]
const REQUESTS: &[(&str, Result<Parsed, Rule>, Made)] = &[
    ("no header", Err(Rule::BlockHeader), Made { header: 0, ..READ }),
    ("a header of 15 bytes", Err(Rule::BlockHeader), Made { header: 15, ..READ }),
    ("a flush with half a header", Err(Rule::BlockHeader), Made { header: 8, ..FLUSHES }),
    ("no status", Err(Rule::BlockStatus), Made { status: 0, ..WRITE }),
    ("a flush without a status", Err(Rule::BlockStatus), Made { status: 0, ..FLUSHES }),
    ("an unknown type without a status", Err(Rule::BlockStatus), Made { kind: 99, status: 0, ..WRITE }),
    ("a read that sends", Err(Rule::BlockDirection), Made { sent: BLOCK, ..READ }),
    ("a write that wants", Err(Rule::BlockDirection), Made { wanted: BLOCK, ..WRITE }),
    ("a flush that sends", Err(Rule::BlockDirection), Made { sent: 1, ..FLUSHES }),
    ("a flush that wants", Err(Rule::BlockDirection), Made { wanted: 1, ..FLUSHES }),
    ("an identity that sends", Err(Rule::BlockDirection), Made { sent: 20, ..IDENTITY }),
    ("a discard that wants", Err(Rule::BlockDirection), Made { wanted: 16, ..DISCARDS }),
    ("zeroes that want", Err(Rule::BlockDirection), Made { wanted: 16, ..WRITES_ZEROES }),
    ("a read of nothing", ERROR, Made { wanted: 0, ..READ }),
    ("a write of nothing", ERROR, Made { sent: 0, ..WRITE }),
    ("a read of no whole sector", ERROR, Made { wanted: BLOCK + 1, ..READ }),
    ("a write of no whole sector", ERROR, Made { sent: 511, ..WRITE }),
    ("a read of a sector, which is no block", ERROR, Made { wanted: 512, ..READ }),
    ("a write in the middle of a block", ERROR, Made { sector: 9, ..WRITE }),
    ("a read of the block behind the last", ERROR, Made { sector: LAST + 8, wanted: BLOCK, ..READ }),
    ("a read that goes over the end", ERROR, Made { sector: LAST, ..READ }),
    ("a write that goes over the end", ERROR, Made { sector: LAST, ..WRITE }),
    ("a read of the last sector there is", ERROR, Made { sector: !7, ..READ }),
    ("a write that wraps", ERROR, Made { sector: 1 << 63, ..WRITE }),
    ("a write to a device that is read-only", ERROR, Made { shape: &READ_ONLY, ..WRITE }),
    ("an identity of 19 bytes", ERROR, Made { wanted: 19, ..IDENTITY }),
    ("an identity of 21 bytes", ERROR, Made { wanted: 21, ..IDENTITY }),
    ("a type of old devices", UNSUPPORTED, Made { kind: 2, ..READ }),
    ("a lifetime", UNSUPPORTED, Made { kind: 10, ..READ }),
    ("a secure erase", UNSUPPORTED, Made { kind: 14, ..DISCARDS }),
    ("the largest type", UNSUPPORTED, Made { kind: u32::MAX, ..WRITE }),
    ("a flush without the feature", UNSUPPORTED, Made { features: 0, ..FLUSHES }),
    ("a discard without the feature", UNSUPPORTED, Made { features: 0, ..DISCARDS }),
    ("zeroes without the feature", UNSUPPORTED, Made { features: 0, ..WRITES_ZEROES }),
    ("a discard without a segment", ERROR, Made { sent: 0, ..DISCARDS }),
    ("a discard of half a segment", ERROR, Made { sent: 8, ..DISCARDS }),
    ("a discard of two segments", ERROR, Made { sent: 32, ..DISCARDS }),
    ("zeroes of a segment and a byte", ERROR, Made { sent: 17, ..WRITES_ZEROES }),
    ("a discard on a device that is read-only", ERROR, Made { shape: &READ_ONLY, ..DISCARDS }),
    ("zeroes on a device that is read-only", ERROR, Made { shape: &READ_ONLY, ..WRITES_ZEROES }),
];

/// Sector, sectors, flags.
type Segment = (u64, u32, u32);

/// Segments that are refused.
#[rustfmt::skip]
const SEGMENTS: &[(&str, Result<Parsed, Rule>, Made, Segment)] = &[
    ("a discard of nothing", ERROR, DISCARDS, (8, 0, 0)),
    ("a discard of more than is allowed", ERROR, DISCARDS, (8, 65 * 8, 0)),
    ("zeroes of more than is allowed", ERROR, WRITES_ZEROES, (8, 33 * 8, 0)),
    ("a discard of all that a length can say", ERROR, DISCARDS, (0, !7, 0)),
    ("a discard over the end", ERROR, DISCARDS, (LAST, 16, 0)),
    ("zeroes that wrap", ERROR, WRITES_ZEROES, (!7, 16, 0)),
    ("a discard of a part of a block", ERROR, DISCARDS, (8, 9, 0)),
    ("zeroes from the middle of a block", ERROR, WRITES_ZEROES, (9, 8, 0)),
    ("a discard that unmaps", UNSUPPORTED, DISCARDS, (8, 8, 1)),
    ("a discard with an unknown flag", UNSUPPORTED, DISCARDS, (8, 8, 2)),
    ("zeroes with an unknown flag", UNSUPPORTED, WRITES_ZEROES, (8, 8, 3)),
];

const SEGMENT: Segment = (16, 24, 0);

#[test]
fn every_request_that_is_refused_is_refused_by_its_name() {
    // The controls: without what is wrong, each of them reaches the disk.
    for control in [READ, WRITE, FLUSHES, IDENTITY, DISCARDS, WRITES_ZEROES] {
        assert!(is_work(&control, SEGMENT), "type {}", control.kind);
    }
    let mut counts = [0u32; Rule::ALL.len()];
    for (what, expected, made) in REQUESTS {
        let (parsed, ram, _) = parse(made, SEGMENT);
        assert_eq!(parsed, *expected, "{what}");
        assert_eq!(ram.outside(), 0, "{what}");
        if let Err(rule) = expected {
            counts[Rule::ALL.iter().position(|other| other == rule).unwrap()] += 1;
        }
    }
    for (what, expected, made, segment) in SEGMENTS {
        assert_eq!(parse(made, *segment).0, *expected, "{what}");
    }
    for (rule, count) in Rule::ALL.iter().zip(counts) {
        println!("{rule:?}: {count}");
        let is_own = [Rule::BlockHeader, Rule::BlockStatus, Rule::BlockDirection].contains(rule);
        assert_eq!(count != 0, is_own, "{rule:?}: {count}");
    }
}

#[test]
fn a_good_request_says_what_and_where() {
    let work = |made: &Made, segment| match parse(made, segment).0 {
        Ok(Parsed::Work(request)) => request,
        other => panic!("{other:?}"),
    };
    let read = work(&READ, SEGMENT);
    let data = Data { offset: 0, len: 8192, is_written: true };
    assert_eq!(read, Request { kind: Kind::Read, block: 1, count: 2, data });
    let write = work(&Made { sector: LAST - 8, ..WRITE }, SEGMENT);
    let data = Data { offset: 16, len: 8192, is_written: false };
    assert_eq!(write, Request { kind: Kind::Write, block: 998, count: 2, data });
    let discard = work(&DISCARDS, (LAST, 8, 0));
    assert_eq!((discard.kind, discard.block, discard.count), (Kind::Discard, 999, 1));
    let zeroes = work(&WRITES_ZEROES, (0, 32 * 8, 1));
    let kind = Kind::WriteZeroes { may_unmap: true };
    assert_eq!((zeroes.kind, zeroes.block, zeroes.count), (kind, 0, 32));
    // A read-only device can be read, and has nothing to flush.
    assert!(is_work(&Made { shape: &READ_ONLY, ..READ }, SEGMENT));
    assert!(is_work(&Made { shape: &READ_ONLY, ..FLUSHES }, SEGMENT));
}

#[test]
fn the_status_is_the_last_byte_and_data_are_where_they_were_cut() {
    let (parsed, ram, chain) = parse(&READ, SEGMENT);
    let Ok(Parsed::Work(request)) = parsed else { panic!("{parsed:?}") };
    let pieces: Vec<_> = request.data.pieces(&chain, 4096, 4096).collect();
    assert_eq!((pieces.len(), pieces[0].start().get(), pieces[0].len()), (1, DATA + 4096, 4096));
    // Never the status byte.
    let all: u64 = request.data.pieces(&chain, 0, u64::MAX).map(|piece| piece.len()).sum();
    assert_eq!(all, 8192);
    ram.poke(STATUS, &[0xee]);
    assert_eq!(Request::finish(&&ram, &chain, Status::Ok), Ok(8193));
    assert_eq!(ram.peek(STATUS, 1), [0]);
    assert_eq!(Request::finish(&&ram, &chain, Status::Error), Ok(0), "no data to rely on");
    assert_eq!(ram.peek(STATUS, 1), [1]);
    let (_, ram, chain) = parse(&WRITE, SEGMENT);
    assert_eq!(Request::finish(&&ram, &chain, Status::Unsupported), Ok(1));
    assert_eq!(ram.peek(STATUS, 1), [2]);
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    let ram = TestRam::new(RAM);
    ram.poke(HEADER, &OUT.to_le_bytes());
    ram.poke(HEADER + 8, &16u64.to_le_bytes());
    let mut driver = Driver::new(0x1000, 8);
    let [size, descriptors, area, device] = driver.record();
    let record = Record { size, descriptors, driver: area, device };
    let mut queue = Queue::new(&record, 0, QUEUE_SIZE_MAX, 1, &&ram).unwrap();
    // The header in two buffers, the second with the first bytes of the data.
    let buffers =
        [(HEADER, 5, false), (HEADER + 5, 111, false), (DATA, 3996, false), (STATUS, 1, true)];
    driver.add(&ram, &buffers).unwrap();
    let mut chain = Chain::<34>::default();
    queue.fetch(&&ram, &mut chain).unwrap().unwrap();
    let Ok(Parsed::Work(request)) = Request::parse(&&ram, &chain, &SHAPE, SHAPE.features()) else {
        panic!("not understood");
    };
    assert_eq!((request.kind, request.block, request.count), (Kind::Write, 2, 1));
    let pieces: Vec<_> = request.data.pieces(&chain, 0, u64::MAX).collect();
    let pieces: Vec<_> = pieces.iter().map(|piece| (piece.start().get(), piece.len())).collect();
    assert_eq!(pieces, [(HEADER + 16, 100), (DATA, 3996)]);
}

#[test]
fn the_configuration_is_the_specification_s() {
    let shape = Shape { size_max: 0x1_0000, has_topology: true, ..SHAPE };
    let config = shape.config();
    let number = |at: usize, len: usize| {
        config[at..at + len].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    for (what, at, len, expected) in [
        ("capacity", 0, 8, 8_000),
        ("size_max", 8, 4, 0x1_0000),
        ("seg_max", 12, 4, 32),
        ("geometry", 16, 4, 0),
        ("blk_size", 20, 4, 4096),
        ("physical_block_exp, alignment_offset", 24, 2, 0),
        ("min_io_size", 26, 2, 1),
        ("opt_io_size", 28, 4, 1),
        ("writeback, unused", 32, 2, 0),
        ("num_queues", 34, 2, 4),
        ("max_discard_sectors", 36, 4, 512),
        ("max_discard_seg", 40, 4, 1),
        ("discard_sector_alignment", 44, 4, 8),
        ("max_write_zeroes_sectors", 48, 4, 256),
        ("max_write_zeroes_seg", 52, 4, 1),
        ("write_zeroes_may_unmap, unused", 56, 4, 0),
    ] {
        assert_eq!(number(at, len), expected, "{what}");
    }
    assert_eq!(config.len(), CONFIG_BYTES);
    let base = 1 << 2 | 1 << 6 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14;
    assert_eq!(SHAPE.features(), base);
    assert_eq!(shape.features(), base | 1 << 1 | 1 << 10);
    assert_eq!(READ_ONLY.features(), base | feature::RO);
    let plain = Shape { queues: 1, discard_blocks_max: 0, zeroes_blocks_max: 0, ..SHAPE };
    assert_eq!(plain.features(), 1 << 2 | 1 << 6 | 1 << 9);
    assert_eq!(plain.config()[34..], [0; 26]);
}
