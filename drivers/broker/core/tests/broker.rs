//! A broker between a guest and a server: every block is what it has to be, whoever dies.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cloister_broker_core::Table;
use cloister_virtio::features;
use support::guest::Guest;
use support::memory::Death;
use support::server::Server;
use support::{Rng, World, run};

/// Kinds of the guest's rings.
const KINDS: [u64; 3] = [0, features::EVENT_IDX, features::RING_PACKED];
const NEVER: fn(&Guest<'_>, &mut Server<'_>) -> bool = |_, _| false;

#[test]
fn every_block_is_what_it_has_to_be() {
    for features in KINDS {
        for seed in 0..6 {
            let world = World::new();
            let mut server = Server::new(&world, seed);
            let mut guest = Guest::new(&world, features, seed, 200);
            let mut table = Table::default();
            let mut broker = world.broker(&mut server, &mut table);
            guest.live();
            guest.submit();
            assert!(!run(&mut broker, &mut server, &mut guest, NEVER));
            assert_eq!((guest.completed, guest.in_flight()), (200, 0), "{features:#x} {seed}");
            // Long ones went in parts.
            assert!(server.requests > 200 && server.flushes > 0, "{}", server.requests);
            assert_eq!((world.ram.outside(), world.window.outside()), (0, 0));
        }
    }
}

#[test]
fn a_bad_block_fails_the_whole_request_and_no_other() {
    for seed in 0..6 {
        let world = World::new();
        let mut server = Server::new(&world, seed);
        let mut guest = Guest::new(&world, 0, seed, 200);
        (server.bad, guest.bad) = (Some(77), Some(77));
        let mut table = Table::default();
        let mut broker = world.broker(&mut server, &mut table);
        guest.live();
        guest.submit();
        run(&mut broker, &mut server, &mut guest, NEVER);
        assert_eq!((guest.completed, guest.in_flight()), (200, 0));
        assert!(guest.failed > 2, "{}", guest.failed);
    }
}

#[test]
fn a_server_that_dies_takes_the_window_over_itself() {
    for features in KINDS {
        let world = World::new();
        let mut server = Server::new(&world, 3);
        let mut guest = Guest::new(&world, features, 5, 300);
        let mut table = Table::default();
        let mut broker = world.broker(&mut server, &mut table);
        guest.live();
        guest.submit();
        let mut rng = Rng(9);
        loop {
            let mut turns = rng.below(40);
            let stopped = run(&mut broker, &mut server, &mut guest, |_, _| {
                turns = turns.saturating_sub(1);
                turns == 0
            });
            if !stopped {
                break;
            }
            server.die();
        }
        assert_eq!((guest.completed, guest.in_flight()), (300, 0), "{features:#x}");
        assert!(server.deaths > 20, "{}", server.deaths);
    }
}

/// Works with brokers that live for so many stores each, and a last one that dies of nothing.
/// Whether one before the last lived.
fn survive(features: u64, lives: &[u64]) -> bool {
    let world = World::new();
    let mut server = Server::new(&world, 11);
    let mut guest = Guest::new(&world, features, 13, 24);
    guest.live();
    guest.submit();
    for stores in lives.iter().copied().chain([u64::MAX]) {
        world.fuse.0.set(stores);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            // Of no use to anybody once its broker is dead.
            let table = Box::leak(Box::default());
            let mut broker = world.broker(&mut server, table);
            run(&mut broker, &mut server, &mut guest, NEVER);
        }));
        world.fuse.0.set(u64::MAX);
        match ended {
            Ok(()) => {
                let is_all = (guest.completed, guest.in_flight()) == (24, 0);
                assert!(is_all, "{features:#x}: lives of {lives:?} stores, {}", guest.completed);
                return stores != u64::MAX;
            }
            Err(reason) if reason.is::<Death>() => {}
            Err(reason) => {
                println!("{features:#x}: lives of {lives:?} stores");
                resume_unwind(reason);
            }
        }
    }
    unreachable!("the last one does not die");
}

#[test]
fn a_broker_may_die_at_any_store() {
    for features in KINDS {
        let deaths = (0..).take_while(|stores| !survive(features, &[*stores])).count();
        println!("{features:#x}: {deaths} deaths");
        assert!(deaths > 200, "{deaths}");
    }
}

#[test]
fn a_broker_may_die_again_while_it_takes_over() {
    for features in KINDS {
        for first in (150..450).step_by(29) {
            for second in (0..160).step_by(7) {
                survive(features, &[first, second, second % 61]);
            }
        }
    }
}
