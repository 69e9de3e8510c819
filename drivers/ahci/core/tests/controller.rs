//! The driver against a simulated controller and disk: commands, errors, resets.

#[path = "sim/mod.rs"]
mod sim;

use cloister_ahci_core::{Controller, Failure, Fault, Health, MEMORY_MIN, Plan, Sick, State};
use cloister_block::{Busy, Controller as _, Disk, Operation, Outcome, Segment};
use cloister_block_testing::{CLIENTS, Clock, at, command, restart, tag};
use proptest::prelude::*;
use sim::{Evil, Model, PORT, Sim, SimMemory};

type Driver = Controller<Sim, SimMemory>;

/// Uncorrectable data; damaged on the link.
const BAD: u8 = 0x40;
const LINK: u8 = 0x80;

fn new(model: Model) -> (Sim, Driver) {
    let sim = Sim::new(model, MEMORY_MIN);
    let driver = Controller::new(sim.clone(), sim.memory()).unwrap();
    (sim, driver)
}

fn up(model: Model) -> (Sim, Driver) {
    let (sim, mut driver) = new(model);
    restart(&mut driver).unwrap();
    (sim, driver)
}

/// A read of the block with the number of the tag.
fn read(driver: &mut Driver, slot: u8) -> Result<(), Busy> {
    let segments = [at(u64::from(slot) * 4096, 512)];
    driver.submit(tag(slot), &command(Operation::Read, slot.into(), 1, &segments))
}

fn flush(driver: &mut Driver, slot: u8) {
    driver.submit(tag(slot), &command(Operation::Flush, 0, 0, &[])).unwrap();
}

fn all(driver: &mut Driver) -> Vec<(u8, Outcome)> {
    let mut all: Vec<_> = cloister_block_testing::all(driver)
        .into_iter()
        .map(|(tag, outcome)| (tag.slot, outcome))
        .collect();
    all.sort_by_key(|(slot, _)| *slot);
    all
}

/// Ends everything, with as many recoveries as it takes.
fn finish(sim: &Sim, driver: &mut Driver) -> (Vec<(u8, Outcome)>, u32) {
    let (mut ended, mut recoveries) = (Vec::new(), 0);
    for _ in 0..40 {
        sim.end_all();
        ended.extend(all(driver));
        if driver.state() == State::Sick(Sick::Error) {
            assert_eq!(driver.watch(), Health::Sick(Sick::Error));
            driver.recover(&Clock::default()).unwrap();
            recoveries += 1;
        }
    }
    ended.sort_by_key(|(slot, _)| *slot);
    (ended, recoveries)
}

fn expected(slots: u8, failed: &[u8]) -> Vec<(u8, Outcome)> {
    let outcome = |slot| if failed.contains(&slot) { Outcome::Failed } else { Outcome::Done };
    (0..slots).map(|slot| (slot, outcome(slot))).collect()
}

#[test]
fn a_disk_comes_up_and_says_what_it_is() {
    let (sim, driver) = up(Model { firmware: true, ..Model::default() });
    let identity = driver.identity().unwrap();
    assert_eq!(identity.model_name().trim_end_matches('.'), "sim. one");
    assert_eq!((driver.port(), driver.state()), (Some(PORT as u8), State::Up));
    let limits = driver.limits();
    assert_eq!((limits.block_size, limits.blocks, limits.bytes_max), (512, 512, 4 << 20));
    assert!(limits.zero_blocks_max == 0 && limits.discard_blocks_max > 0 && limits.write_cache);
    assert_eq!((limits.align, identity.depth), (2, Some(32)));
    let state = sim.0.borrow();
    assert_eq!((state.resets, state.link_resets), (1, 1));
    assert!(state.own[Plan::ZEROS as usize..][..4096].iter().all(|byte| *byte == 0));
}

#[test]
fn what_a_disk_lacks_is_not_used() {
    let model = Model { trim: false, cache: false, block: 4096, blocks: 99, ..Model::default() };
    let (_, driver) = up(model);
    let limits = driver.limits();
    assert_eq!((limits.block_size, limits.blocks, limits.discard_blocks_max), (4096, 99, 0));
    assert!(!limits.write_cache);
}

