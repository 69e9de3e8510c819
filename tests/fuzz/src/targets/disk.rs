//! A block device with in-flight records, in either kind of ring, whose worker is killed between
//! any two calls.
//!
//! Rules: no access leaves RAM; a request that is to be carried out lies on the disk and has as many
//! bytes of data as it says, all in RAM; a new instance gives exactly the chains that were in
//! flight, in the order in which they were fetched, before any other, unless the guest changed its
//! used ring; a device that was given up stays so.

use cloister_virtio::block::{Kind, Parsed, Request, Shape, Status};
use cloister_virtio::record::QUEUE_WORDS;
use cloister_virtio::{Chain, Change, Device, Head, Offer, Rule, Worker, features};
use cloister_virtio_testing::{Driver, Monitor, PackedDriver, TestRam, page};
use core::sync::atomic::AtomicU64;

use crate::{Input, mark};

const RAM: u64 = 0x2000;
const SIZE: u16 = 8;
const RING: u64 = 0x40;
const DATA: u64 = 0x800;
const TABLE: u64 = 0x400;
const SHAPE: Shape = Shape {
    blocks: 16,
    block_size: 512,
    size_max: 0,
    seg_max: 4,
    has_topology: false,
    queues: 1,
    is_read_only: false,
    discard_blocks_max: 8,
    zeroes_blocks_max: 8,
};

type Disk<'a> = Device<'a, &'a TestRam, 1>;

/// What outlives the worker.
struct Memory {
    page: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    records: Vec<AtomicU64>,
    ram: TestRam,
}

enum Side {
    Split(Driver),
    Packed(PackedDriver),
}

/// The guest: its driver, and whether something else wrote to its memory.
struct Guest {
    side: Side,
    /// Where the last request has its header.
    place: u64,
    is_disturbed: bool,
}

/// A chain in flight.
type Held = (Head, Chain<8>);

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_packed = input.flag();
    let rings = if is_packed { features::RING_PACKED } else { 0 };
    let given = input.pick(&[0, features::INDIRECT_DESC, features::EVENT_IDX, features::RINGS]);
    let (side, record) = if is_packed {
        let driver = PackedDriver::new(RING, SIZE);
        let record = driver.record();
        (Side::Packed(driver), record)
    } else {
        let driver = Driver::new(RING, SIZE);
        let record = driver.record();
        (Side::Split(driver), record)
    };
    let memory = Memory {
        page: page(),
        bells: page(),
        records: (0..QUEUE_WORDS).map(|_| AtomicU64::new(0)).collect(),
        ram: TestRam::new(RAM as usize),
    };
    let mut guest = Guest { side, place: 0, is_disturbed: false };
    monitor(&memory).live(SHAPE.features() | rings | given, &[record]);
    let mut held: Vec<Held> = Vec::new();
    // Each turn is a life of the worker.
    while !input.is_empty() {
        let is_over = live(&memory, &mut guest, &mut held, &mut input);
        assert_eq!(memory.ram.outside(), 0, "accesses outside of RAM");
        if is_over {
            mark("broken");
            let mut next = start(&memory);
            next.follow();
            assert!(!next.is_live(0) && monitor(&memory).is_broken(), "given up, and lives again");
            return;
        }
    }
}

fn monitor(memory: &Memory) -> Monitor<'_> {
    Monitor::new(&memory.page, &memory.bells, 0)
}

fn start(memory: &Memory) -> Disk<'_> {
    let config = SHAPE.config();
    let features = SHAPE.features() | features::ALL_RINGS;
    let offer = Offer { features, queue_size: SIZE, config: &config };
    let worker = Worker::adopt(&memory.page, &memory.bells, 0, &offer).expect("a large page");
    Device::adopting(worker, &memory.ram, SIZE, &memory.records).expect("a large region")
}

/// One life of the worker; whether the device is broken.
fn live(memory: &Memory, guest: &mut Guest, held: &mut Vec<Held>, input: &mut Input<'_>) -> bool {
    let mut device = start(memory);
    let mut chain = Chain::default();
    if device.follow() == Change::Adopted {
        mark("adopted");
        for (head, before) in held.iter_mut() {
            assert!(device.fetch(0, &mut chain).is_none(), "a new chain before the old ones");
            let (_, again) = device.readopt(&mut chain).expect("a chain was lost");
            let ranges = |chain: &Chain<8>| -> Vec<_> {
                chain.readable(0, u64::MAX).chain(chain.writable(0, u64::MAX)).collect()
            };
            assert_eq!(ranges(&chain), ranges(before), "another chain");
            assert_eq!(chain.readable_len(), before.readable_len());
            *head = again;
            mark("readopted");
        }
        assert!(device.readopt(&mut chain).is_none(), "a chain too many");
    }
    if let Some(rule) = device.take_broken() {
        assert!(guest.is_disturbed, "{rule:?}, and the guest did nothing");
        return true;
    }
    assert!(device.is_live(0));
    while !input.is_empty() {
        match input.byte() & 7 {
            0..3 => guest.ask(&memory.ram, input),
            3 => guest.disturb(&memory.ram, input),
            4 | 5 => {
                if let Some(head) = device.fetch(0, &mut chain) {
                    held.push((head, chain.clone()));
                }
            }
            6 if !held.is_empty() => {
                let (head, chain) = held.remove(usize::from(input.byte()) % held.len());
                answer(&mut device, &memory.ram, head, &chain);
                if device.is_live(0) {
                    guest.collect(&memory.ram);
                }
            }
            6 => {
                device.interrupt(0);
                device.listen(0);
            }
            _ => return !device.is_live(0),
        }
        if let Some(rule) = device.take_broken() {
            // A header that is written again before it is read may not fit its chain.
            let is_late = matches!(rule, Rule::BlockDirection);
            assert!(guest.is_disturbed || is_late, "{rule:?}, and the guest did nothing");
            return true;
        }
    }
    false
}

