//! What is not as it should be: a server that breaks rules or gives up, a guest that resets its
//! disk under load, a disk that is another one than before.

mod support;

use std::sync::atomic::Ordering;

use cloister_broker_core::{Broker, Link, Loss, State, Table};
use cloister_guest_abi::disk;
use cloister_virtio::wire;
use support::guest::Guest;
use support::memory::Memory;
use support::server::Server;
use support::{BLOCKS, World, run};

/// The used ring of a window, and the status of its first slot.
const USED: u64 = 0xa00;
const STATUS: u64 = 0x1000 + 32;

/// Uses these slots: first descriptor and length of each.
fn used(world: &World, entries: &[(u32, u32)]) {
    for (place, (head, len)) in (0u64..).zip(entries) {
        world.window.poke(USED + 4 + 8 * place, &head.to_le_bytes());
        world.window.poke(USED + 8 + 8 * place, &len.to_le_bytes());
    }
    world.window.poke(USED + 2, &(entries.len() as u16).to_le_bytes());
}

/// After a reset by the guest everything works again, and the server had to agree to that.
fn recover<'w>(
    world: &'w World,
    broker: &mut Broker<'w, Memory<'w>>,
    server: &mut Server<'w>,
    guest: &mut Guest<'w>,
) {
    world.monitor().reset();
    broker.work();
    assert!(!world.monitor().is_answered(), "before the server has answered");
    server.step(true);
    broker.work();
    assert!(world.monitor().is_answered());
    guest.forget(&server.disk);
    guest.live();
    (guest.left, guest.completed) = (50, 0);
    broker.work();
    guest.submit();
    run(broker, server, guest, |_, _| false);
    assert_eq!((guest.completed, guest.in_flight()), (50, 0));
    assert!(!world.monitor().is_broken());
}

#[test]
fn a_used_ring_against_the_rules_ends_the_device_and_not_the_broker() {
    type Case = (&'static str, &'static [(u32, u32)], u8);
    let cases: [Case; 9] = [
        ("more requests are used than are in flight", &[(0, 1); 7], 0),
        ("more requests are used than are in flight", &[(0, 1); 128], 0),
        ("a request is used that is not in flight", &[(1, 1)], 0),
        ("a request is used that is not in flight", &[(123, 1)], 0),
        ("a request is used that is not in flight", &[(u32::MAX, 1)], 0),
        ("a request is used that is not in flight", &[(0, 1), (0, 1)], 0),
        ("more bytes are written than there is room for", &[(0, u32::MAX)], 0),
        ("a request has no status that there is", &[(0, 1)], 0xff),
        ("a request has no status that there is", &[(0, 1)], 3),
    ];
    for (rule, entries, status) in cases {
        let world = World::new();
        let mut server = Server::new(&world, 1);
        let mut guest = Guest::new(&world, 0, 21, 6);
        let mut table = Table::default();
        let mut broker = world.broker(&mut server, &mut table);
        guest.live();
        guest.submit();
        broker.work();
        assert_eq!(broker.link().state(), State::Live);
        used(&world, entries);
        world.window.poke(STATUS, &[status]);
        broker.work();
        assert_eq!(broker.link().take_loss().map(Loss::text), Some(rule), "{entries:?}");
        assert!(world.monitor().is_broken() && broker.device().take_wake(), "{entries:?}");
        // And it stays so, whatever the server does.
        used(&world, &[(0, 1)]);
        broker.work();
        assert_eq!(broker.link().state(), State::Broken);
        recover(&world, &mut broker, &mut server, &mut guest);
    }
}

