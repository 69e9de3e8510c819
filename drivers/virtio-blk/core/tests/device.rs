//! The driver against a simulated device that works: what it finds, what it refuses, requests.

#[path = "sim/mod.rs"]
mod sim;

use cloister_block::{Controller as _, Disk, Operation, Outcome};
use cloister_dma::Memory;
use cloister_virtio_blk_core::{Controller, Failure, LENGTHS_BYTES, MEMORY_MIN, Plan, State};
use proptest::prelude::*;
use sim::driver::{Driver, all, at, client_bytes, command, fails, made, read, restart, tag, up};
use sim::{ACCESS_PLATFORM, ALL, CLIENTS, Evil, FLUSH, Model, Sim, VERSION_1};

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
    assert_eq!(fails(Model { device: 0x1041, ..model }), Failure::Kind);
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
}
