//! The driver against a simulated device: what it finds, requests, faults, resets.

#[path = "sim/mod.rs"]
mod sim;

use cloister_block::{Busy, Command, Disk, Operation, Outcome, Segment, Tag};
use cloister_dma::{Memory, Region};
use cloister_virtio_blk_core::{
    Controller, Failure, Fault, Health, LENGTHS_BYTES, MEMORY_MIN, Plan, Sick, State,
};
use proptest::prelude::*;
use sim::{
    ACCESS_PLATFORM, ALL, CLIENTS, Clock, Evil, FLUSH, Model, RANGES, SEG_MAX, Sim, VERSION_1,
};

type Driver = Controller<'static, Sim>;

/// Memory that is leaked: a test ends soon.
fn made(model: Model) -> (Sim, Result<Driver, Failure>, &'static Region) {
    let (sim, region) = Sim::new(model);
    let (rings, memory) = region.split(Driver::RINGS_BYTES).unwrap();
    let memory: &'static Region = Box::leak(Box::new(memory));
    let lengths = Box::leak(vec![0; LENGTHS_BYTES].into_boxed_slice());
    let driver = Controller::new(sim.clone(), rings, memory, lengths);
    (sim, driver, memory)
}

fn up(model: Model) -> (Sim, Driver) {
    let (sim, driver, _) = made(model);
    let mut driver = driver.unwrap();
    restart(&mut driver).unwrap();
    (sim, driver)
}

fn restart(driver: &mut Driver) -> Result<(), Failure> {
    driver.stop(&Clock::default())?;
    driver.start(&Clock::default())
}

fn fails(model: Model) -> Failure {
    let (_, driver, _) = made(model);
    driver.and_then(|mut driver| restart(&mut driver)).unwrap_err()
}

fn tag(slot: u8) -> Tag {
    Tag { slot, generation: 3, client: slot % 4 }
}

fn command(operation: Operation, block: u64, blocks: u32, segments: &[Segment]) -> Command<'_> {
    Command { operation, block, blocks, segments }
}

/// A piece of clients' memory.
fn at(sim: &Sim, place: u64, len: u64) -> Segment {
    Segment { address: sim.0.borrow().memory.address(CLIENTS + place), len }
}

/// A read of one block for that tag.
fn read(sim: &Sim, driver: &mut Driver, tag: Tag) -> Result<(), Busy> {
    let block = u64::from(tag.slot);
    driver.submit(tag, &command(Operation::Read, block, 1, &[at(sim, block * 4096, 512)]))
}

fn client_bytes(sim: &Sim, place: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    sim.0.borrow().memory.read(CLIENTS + place, &mut bytes).unwrap();
    bytes
}

fn all(driver: &mut Driver) -> Vec<(Tag, Outcome)> {
    std::iter::from_fn(|| driver.poll()).collect()
}

#[test]
fn a_device_comes_up_and_says_what_it_is() {
    let (sim, driver) = up(Model { block_size: 4096, size_max: 16384, ..Model::default() });
    let identity = driver.identity().unwrap();
    assert_eq!((identity.blocks, identity.block_size, identity.is_read_only), (256, 4096, false));
    assert_eq!((driver.state(), driver.is_idle()), (State::Up, true));
    let limits = driver.limits();
    assert_eq!((limits.block_size, limits.blocks, limits.bytes_max), (4096, 256, 16384));
    assert_eq!((limits.segments_max, limits.align), (32, 1));
    assert_eq!((limits.zero_blocks_max, limits.discard_blocks_max), (512, 512));
    assert!(limits.write_cache);
    let state = sim.0.borrow();
    assert_eq!((state.agreed, state.vector, state.config_vector), (ALL, 0, 0xffff));
    assert_eq!(Plan::END, MEMORY_MIN);
}