#[test]
fn a_controller_that_cannot_be_used_is_refused() {
    for (evil, failure) in [
        (Evil::Gone, Failure::Gone),
        (Evil::Stuck, Failure::NotReady),
        (Evil::Busy, Failure::NoDisk),
    ] {
        let (sim, mut driver) = new(Model::default());
        sim.0.borrow_mut().evil = evil;
        assert_eq!(restart(&mut driver), Err(failure), "{evil:?}");
    }
    let (sim, mut driver) = new(Model::default());
    sim.0.borrow_mut().connected = false;
    assert_eq!(restart(&mut driver), Err(Failure::NoDisk));
    let narrow = Sim::new(Model { wide: false, ..Model::default() }, MEMORY_MIN);
    let made = Controller::new(narrow.clone(), narrow.memory());
    assert_eq!(made.map(drop), Err(Failure::Narrow));
    let small = Sim::new(Model::default(), MEMORY_MIN - 8);
    let made = Controller::new(small.clone(), small.memory());
    assert_eq!(made.map(drop), Err(Failure::Memory));
}

#[test]
fn every_operation_reaches_the_disk() {
    for queues in [true, false] {
        let (sim, mut driver) = up(Model { queues, ..Model::default() });
        sim.0.borrow_mut().clients[..512].fill(0x5a);
        let segments = [at(0, 512)];
        driver.submit(tag(0), &command(Operation::Write, 9, 1, &segments)).unwrap();
        driver.submit(tag(1), &command(Operation::Discard, 30, 0x1_0005, &[])).unwrap();
        flush(&mut driver, 2);
        read(&mut driver, 3).unwrap();
        assert!(sim.slots().is_empty(), "before the doorbell");
        driver.ring();
        assert_eq!(finish(&sim, &mut driver), (expected(4, &[]), 0));
        let state = sim.0.borrow();
        assert!(state.disk[9 * 512..10 * 512].iter().all(|byte| *byte == 0x5a));
        assert_eq!(state.trimmed, [(30, 0xffff), (30 + 0xffff, 6)]);
        assert_eq!((state.flushes, state.clients[3 * 4096]), (1, 3));
        let codes = if queues { [0x61, 0x06, 0xea, 0x60] } else { [0x35, 0x06, 0xea, 0x25] };
        assert_eq!(state.codes, codes);
        assert!(driver.is_idle());
    }
}

#[test]
fn the_queue_is_used_and_drained_for_a_flush() {
    let (sim, mut driver) = up(Model { depth: 16, ..Model::default() });
    for slot in 0..4 {
        read(&mut driver, slot).unwrap();
    }
    flush(&mut driver, 4);
    for slot in 5..16 {
        read(&mut driver, slot).unwrap();
    }
    assert_eq!(read(&mut driver, 16), Err(Busy));
    driver.ring();
    assert_eq!(sim.slots(), [0, 1, 2, 3]);
    for slot in [2, 0, 3] {
        sim.end(slot);
        assert_eq!(all(&mut driver), [(slot, Outcome::Done)]);
    }
    assert_eq!(sim.slots(), [1], "the flush waits");
    sim.end(1);
    assert_eq!(all(&mut driver), [(1, Outcome::Done)]);
    assert_eq!(sim.slots(), [4], "the others wait for the flush");
    sim.end(4);
    assert_eq!(all(&mut driver), [(4, Outcome::Done)]);
    assert_eq!(sim.slots().len(), 11);
    assert_eq!(finish(&sim, &mut driver).0.len(), 11);
    assert!(driver.is_idle() && sim.0.borrow().messages > 0);
}

#[test]
fn an_error_is_of_the_command_that_the_log_names() {
    let (sim, mut driver) = up(Model::default());
    for slot in 0..8 {
        read(&mut driver, slot).unwrap();
    }
    sim.0.borrow_mut().bad_blocks.insert(5, BAD);
    driver.ring();
    assert_eq!(finish(&sim, &mut driver), (expected(8, &[5]), 1));
    let state = sim.0.borrow();
    assert_eq!((state.logs, state.link_resets, state.resets), (1, 1, 1));
    assert!(state.codes.iter().all(|code| *code == 0x60), "the queue is used all the time");
}