#[test]
fn a_server_that_gives_up_ends_the_device_until_the_guest_resets_it() {
    let world = World::new();
    let mut server = Server::new(&world, 2);
    let mut guest = Guest::new(&world, 0, 22, 30);
    let mut table = Table::default();
    let mut broker = world.broker(&mut server, &mut table);
    guest.live();
    guest.submit();
    let stopped = run(&mut broker, &mut server, &mut guest, |guest, _| guest.completed > 5);
    assert!(stopped && guest.in_flight() > 0);
    server.refuse();
    broker.work();
    assert_eq!(broker.link().take_loss(), Some(Loss::GivenUp));
    assert!(world.monitor().is_broken() && broker.device().take_wake());
    assert!(!broker.work());
    recover(&world, &mut broker, &mut server, &mut guest);
}

#[test]
fn a_reset_waits_for_the_window_and_leaves_the_guest_alone() {
    for seed in 0..20 {
        let world = World::new();
        let mut server = Server::new(&world, seed);
        let mut guest = Guest::new(&world, 0, seed, 60);
        let mut table = Table::default();
        let mut broker = world.broker(&mut server, &mut table);
        guest.live();
        guest.submit();
        let stopped = run(&mut broker, &mut server, &mut guest, |guest, server| {
            guest.completed > 8 && server.is_busy()
        });
        assert!(stopped);
        world.monitor().reset();
        world.ram.lock(true);
        broker.work();
        while server.is_busy() {
            assert!(!world.monitor().is_answered(), "with requests at the disk");
            server.step(false);
            broker.work();
        }
        assert!(world.monitor().is_answered());
        assert!(!broker.work());
        assert_eq!(world.ram.trespasses(), 0, "seed {seed}");
        world.ram.lock(false);
        guest.forget(&server.disk);
        guest.live();
        guest.left = 50;
        let before = guest.completed;
        guest.submit();
        run(&mut broker, &mut server, &mut guest, |_, _| false);
        assert_eq!((guest.completed - before, guest.in_flight()), (50, 0), "seed {seed}");
    }
}

#[test]
fn the_guest_sees_the_platforms_disk() {
    let world = World::new();
    let mut server = Server::new(&world, 4);
    let mut table = Table::default();
    let mut broker = world.broker(&mut server, &mut table);
    let config = || -> Vec<u8> {
        let words = &world.page[wire::CONFIG..wire::WORDS];
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
    };
    assert_eq!(config()[..disk::CONFIG_BYTES], disk::config(BLOCKS));
    let transport = disk::features::VERSION_1 | disk::features::ACCESS_PLATFORM;
    let offers = world.page[wire::OFFERS].load(Ordering::Relaxed);
    assert_eq!(offers | transport, disk::features::ALWAYS);
    assert_eq!(world.page[wire::QUEUE_SIZE].load(Ordering::Relaxed), disk::QUEUE_SIZE.into());
    // A server that comes back with another disk.
    let generation = world.page[wire::CONFIG_GENERATION].load(Ordering::Relaxed);
    server.blocks = 128;
    server.die();
    server.step(true);
    broker.work();
    assert_eq!(config()[..disk::CONFIG_BYTES], disk::config(128));
    assert!(world.page[wire::CONFIG_GENERATION].load(Ordering::Relaxed) > generation);
    assert!(broker.device().take_wake());
}

#[test]
fn what_is_no_disk_of_this_platform_is_not_used() {
    let world = World::new();
    let word = |place: usize| &world.window_page[place];
    for (offers, size) in [(0, 128), (u64::MAX, 64), (!disk::features::FLUSH, 128)] {
        let link = Link::new(&world.window_page, world.memory(&world.window));
        let (mut link, _) = link.unwrap();
        word(wire::OFFERS).store(offers, Ordering::Relaxed);
        word(wire::QUEUE_SIZE).store(size, Ordering::Relaxed);
        let order = word(wire::ORDER).load(Ordering::Relaxed);
        word(wire::ANSWER).store(order, Ordering::Relaxed);
        link.look();
        assert_eq!(link.state(), State::Unfit);
        assert_eq!(word(wire::ORDER).load(Ordering::Relaxed), order, "it is not set to work");
    }
}