/// Carries a request out, all but the copying.
fn answer(device: &mut Disk<'_>, ram: &TestRam, head: Head, chain: &Chain<8>) {
    let parsed = match Request::parse(&ram, chain, &SHAPE, SHAPE.features()) {
        Ok(parsed) => parsed,
        Err(rule) => return device.fail(rule),
    };
    let status = match parsed {
        Parsed::Done(status) => {
            mark("refused");
            status
        }
        Parsed::Work(request) => {
            judge(&request, chain);
            mark("work");
            Status::Ok
        }
    };
    match Request::finish(&ram, chain, status) {
        Ok(written) => {
            assert!(u64::from(written) <= chain.writable_len());
            device.complete(0, head, written);
        }
        Err(rule) => device.fail(rule),
    }
}

fn judge(request: &Request, chain: &Chain<8>) {
    assert!(request.block + u64::from(request.count) <= SHAPE.blocks, "{request:?}");
    let bytes: u64 = request.data.pieces(chain, 0, u64::MAX).map(|piece| piece.len()).sum();
    assert_eq!(bytes, request.data.len, "{request:?}");
    let expected = match request.kind {
        Kind::Read | Kind::Write => 512 * u64::from(request.count),
        Kind::Identity => 20,
        _ => 0,
    };
    assert_eq!(bytes, expected, "{request:?}");
    let is_range = !matches!(request.kind, Kind::Flush | Kind::Identity);
    assert_eq!(request.count != 0, is_range, "{request:?}");
}

impl Guest {
    /// Makes a request, good in most of its fields.
    fn ask(&mut self, ram: &TestRam, input: &mut Input<'_>) {
        let kind = input.pick(&[0u32, 1, 4, 8, 11, 13, 2]);
        let sector = u64::from(input.byte() % 20);
        // With bad luck the last one there is still in flight.
        self.place = (self.place + 1) % u64::from(SIZE);
        let header = DATA + 0x40 * self.place;
        ram.poke(header, &kind.to_le_bytes());
        ram.poke(header + 8, &sector.to_le_bytes());
        ram.poke(header + 16, &sector.to_le_bytes());
        ram.poke(header + 24, &u32::from(input.byte() % 10).to_le_bytes());
        ram.poke(header + 28, &u32::from(input.byte() % 3).to_le_bytes());
        let len = 512 * u32::from(1 + input.byte() % 3);
        let status = (header + 48, 1, true);
        let buffers = match kind {
            0 => vec![(header, 16, false), (0x1000, len, true), status],
            1 => vec![(header, 16, false), (0x1000, len, false), status],
            8 => vec![(header, 16, false), (0x1000, 20, true), status],
            11 | 13 => vec![(header, 16, false), (header + 16, 16, false), status],
            _ => vec![(header, 16, false), status],
        };
        match &mut self.side {
            Side::Split(driver) => driver.add(ram, &buffers),
            Side::Packed(driver) => driver.add(ram, &buffers),
        };
    }

    /// Writes where no driver does.
    fn disturb(&mut self, ram: &TestRam, input: &mut Input<'_>) {
        self.is_disturbed = true;
        let at = match input.byte() {
            near @ 0..0xc0 => RING + u64::from(near) * 2,
            far => TABLE + u64::from(far) * 8,
        };
        match input.flag() {
            true => ram.poke(at, &[input.byte()]),
            false => ram.poke(at, &input.value().to_le_bytes()),
        }
    }

    /// Takes what was used, if the rings are still as the driver thinks.
    fn collect(&mut self, ram: &TestRam) {
        if !self.is_disturbed {
            let used = match &mut self.side {
                Side::Split(driver) => driver.used(ram),
                Side::Packed(driver) => driver.used(ram),
            };
            assert!(used.is_some(), "completed, and not used");
        }
    }
}