#[test]
fn without_a_log_that_makes_sense_the_error_is_found_out_one_by_one() {
    for (log, evil) in [(false, Evil::No), (true, Evil::Log), (true, Evil::LogSlot)] {
        let (sim, mut driver) = up(Model { log, ..Model::default() });
        for slot in 0..8 {
            read(&mut driver, slot).unwrap();
        }
        sim.0.borrow_mut().bad_blocks.insert(5, BAD);
        sim.0.borrow_mut().evil = evil;
        driver.ring();
        let (ended, _) = finish(&sim, &mut driver);
        assert_eq!(ended, expected(8, &[5]), "{evil:?}");
        assert_eq!(sim.0.borrow().resets, 1);
        // The queue is used again afterwards.
        read(&mut driver, 9).unwrap();
        driver.ring();
        assert_eq!(sim.0.borrow().codes.last(), Some(&0x60));
    }
}

#[test]
fn a_transfer_that_was_damaged_is_tried_again() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, 0).unwrap();
    sim.0.borrow_mut().bad_blocks.insert(0, LINK);
    driver.ring();
    sim.end(0);
    assert!(all(&mut driver).is_empty());
    assert_eq!(driver.watch(), Health::Sick(Sick::Error));
    driver.recover(&Clock::default()).unwrap();
    sim.0.borrow_mut().bad_blocks.clear();
    assert_eq!(finish(&sim, &mut driver), (expected(1, &[]), 0));
    // But not for ever.
    read(&mut driver, 0).unwrap();
    sim.0.borrow_mut().bad_blocks.insert(0, LINK);
    driver.ring();
    assert_eq!(finish(&sim, &mut driver), (expected(1, &[0]), 3));
}

#[test]
fn a_command_that_is_not_answered_leads_to_a_reset() {
    let (sim, mut driver) = up(Model::default());
    for slot in 0..3 {
        read(&mut driver, slot).unwrap();
    }
    driver.ring();
    sim.end(1);
    for _ in 0..30 {
        assert_eq!(driver.watch(), Health::Fine);
    }
    assert_eq!(driver.watch(), Health::Sick(Sick::TimedOut { slot: 0 }));
    assert_eq!(read(&mut driver, 7), Err(Busy));
    driver.cancel(tag(2));
    restart(&mut driver).unwrap();
    assert_eq!(sim.slots(), [0], "what is wanted was issued again");
    assert_eq!(finish(&sim, &mut driver).0, expected(3, &[2]));
    assert!(driver.is_idle());
}

/// Has a controller reset three times for the same reason, with a command that may be its fault.
#[track_caller]
fn fails_after_three_resets(wanted: Sick, fall_sick: impl Fn(&Sim, &mut Driver)) {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, 0).unwrap();
    driver.ring();
    for round in 1..=3 {
        fall_sick(&sim, &mut driver);
        assert_eq!(driver.state(), State::Sick(wanted));
        restart(&mut driver).unwrap();
        assert_eq!(sim.slots().is_empty(), round == 3, "round {round}");
    }
    assert_eq!(all(&mut driver), [(0, Outcome::Failed)]);
    assert_eq!((driver.state(), driver.is_idle()), (State::Up, true));
}

#[test]
fn a_command_that_may_be_to_blame_fails_before_the_controller_is_given_up() {
    fails_after_three_resets(
        Sick::TimedOut { slot: 0 },
        |_, driver| {
            while driver.watch() == Health::Fine {}
        },
    );
    fails_after_three_resets(Sick::Fatal, |sim, driver| {
        sim.set(0x10, 1 << 29);
        assert_eq!((driver.poll(), driver.watch()), (None, Health::Sick(Sick::Fatal)));
    });
}

#[test]
fn commands_that_nobody_issued_are_a_fault() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, 0).unwrap();
    driver.ring();
    sim.set(0x34, 1 << 9);
    assert_eq!(driver.poll(), None);
    let fault = Sick::Fault(Fault::NotIssued { slots: 1 << 9 });
    assert_eq!(driver.watch(), Health::Sick(fault));
    restart(&mut driver).unwrap();
    assert_eq!(finish(&sim, &mut driver).0, expected(1, &[]));
}