#[test]
fn what_a_device_lacks_is_not_used() {
    let features = VERSION_1 | ACCESS_PLATFORM;
    // Fields of features that it does not offer say anything.
    let (_, driver) =
        up(Model { features, block_size: 3, size_max: 1, seg_max: 0, ..Model::default() });
    let limits = driver.limits();
    assert_eq!((limits.block_size, limits.bytes_max, limits.segments_max), (512, 65536, 1));
    assert_eq!((limits.zero_blocks_max, limits.discard_blocks_max), (0, 0));
    assert!(!limits.write_cache);
    let (_, driver) = up(Model { features: ALL & !FLUSH, seg_max: 7, ..Model::default() });
    assert_eq!((driver.limits().segments_max, driver.limits().write_cache), (7, false));
}

#[test]
fn a_device_that_no_iommu_confines_is_refused() {
    let features = |without: u64| Model { features: ALL & !without, ..Model::default() };
    assert_eq!(fails(features(ACCESS_PLATFORM)), Failure::Unconfined);
    assert_eq!(fails(features(VERSION_1)), Failure::Old);
    assert_eq!(fails(features(ALL)), Failure::Old);
    // It never reached memory: no queue was set up.
    let (sim, driver, _) = made(features(ACCESS_PLATFORM));
    let mut driver = driver.unwrap();
    assert!(
        restart(&mut driver).is_err()
            && driver.submit(tag(0), &command(Operation::Flush, 0, 0, &[])).is_err()
    );
    assert_eq!((sim.0.borrow().agreed, sim.0.borrow().bells), (0, 0));
}

#[test]
fn a_device_that_makes_no_sense_is_refused() {
    let model = Model::default();
    for block_size in [0, 256, 513, 8192, u32::MAX] {
        assert_eq!(fails(Model { block_size, ..model }), Failure::Blocks, "{block_size}");
    }
    for sectors in [0, u64::MAX, 1 << 60] {
        assert_eq!(fails(Model { sectors, ..model }), Failure::Blocks, "{sectors}");
    }
    assert_eq!(fails(Model { size_max: 511, ..model }), Failure::Blocks);
    assert_eq!(fails(Model { seg_max: 0, ..model }), Failure::Blocks);
    for queue_size in [0, 64, 127] {
        assert_eq!(fails(Model { queue_size, ..model }), Failure::Queue, "{queue_size}");
    }
    for (multiplier, notify_offset) in [(4, 0x400), (u32::MAX, 0xffff), (1, 1)] {
        let found = fails(Model { multiplier, notify_offset, ..model });
        assert_eq!(found, Failure::Queue, "{multiplier} {notify_offset}");
    }
    for (evil, failure) in [
        (Evil::Gone, Failure::Gone),
        (Evil::Stuck, Failure::NotReady),
        (Evil::Stubborn, Failure::Features),
        (Evil::Vectorless, Failure::Vector),
        (Evil::Restless, Failure::Changed),
    ] {
        let (sim, driver, _) = made(model);
        sim.0.borrow_mut().evil = evil;
        assert_eq!(driver.and_then(|mut driver| restart(&mut driver)), Err(failure), "{evil:?}");
    }
}

#[test]
fn structures_that_are_not_there_are_not_touched() {
    for kind in [1, 2, 4] {
        for (bar, offset, len) in [
            (4, 0x4000, 0x38),
            (4, u32::MAX - 3, 0x38),
            (4, 0, 1),
            (5, 0, 0x38),
            (255, 0, 0x38),
            (4, 2, 0x38),
        ] {
            let (sim, region) = Sim::new(Model::default());
            sim.0.borrow_mut().spoilt = Some((kind, bar, offset, len));
            let (rings, memory) = region.split(Driver::RINGS_BYTES).unwrap();
            let mut lengths = vec![0; LENGTHS_BYTES];
            let made = Controller::new(sim.clone(), rings, &memory, &mut lengths).err();
            assert_eq!(made, Some(Failure::Structures), "{kind} {bar} {offset:#x} {len}");
        }
    }
    let (sim, region) = Sim::new(Model::default());
    sim.0.borrow_mut().endless = true;
    sim.0.borrow_mut().spoilt = Some((2, 0, 0, 0));
    let (rings, memory) = region.split(Driver::RINGS_BYTES).unwrap();
    let mut lengths = vec![0; LENGTHS_BYTES];
    let made = Controller::new(sim, rings, &memory, &mut lengths).err();
    assert_eq!(made, Some(Failure::Structures));
}

