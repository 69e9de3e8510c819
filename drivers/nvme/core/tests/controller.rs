//! The driver against a simulated controller: commands, faults, resets.

#[path = "sim/mod.rs"]
mod sim;

use cloister_block::{Busy, Controller as _, Disk, Operation, Outcome, Tag};
use cloister_block_testing::{CLIENTS, Clock, all, at, command, restart, tag};
use cloister_nvme_core::{Controller, Failure, Fault, Health, Plan, Sick, State};
use proptest::prelude::*;
use sim::{Evil, Model, Sim, SimMemory};

type Driver = Controller<Sim, SimMemory>;

const PAGES: u64 = 50;

fn up(model: Model) -> (Sim, Driver) {
    let sim = Sim::new(model, PAGES);
    let mut driver = Controller::new(sim.clone(), sim.memory(), 4).unwrap();
    restart(&mut driver).unwrap();
    (sim, driver)
}

/// A read of one block for that tag.
fn read(driver: &mut Driver, tag: Tag) -> Result<(), Busy> {
    let block = u64::from(tag.slot);
    driver.submit(tag, &command(Operation::Read, block, 1, &[at(block * 4096, 512)]))
}

#[test]
fn a_controller_comes_up_and_says_what_it_is() {
    let (sim, driver) = up(Model { mdts: 2, ..Model::default() });
    assert_eq!(driver.identity().model_name().trim_end_matches('.'), "sim. one");
    assert_eq!((driver.pairs(), driver.state()), (4, State::Up));
    let limits = driver.limits();
    assert_eq!((limits.block_size, limits.blocks, limits.bytes_max), (512, 256, 16384));
    assert!(limits.zero_blocks_max > 0 && limits.discard_blocks_max > 0 && limits.write_cache);
    assert_eq!(sim.0.borrow().vectors, [0, 1, 2, 3]);
    let (memory, free) = driver.memory();
    let zeros = &memory_bytes(memory)[Plan::ZEROS as usize..][..4096];
    assert!(zeros.iter().all(|byte| *byte == 0));
    assert_eq!(free, 44 * 4096);
}

