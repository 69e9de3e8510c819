//! The driver against a simulated device that means harm, is silent, changes or goes away.

#[path = "sim/mod.rs"]
mod sim;

use cloister_block::{Busy, Controller as _, Disk, Operation, Outcome, Segment, Tag};
use cloister_block_testing::Clock;
use cloister_virtio_blk_core::{Failure, Fault, Health, Sick, State};
use proptest::prelude::*;
use sim::driver::{all, at, client_bytes, command, read, restart, tag, up};
use sim::{Evil, Model, RANGES, Sim};

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
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
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