#[test]
fn too_little_memory_is_refused() {
    let (sim, region) = Sim::new(Model::default());
    let (rings, rest) = region.split(4096).unwrap();
    let mut lengths = vec![0; LENGTHS_BYTES];
    let made = Controller::new(sim.clone(), rings, &rest, &mut lengths).err();
    assert_eq!(made, Some(Failure::Memory), "rings");
    let (rings, rest) = rest.split(8192).unwrap();
    let (memory, _) = rest.split(MEMORY_MIN as usize - 8).unwrap();
    let made = Controller::new(sim, rings, &memory, &mut lengths).err();
    assert_eq!(made, Some(Failure::Memory), "requests");
}

#[test]
fn every_operation_reaches_the_disk() {
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow().memory.write(CLIENTS, &[0x5a; 512]).unwrap();
    driver.submit(tag(0), &command(Operation::Write, 9, 1, &[at(&sim, 0, 512)])).unwrap();
    driver.submit(tag(1), &command(Operation::Zero, 20, 3, &[])).unwrap();
    driver.submit(tag(2), &command(Operation::Discard, 30, 5, &[])).unwrap();
    driver.submit(tag(3), &command(Operation::Flush, 0, 0, &[])).unwrap();
    read(&sim, &mut driver, tag(7)).unwrap();
    assert_eq!(sim.fetched(), 0, "before the doorbell");
    driver.ring();
    assert_eq!(sim.fetched(), 5);
    assert!(all(&mut driver).is_empty());
    sim.end_all();
    assert_eq!(all(&mut driver), [0, 1, 2, 3, 7].map(|slot| (tag(slot), Outcome::Done)));
    assert_eq!(client_bytes(&sim, 7 * 4096, 512), [7; 512]);
    let state = sim.0.borrow();
    assert!(state.disk[9 * 512..10 * 512].iter().all(|byte| *byte == 0x5a));
    assert!(state.disk[20 * 512..23 * 512].iter().all(|byte| *byte == 0));
    assert_eq!((state.flushes, &state.discarded[..]), (1, &[(30, 5)][..]));
    assert!(driver.is_idle());
}

#[test]
fn blocks_are_counted_in_sectors() {
    let (sim, mut driver) = up(Model { block_size: 4096, ..Model::default() });
    driver.submit(tag(0), &command(Operation::Zero, 3, 2, &[])).unwrap();
    driver.submit(tag(1), &command(Operation::Discard, 5, 1, &[])).unwrap();
    driver.submit(tag(2), &command(Operation::Read, 7, 1, &[at(&sim, 0, 4096)])).unwrap();
    driver.ring();
    sim.end_all();
    assert_eq!(all(&mut driver).len(), 3);
    let state = sim.0.borrow();
    assert_eq!(state.discarded, [(40, 8)]);
    assert!(state.disk[3 * 4096..5 * 4096].iter().all(|byte| *byte == 0));
    assert!(state.disk[5 * 4096] != 0);
    drop(state);
    assert_eq!(client_bytes(&sim, 0, 512), [56; 512]);
}