fn memory_bytes(memory: &SimMemory) -> Vec<u8> {
    use cloister_dma::Memory;
    let mut bytes = vec![0; memory.len() as usize];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_controller_lacks_is_not_used() {
    let model = Model { oncs: 0, cache: false, mdts: 0, queues: 2, shift: 12, ..Model::default() };
    let (_, driver) = up(model);
    let limits = driver.limits();
    assert_eq!((driver.pairs(), limits.block_size, limits.bytes_max), (2, 4096, 64 * 4096));
    assert_eq!((limits.zero_blocks_max, limits.discard_blocks_max), (0, 0));
    assert!(!limits.write_cache);
}

#[test]
fn every_operation_reaches_the_disk() {
    let (sim, mut driver) = up(Model { stride: 2, ..Model::default() });
    sim.0.borrow_mut().clients[..512].fill(0x5a);
    driver.submit(tag(0), &command(Operation::Write, 9, 1, &[at(0, 512)])).unwrap();
    driver.submit(tag(1), &command(Operation::Zero, 20, 3, &[])).unwrap();
    driver.submit(tag(2), &command(Operation::Discard, 30, 5, &[])).unwrap();
    driver.submit(tag(3), &command(Operation::Flush, 0, 0, &[])).unwrap();
    assert_eq!(sim.fetched(), 0, "before the doorbell");
    driver.ring();
    assert_eq!(sim.fetched(), 4);
    assert!(all(&mut driver).is_empty());
    sim.end_all();
    let mut ended = all(&mut driver);
    ended.sort_by_key(|(tag, _)| tag.slot);
    assert_eq!(ended, [0, 1, 2, 3].map(|slot| (tag(slot), Outcome::Done)));
    let state = sim.0.borrow();
    assert!(state.disk[9 * 512..10 * 512].iter().all(|byte| *byte == 0x5a));
    assert!(state.disk[20 * 512..23 * 512].iter().all(|byte| *byte == 0));
    assert_eq!((state.flushes, &state.deallocated[..]), (1, &[(30, 5)][..]));
    assert!(driver.is_idle());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_in_pages_is_named_right(
        skew in (0u64..1024).prop_map(|n| n * 4),
        pages in prop_oneof![0u64..4, 0u64..64],
        tail in 1u64..8,
        order in any::<prop::sample::Index>(),
        write: bool,
    ) {
        let (sim, mut driver) = up(Model { mdts: 0, blocks: 1024, ..Model::default() });
        // A first piece that ends with a page, whole pages in another order, and a last piece.
        let mut bytes = (4096 - skew) + pages * 4096 + tail * 512;
        bytes -= bytes % 512;
        bytes = bytes.min(64 * 4096);
        let mut segments = vec![at(skew, (4096 - skew).min(bytes))];
        let mut left = bytes - segments[0].len;
        let turn = order.index(64) as u64;
        for page in 0.. {
            if left == 0 { break; }
            let len = left.min(4096);
            segments.push(at(((page + turn) % 64 + 2) * 4096, len));
            left -= len;
        }
        let blocks = (bytes / 512) as u32;
        let pieces: Vec<u8> = segments.iter()
            .flat_map(|s| (s.address - CLIENTS)..(s.address - CLIENTS + s.len))
            .map(|at| (at / 7 % 253) as u8).collect();
        if write {
            let mut state = sim.0.borrow_mut();
            for (number, byte) in state.clients.iter_mut().enumerate() {
                *byte = (number / 7 % 253) as u8;
            }
        }
        let operation = if write { Operation::Write } else { Operation::Read };
        driver.submit(tag(0), &command(operation, 11, blocks, &segments)).unwrap();
        driver.ring();
        sim.end_all();
        prop_assert_eq!(all(&mut driver), [(tag(0), Outcome::Done)]);
        let state = sim.0.borrow();
        let disk = &state.disk[11 * 512..][..bytes as usize];
        if write {
            prop_assert_eq!(disk, &pieces[..]);
        } else {
            let read: Vec<u8> = segments.iter()
                .flat_map(|s| state.clients[(s.address - CLIENTS) as usize..][..s.len as usize].to_vec())
                .collect();
            prop_assert_eq!(disk, &read[..]);
        }
    }

    #[test]
    fn each_command_is_answered_once_in_whatever_order(
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400),
        entries in 2u16..65,
    ) {
        let (sim, mut driver) = up(Model { entries, ..Model::default() });
        let mut free: Vec<u8> = (0..128).collect();
        let mut out: Vec<Tag> = Vec::new();
        for (is_new, index) in steps {
            if is_new {
                let slot = free[index.index(free.len())];
                match read(&mut driver, tag(slot)) {
                    Ok(()) => {
                        free.retain(|other| *other != slot);
                        out.push(tag(slot));
                    }
                    Err(Busy) => {
                        let same = out.iter().filter(|t| t.client == slot % 4).count();
                        prop_assert_eq!(same, usize::from(entries) - 1);
                    }
                }
            } else {
                driver.ring();
                prop_assert_eq!(sim.fetched(), out.len());
                if sim.fetched() != 0 {
                    sim.end(index.index(sim.fetched()));
                }
                for (tag, outcome) in all(&mut driver) {
                    prop_assert_eq!(outcome, Outcome::Done);
                    let place = out.iter().position(|t| *t == tag);
                    out.remove(place.expect("answered and not in flight"));
                    free.push(tag.slot);
                }
            }
        }
        prop_assert_eq!(driver.state(), State::Up);
    }

    #[test]
    fn no_completion_does_harm(
        words in prop::collection::vec((any::<[u32; 4]>(), 0u16..5, any::<bool>()), 1..40),
    ) {
        let (sim, mut driver) = up(Model::default());
        let mut wanted = Vec::new();
        for (slot, (mut words, queue, is_close)) in (0u8..).zip(words) {
            if read(&mut driver, tag(slot)).is_ok() {
                wanted.push(tag(slot));
            }
            driver.ring();
            // Nearly right is worse than noise.
            if is_close && sim.fetched() != 0 {
                let pending = sim.0.borrow().pending[0].clone();
                words[3] = words[3] & 0xfffe_0000 | u32::from(pending.id) ^ (words[0] & 1);
                words[2] = u32::from(queue) << 16 | words[2] & 63;
            }
            if queue == 0 { continue; }
            sim.post(queue, words);
            for (tag, _) in all(&mut driver) {
                let place = wanted.iter().position(|t| *t == tag);
                wanted.remove(place.expect("answered and not in flight"));
            }
            while let State::Sick(_) = driver.state() {
                match driver.watch() {
                    Health::Sick(_) => restart(&mut driver).unwrap(),
                    Health::Lost => driver.lose(),
                    Health::Fine => {}
                }
                for (tag, _) in all(&mut driver) {
                    let place = wanted.iter().position(|t| *t == tag);
                    wanted.remove(place.expect("answered and not in flight"));
                }
            }
        }
        driver.lose();
        for (tag, outcome) in all(&mut driver) {
            prop_assert_eq!(outcome, Outcome::Failed);
            let place = wanted.iter().position(|t| *t == tag);
            wanted.remove(place.expect("answered and not in flight"));
        }
        prop_assert!(wanted.is_empty() && driver.is_idle());
    }
}