#[test]
fn a_disk_that_was_pulled_out_is_lost() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, 0).unwrap();
    driver.ring();
    sim.connect(false);
    assert_eq!(driver.poll(), None);
    assert_eq!(driver.watch(), Health::Lost);
    driver.lose();
    assert_eq!(all(&mut driver), [(0, Outcome::Failed)]);
    read(&mut driver, 1).unwrap();
    assert_eq!(all(&mut driver), [(1, Outcome::Failed)]);
    assert!(driver.is_idle());
}

#[test]
fn another_disk_at_the_same_port_is_not_used() {
    let (sim, mut driver) = up(Model::default());
    sim.connect(true);
    assert_eq!(driver.poll(), None);
    assert_eq!(driver.watch(), Health::Sick(Sick::Link));
    restart(&mut driver).unwrap();
    sim.0.borrow_mut().model.blocks += 1;
    assert_eq!(restart(&mut driver), Err(Failure::Changed));
}

#[test]
fn a_controller_that_goes_on_failing_is_given_up() {
    let (sim, mut driver) = up(Model::default());
    for round in 0..5 {
        sim.set(0x10, 1 << 29);
        assert_eq!(driver.poll(), None);
        let sick = driver.watch();
        if round == 4 {
            assert_eq!(sick, Health::Lost);
        } else {
            assert_eq!(sick, Health::Sick(Sick::Fatal));
            restart(&mut driver).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_in_pieces_is_named_right(
        pieces in prop::collection::vec((0u64..1024, 1u64..3000), 1..31),
        write: bool,
    ) {
        let (sim, mut driver) = up(Model::default());
        // Even pieces anywhere, and one that makes whole blocks of them.
        let mut segments: Vec<Segment> = pieces.iter().enumerate()
            .map(|(n, (skew, len))| at(n as u64 * 8192 + skew * 2, len * 2)).collect();
        let bytes: u64 = segments.iter().map(|s| s.len).sum();
        let rest = 512 - bytes % 512;
        segments.push(at(40 * 8192, rest));
        let blocks = ((bytes + rest) / 512) as u32;
        if write {
            for (number, byte) in sim.0.borrow_mut().clients.iter_mut().enumerate() {
                *byte = (number / 7 % 253) as u8;
            }
        }
        let operation = if write { Operation::Write } else { Operation::Read };
        driver.submit(tag(0), &command(operation, 11, blocks, &segments)).unwrap();
        driver.ring();
        prop_assert_eq!(finish(&sim, &mut driver), (expected(1, &[]), 0));
        let state = sim.0.borrow();
        let memory: Vec<u8> = segments.iter()
            .flat_map(|s| &state.clients[(s.address - CLIENTS) as usize..][..s.len as usize])
            .copied().collect();
        prop_assert!(memory == state.disk[11 * 512..][..memory.len()]);
    }

    /// Errors of any kind, with or without a log: each command is answered once, and those fail
    /// that have a bad block.
    #[test]
    fn errors_hit_those_that_have_them(
        bad in prop::collection::btree_set(0u8..24, 0..6),
        flushes in prop::collection::btree_set(0u8..24, 0..4),
        log: bool,
        depth in 1u8..33,
    ) {
        let (sim, mut driver) = up(Model { log, depth, ..Model::default() });
        sim.0.borrow_mut().bad_blocks = bad.iter().map(|slot| (u64::from(*slot), BAD)).collect();
        let mut ended = Vec::new();
        let mut next = 0;
        while next < 24 || !driver.is_idle() {
            while next < 24 {
                let taken = if flushes.contains(&next) {
                    driver.submit(tag(next), &command(Operation::Flush, 0, 0, &[]))
                } else {
                    read(&mut driver, next)
                };
                if taken.is_err() { break; }
                next += 1;
            }
            driver.ring();
            ended.extend(finish(&sim, &mut driver).0);
        }
        ended.sort_by_key(|(slot, _)| *slot);
        let failed: Vec<u8> = bad.difference(&flushes).copied().collect();
        prop_assert_eq!(ended, expected(24, &failed));
    }
}