#[test]
fn many_requests_are_in_flight_and_end_in_any_order() {
    let (sim, mut driver) = up(Model::default());
    let mut taken = 0;
    while read(&sim, &mut driver, tag(taken)).is_ok() {
        taken += 1;
    }
    // A read of one piece takes three of 128 entries.
    assert_eq!(taken, 42);
    driver.ring();
    assert_eq!((sim.fetched(), sim.0.borrow().bells), (42, 1));
    for place in [41, 0, 20] {
        sim.end(place);
    }
    assert_eq!(all(&mut driver), [41, 0, 21].map(|slot| (tag(slot), Outcome::Done)));
    assert!(read(&sim, &mut driver, tag(50)).is_ok());
    driver.ring();
    sim.end_all();
    assert_eq!(all(&mut driver).len(), 40);
    assert!(driver.is_idle());
    // The same entries many times: indices wrap.
    for round in 0..70_000u32 {
        let slot = (round % 60) as u8;
        read(&sim, &mut driver, tag(slot)).unwrap();
        driver.ring();
        sim.end(0);
        assert_eq!(driver.poll(), Some((tag(slot), Outcome::Done)), "{round}");
    }
}

#[test]
fn a_device_that_looks_by_itself_is_not_told() {
    let (sim, mut driver) = up(Model::default());
    let bells = sim.0.borrow().bells;
    sim.0.borrow_mut().deaf = true;
    sim.0.borrow_mut().set_used(0);
    read(&sim, &mut driver, tag(0)).unwrap();
    driver.ring();
    assert_eq!(sim.0.borrow().bells, bells);
    sim.0.borrow_mut().deaf = false;
    sim.0.borrow_mut().set_used(0);
    read(&sim, &mut driver, tag(1)).unwrap();
    driver.ring();
    driver.ring();
    assert_eq!((sim.0.borrow().bells, sim.fetched()), (bells + 1, 2));
}

#[test]
fn errors_of_the_disk_are_errors() {
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().statuses = [1, 2, 0].into();
    (0..3).for_each(|slot| read(&sim, &mut driver, tag(slot)).unwrap());
    driver.ring();
    sim.end_all();
    let outcomes = [Outcome::Failed, Outcome::Failed, Outcome::Done];
    assert_eq!(
        all(&mut driver).into_iter().map(|(_, outcome)| outcome).collect::<Vec<_>>(),
        outcomes
    );
    assert_eq!(driver.state(), State::Up);
}

/// What a device does after it fetched two reads.
type Deed = fn(&Sim);

const DEEDS: &[(&str, Deed, Fault)] = &[
    ("more than are in flight", |sim| sim.0.borrow_mut().set_used(3), Fault::TooMany { count: 3 }),
    ("back", |sim| sim.0.borrow_mut().set_used(u16::MAX), Fault::TooMany { count: u16::MAX }),
    ("nothing", |sim| sim.0.borrow_mut().use_chain(77, 1), Fault::NoSuchRequest { id: 77 }),
    ("outside", |sim| sim.0.borrow_mut().use_chain(128, 1), Fault::NoSuchRequest { id: 128 }),
    (
        "wide",
        |sim| {
            let head = u32::from(sim.0.borrow().pending[0].head) | 0x1_0000;
            sim.0.borrow_mut().use_chain(head, 513);
        },
        Fault::NoSuchRequest { id: 0x1_0000 },
    ),
    (
        "in a chain",
        |sim| {
            let head = u32::from(sim.0.borrow().pending[0].head);
            sim.0.borrow_mut().use_chain(head + 1, 513);
        },
        Fault::NoSuchRequest { id: 1 },
    ),
    ("too long", |sim| finish(sim, 0, 513), Fault::Length { len: 514 }),
    ("far too long", |sim| finish(sim, 0, u32::MAX - 1), Fault::Length { len: u32::MAX }),
    ("too short", |sim| finish(sim, 0, 511), Fault::Length { len: 512 }),
    ("a status that there is not", |sim| finish(sim, 3, 512), Fault::Status { status: 3 }),
    (
        "no status",
        |sim| {
            let head = u32::from(sim.0.borrow().pending[0].head);
            sim.0.borrow_mut().use_chain(head, 513);
        },
        Fault::Status { status: 255 },
    ),
];

fn finish(sim: &Sim, status: u8, written: u32) {
    let pending = sim.0.borrow_mut().pending.pop_front().unwrap();
    sim.0.borrow_mut().finish(&pending, status, written);
}