#[test]
fn a_completion_that_comes_twice_is_a_fault_and_everything_else_is_answered() {
    let (sim, mut driver) = up(Model::default());
    for slot in [0, 4, 8] {
        read(&mut driver, tag(slot)).unwrap();
    }
    driver.ring();
    let id = sim.0.borrow().pending[0].id;
    sim.end(0);
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Done)]);
    sim.post(1, [0, 0, 1 << 16, id.into()]);
    assert_eq!(all(&mut driver), []);
    let fault = Sick::Fault(Fault::NoSuchCommand { queue: 1, id });
    assert_eq!(driver.state(), State::Sick(fault));
    assert_eq!(read(&mut driver, tag(12)), Err(Busy));
    assert_eq!(driver.watch(), Health::Sick(fault));
    restart(&mut driver).unwrap();
    assert_eq!((sim.fetched(), sim.0.borrow().resets), (2, 1));
    sim.end_all();
    assert_eq!(all(&mut driver).len(), 2);
    assert!(driver.is_idle());
}

#[test]
fn a_completion_that_comes_late_does_not_answer_the_next_command_in_its_place() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, tag(0)).unwrap();
    driver.ring();
    let id = sim.0.borrow().pending[0].id;
    sim.end(0);
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Done)]);
    read(&mut driver, tag(4)).unwrap();
    driver.ring();
    sim.post(1, [0, 0, 1 << 16, id.into()]);
    assert_eq!(all(&mut driver), []);
    let fault = Sick::Fault(Fault::NoSuchCommand { queue: 1, id });
    assert_eq!(driver.state(), State::Sick(fault));
}

#[test]
fn a_completion_for_nothing_is_found_when_its_interrupt_comes_or_the_next_command() {
    for is_heard in [true, false] {
        let (sim, mut driver) = up(Model::default());
        read(&mut driver, tag(1)).unwrap();
        driver.ring();
        sim.end_all();
        assert_eq!(all(&mut driver), [(tag(1), Outcome::Done)]);
        sim.post(2, [0, 0, 2 << 16, 0x77]);
        assert_eq!((all(&mut driver), driver.state()), (vec![], State::Up), "nobody told of it");
        if is_heard {
            driver.heard(1);
        } else {
            read(&mut driver, tag(1)).unwrap();
        }
        assert_eq!(all(&mut driver), []);
        let fault = Fault::NoSuchCommand { queue: 2, id: 0x77 };
        assert_eq!(driver.state(), State::Sick(Sick::Fault(fault)), "{is_heard}");
    }
}

#[test]
fn other_queues_and_places_are_faults() {
    for (words, expected) in [
        ([0, 0, 2 << 16, 0], Fault::WrongQueue { queue: 1, named: 2 }),
        ([0, 0, 1 << 16 | 64, 0], Fault::HeadOutside { queue: 1, head: 64 }),
        ([0, 0, 1 << 16, 0x77], Fault::NoSuchCommand { queue: 1, id: 0x77 }),
    ] {
        let (sim, mut driver) = up(Model::default());
        read(&mut driver, tag(0)).unwrap();
        driver.ring();
        sim.post(1, words);
        assert_eq!(driver.poll(), None);
        assert_eq!(driver.state(), State::Sick(Sick::Fault(expected)));
    }
}