#[test]
fn what_makes_no_sense_resets_the_device_and_loses_nothing() {
    for (name, deed, fault) in DEEDS {
        let (sim, mut driver) = up(Model::default());
        (0..2).for_each(|slot| read(&sim, &mut driver, tag(slot)).unwrap());
        driver.ring();
        deed(&sim);
        assert_eq!(all(&mut driver), [], "{name}");
        assert_eq!(driver.state(), State::Sick(Sick::Fault(*fault)), "{name}");
        assert_eq!(read(&sim, &mut driver, tag(9)), Err(Busy), "{name}");
        assert_eq!(driver.watch(), Health::Sick(Sick::Fault(*fault)), "{name}");
        restart(&mut driver).unwrap();
        assert_eq!(sim.fetched(), 2, "{name}: both were added again");
        sim.end_all();
        let mut ended = all(&mut driver);
        ended.sort_by_key(|(tag, _)| tag.slot);
        assert_eq!(ended, [0, 1].map(|slot| (tag(slot), Outcome::Done)), "{name}");
        assert_eq!(client_bytes(&sim, 4096, 512), [1; 512], "{name}");
    }
}

#[test]
fn a_request_that_ends_twice_is_a_fault() {
    let (sim, mut driver) = up(Model::default());
    (0..2).for_each(|slot| read(&sim, &mut driver, tag(slot)).unwrap());
    driver.ring();
    let pending = sim.0.borrow().pending[0].clone();
    sim.end(0);
    sim.0.borrow_mut().finish(&pending, 0, 512);
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Done)]);
    let id = pending.head.into();
    assert_eq!(driver.state(), State::Sick(Sick::Fault(Fault::NoSuchRequest { id })));
}

#[test]
fn a_request_that_is_not_answered_is_tried_and_then_fails() {
    let (sim, mut driver) = up(Model::default());
    read(&sim, &mut driver, tag(5)).unwrap();
    driver.ring();
    let mut resets = 0;
    let ended = loop {
        match driver.watch() {
            Health::Fine => {}
            Health::Sick(Sick::TimedOut { slot: 0 }) => {
                resets += 1;
                restart(&mut driver).unwrap();
            }
            other => panic!("{other:?}"),
        }
        if let Some(ended) = driver.poll() {
            break ended;
        }
    };
    assert_eq!((ended, resets), ((tag(5), Outcome::Failed), 3));
    assert!(driver.is_idle() && sim.fetched() == 0);
    // It works again.
    read(&sim, &mut driver, tag(6)).unwrap();
    driver.ring();
    sim.end_all();
    assert_eq!(all(&mut driver), [(tag(6), Outcome::Done)]);
}

#[test]
fn what_is_not_wanted_is_not_tried_again() {
    let (sim, mut driver) = up(Model::default());
    (0..3).for_each(|slot| read(&sim, &mut driver, tag(slot)).unwrap());
    driver.ring();
    driver.cancel(tag(1));
    sim.0.borrow_mut().evil = Evil::NeedsReset;
    assert_eq!(driver.watch(), Health::Sick(Sick::NeedsReset));
    sim.0.borrow_mut().evil = Evil::No;
    restart(&mut driver).unwrap();
    assert_eq!((all(&mut driver), sim.fetched()), (vec![(tag(1), Outcome::Failed)], 2));
}

#[test]
fn a_device_that_never_gets_well_is_lost() {
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().evil = Evil::NeedsReset;
    for _ in 0..4 {
        assert_eq!(driver.watch(), Health::Sick(Sick::NeedsReset));
        restart(&mut driver).unwrap();
    }
    read(&sim, &mut driver, tag(0)).unwrap();
    assert_eq!(driver.watch(), Health::Lost);
    driver.lose();
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Failed)]);
    read(&sim, &mut driver, tag(1)).unwrap();
    assert_eq!(all(&mut driver), [(tag(1), Outcome::Failed)]);
    assert_eq!((driver.state(), driver.watch()), (State::Lost, Health::Lost));
}

#[test]
fn a_device_that_is_pulled_out_is_lost() {
    let (sim, mut driver) = up(Model::default());
    read(&sim, &mut driver, tag(0)).unwrap();
    driver.ring();
    sim.0.borrow_mut().evil = Evil::Gone;
    assert_eq!(driver.watch(), Health::Lost);
    assert_eq!(driver.state(), State::Sick(Sick::Gone));
    assert_eq!(driver.stop(&Clock::default()), Err(Failure::Gone));
    driver.lose();
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Failed)]);
}

#[test]
fn a_disk_may_grow_and_not_shrink() {
    let (sim, mut driver) = up(Model::default());
    let resize = |sectors, block_size| {
        let mut state = sim.0.borrow_mut();
        (state.model.sectors, state.model.block_size) = (sectors, block_size);
        state.generation.set(state.generation.get() + 1);
    };
    resize(4096, 512);
    assert_eq!((driver.watch(), driver.limits().blocks), (Health::Fine, 2048));
    restart(&mut driver).unwrap();
    assert_eq!(driver.limits().blocks, 2048, "volumes lie where they lay");
    for (sectors, block_size) in [(2047, 512), (2048, 1024), (0, 512), (2048, 3)] {
        let (sim, mut driver) = up(Model::default());
        sim.0.borrow_mut().model.sectors = sectors;
        sim.0.borrow_mut().model.block_size = block_size;
        sim.0.borrow().generation.set(9);
        assert_eq!(driver.watch(), Health::Lost, "{sectors} {block_size}");
        assert_eq!(driver.state(), State::Sick(Sick::Shrunk), "{sectors} {block_size}");
        let is_other = matches!(restart(&mut driver), Err(Failure::Changed | Failure::Blocks));
        assert!(is_other, "{sectors} {block_size}");
    }
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().model.features &= !RANGES;
    assert_eq!(restart(&mut driver), Err(Failure::Changed), "other features");
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().evil = Evil::Restless;
    assert_eq!(driver.watch(), Health::Fine, "nobody waits for a restless one");
}

#[test]
fn after_a_stop_nothing_is_with_the_device() {
    let (sim, mut driver) = up(Model::default());
    let resets = sim.0.borrow().resets;
    read(&sim, &mut driver, tag(0)).unwrap();
    driver.ring();
    driver.stop(&Clock::default()).unwrap();
    assert_eq!((sim.0.borrow().resets, sim.fetched()), (resets + 1, 0));
    assert_eq!((driver.state(), driver.is_idle()), (State::Stopped, false));
    assert_eq!(read(&sim, &mut driver, tag(1)), Err(Busy));
    driver.ring();
    assert_eq!(all(&mut driver), []);
    driver.start(&Clock::default()).unwrap();
    assert_eq!(sim.fetched(), 1);
}