#[test]
fn errors_fail_one_command_and_those_that_pass_are_tried_again() {
    for (status, outcome, tries) in [
        (0x281, Outcome::Failed, 1),  // Unrecovered read error.
        (0x80, Outcome::Failed, 1),   // LBA out of range.
        (0x82, Outcome::Done, 2),     // Namespace not ready.
        (0x4082, Outcome::Failed, 1), // The same, and no use to try again.
    ] {
        let (sim, mut driver) = up(Model::default());
        sim.0.borrow_mut().statuses.push_back(status);
        read(&mut driver, tag(0)).unwrap();
        read(&mut driver, tag(4)).unwrap();
        driver.ring();
        let mut ended = Vec::new();
        let mut seen = 0;
        while sim.fetched() != 0 {
            seen += usize::from(sim.0.borrow().pending[0].queue == 1);
            sim.end(0);
            ended.extend(all(&mut driver));
        }
        assert!(ended.contains(&(tag(0), outcome)), "{status:#x}: {ended:?}");
        assert!(ended.contains(&(tag(4), Outcome::Done)) && ended.len() == 2);
        assert_eq!(seen, tries + 1, "{status:#x}");
    }
    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().statuses.extend([0x82; 9]);
    read(&mut driver, tag(0)).unwrap();
    driver.ring();
    let mut ended = Vec::new();
    let mut tries = 0;
    while sim.fetched() != 0 {
        tries += 1;
        sim.end(0);
        ended.extend(all(&mut driver));
    }
    assert_eq!((&ended[..], tries), (&[(tag(0), Outcome::Failed)][..], 3));
}

#[test]
fn a_command_that_is_not_answered_costs_a_reset_and_then_fails() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, tag(0)).unwrap();
    read(&mut driver, tag(1)).unwrap();
    driver.ring();
    driver.cancel(tag(1));
    let mut ticks = 0;
    while driver.watch() == Health::Fine {
        ticks += 1;
        assert!(ticks < 100);
    }
    assert!(matches!(driver.state(), State::Sick(Sick::TimedOut { queue: 1, .. })));
    restart(&mut driver).unwrap();
    assert_eq!(sim.fetched(), 1, "what is not wanted is not tried again");
    assert_eq!(all(&mut driver), [(tag(1), Outcome::Failed)]);
    sim.end_all();
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Done)]);
}

#[test]
fn a_controller_that_is_no_use_is_given_up() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, tag(0)).unwrap();
    driver.ring();
    let mut resets = 0;
    loop {
        match driver.watch() {
            Health::Fine => {}
            Health::Sick(_) => {
                resets += 1;
                restart(&mut driver).unwrap();
                assert!(resets < 20);
            }
            Health::Lost => break,
        }
        if !all(&mut driver).is_empty() {
            read(&mut driver, tag(0)).unwrap();
            driver.ring();
        }
    }
    driver.lose();
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Failed)]);
    read(&mut driver, tag(9)).unwrap();
    assert_eq!(all(&mut driver), [(tag(9), Outcome::Failed)]);
    assert_eq!(driver.state(), State::Lost);
    drop(sim);
}

#[test]
fn unplugged_fatal_and_stuck() {
    let (sim, mut driver) = up(Model::default());
    read(&mut driver, tag(0)).unwrap();
    driver.ring();
    sim.0.borrow_mut().evil = Evil::Gone;
    assert_eq!(driver.watch(), Health::Lost);
    assert_eq!(all(&mut driver), [], "not before it is off the bus");
    driver.lose();
    assert_eq!(all(&mut driver), [(tag(0), Outcome::Failed)]);

    let (sim, mut driver) = up(Model::default());
    sim.0.borrow_mut().evil = Evil::Fatal;
    assert_eq!(driver.watch(), Health::Sick(Sick::Fatal));
    driver.stop(&Clock::default()).unwrap();
    assert_eq!(driver.start(&Clock::default()), Err(Failure::Fatal));

    for (evil, failure) in [
        (Evil::Stuck, Failure::NotReady),
        (Evil::Silent, Failure::Silent { opcode: 6 }),
        (Evil::Gone, Failure::Gone),
    ] {
        let (sim, mut driver) = up(Model::default());
        sim.0.borrow_mut().evil = evil;
        assert_eq!(restart(&mut driver), Err(failure), "{evil:?}");
    }
}

#[test]
fn a_disk_that_changed_is_not_the_same_disk() {
    for change in [
        |model: &mut Model| model.blocks = 128,
        |model: &mut Model| model.shift = 12,
        |model: &mut Model| model.queues = 2,
    ] {
        let (sim, mut driver) = up(Model::default());
        change(&mut sim.0.borrow_mut().model);
        assert_eq!(restart(&mut driver), Err(Failure::Changed));
    }
}

#[test]
fn too_little_memory_is_said() {
    let sim = Sim::new(Model::default(), 13);
    assert!(matches!(Controller::new(sim.clone(), sim.memory(), 4), Err(Failure::Memory)));
    let sim = Sim::new(Model::default(), 14);
    let driver = Controller::new(sim.clone(), sim.memory(), 4);
    assert!(driver.is_ok());
    assert!(matches!(Controller::new(sim.clone(), sim.memory(), 0), Err(Failure::Memory)));
}