#[test]
fn more_than_the_limits_allow_fails_alone() {
    let (sim, mut driver) = up(Model::default());
    let many = [at(&sim, 0, 512); 33];
    let cases: [(Operation, u32, &[Segment]); 4] = [
        (Operation::Read, 33, &many),
        (Operation::Read, 129, &[at(&sim, 0, 129 * 512)]),
        (Operation::Write, 0, &[at(&sim, 0, 0)]),
        (Operation::Write, 256, &[at(&sim, 0, 1 << 32)]),
    ];
    for (slot, (operation, blocks, segments)) in (0..).zip(cases) {
        driver.submit(tag(slot), &command(operation, 0, blocks, segments)).unwrap();
        let failed = [(tag(slot), Outcome::Failed)];
        assert_eq!(all(&mut driver), failed, "{operation:?} {blocks}");
    }
    driver.ring();
    assert_eq!((driver.state(), driver.is_idle(), sim.fetched()), (State::Up, true, 0));
    assert!(SEG_MAX & ALL != 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Reads and writes of any pieces in any order are what a slow model says.
    #[test]
    fn pieces_of_any_length_are_moved_right(
        requests in prop::collection::vec(
            (any::<bool>(), 0u64..1800, prop::collection::vec(1u64..4000, 1..9)), 1..14),
        order in prop::collection::vec(any::<prop::sample::Index>(), 14),
    ) {
        let (sim, mut driver) = up(Model::default());
        let mut model = sim.0.borrow().disk.clone();
        let mut expected = Vec::new();
        for (slot, (is_write, block, mut lens)) in (0u8..).zip(requests) {
            let sum: u64 = lens.iter().sum();
            lens.push(512 - sum % 512);
            let bytes: u64 = lens.iter().sum();
            let base = u64::from(slot) * 65536;
            // Pieces lie apart from each other, at odd places.
            let mut place = base;
            let mut segments = Vec::new();
            for len in lens {
                place += 7;
                segments.push(at(&sim, place, len));
                place += len;
            }
            let operation = if is_write { Operation::Write } else { Operation::Read };
            let fill = slot + 100;
            if is_write {
                sim.0.borrow().memory.write(CLIENTS + base, &vec![fill; (place - base) as usize]).unwrap();
            }
            let blocks = (bytes / 512) as u32;
            driver.submit(tag(slot), &command(operation, block, blocks, &segments)).unwrap();
            driver.ring();
            // One at a time, so that what overlaps has an order.
            sim.end(order[usize::from(slot)].index(sim.fetched()));
            prop_assert_eq!(driver.poll(), Some((tag(slot), Outcome::Done)));
            let range = block as usize * 512..(block * 512 + bytes) as usize;
            if is_write {
                model[range].fill(fill);
            } else {
                expected.push((segments, model[range].to_vec()));
            }
            prop_assert!(sim.0.borrow().disk == model);
        }
        for (segments, bytes) in expected {
            let mut found = Vec::new();
            for segment in segments {
                let offset = sim.0.borrow().offset(segment.address);
                let mut piece = vec![0; segment.len as usize];
                sim.0.borrow().memory.read(offset, &mut piece).unwrap();
                found.extend(piece);
            }
            prop_assert!(found == bytes);
        }
    }

    /// Whatever stands in the used ring and in the statuses, nothing panics, and after a reset every
    /// request is answered once.
    #[test]
    fn a_hostile_device_costs_nothing_but_time(
        deeds in prop::collection::vec((any::<u16>(), any::<u32>(), any::<u32>(), any::<u8>()), 1..40),
        near in any::<bool>(),
    ) {
        let (sim, mut driver) = up(Model::default());
        let mut open: Vec<Tag> = Vec::new();
        for (index, id, len, status) in deeds {
            let next = tag((index % 60) as u8);
            if !open.contains(&next) && read(&sim, &mut driver, next).is_ok() {
                open.push(next);
            }
            driver.ring();
            let mut state = sim.0.borrow_mut();
            let used = state.used();
            let pending = state.pending.front().cloned();
            match (status % 4, pending) {
                (0, Some(pending)) => {
                    state.pending.pop_front();
                    state.finish(&pending, status >> 6, if near { 512 } else { len >> 1 });
                }
                (1, _) => state.use_chain(if near { id % 130 } else { id }, len),
                (2, _) => state.set_used(used.wrapping_add(if near { index % 3 } else { index })),
                _ => {}
            }
            drop(state);
            for (tag, _) in all(&mut driver) {
                prop_assert!(open.contains(&tag), "twice, or never asked for");
                open.retain(|other| *other != tag);
            }
            match driver.watch() {
                Health::Fine => {}
                Health::Sick(_) => restart(&mut driver).unwrap(),
                Health::Lost => driver.lose(),
            }
        }
        while !open.is_empty() {
            sim.end_all();
            for (tag, _) in all(&mut driver) {
                prop_assert!(open.contains(&tag));
                open.retain(|other| *other != tag);
            }
            match driver.watch() {
                Health::Fine => {}
                Health::Sick(_) => restart(&mut driver).unwrap(),
                Health::Lost => driver.lose(),
            }
        }
        prop_assert!(driver.is_idle());
    }
}
