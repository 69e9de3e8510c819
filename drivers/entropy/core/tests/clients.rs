//! Guests that ask for entropy: what they get, whose turn it is, and what the greedy and the
//! hostile get.

use core::sync::atomic::AtomicU64;

use cloister_entropy_core::{Client, OFFER, Pool, QUEUE_SIZE, TURN_BYTES, TURN_REQUESTS};
use cloister_virtio::{Chain, Change, Device, Rule, Worker};
use cloister_virtio_testing::{Driver, Monitor, TestRam, page};

const BUFFERS: u64 = 0x8000;

struct Guest {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    ram: TestRam,
}

impl Guest {
    fn new() -> Guest {
        Guest { words: page(), bells: page(), ram: TestRam::new(1 << 20) }
    }

    fn monitor(&self) -> Monitor<'_> {
        Monitor::new(&self.words, &self.bells, 3)
    }

    fn client(&self) -> Client<'_, &TestRam> {
        let worker = Worker::new(&self.words, &self.bells, 3, &OFFER).unwrap();
        Client::new(Device::new(worker, &self.ram, QUEUE_SIZE))
    }

    /// The device goes live with an empty queue.
    fn start(&self, client: &mut Client<'_, &TestRam>, pool: &Pool) -> Driver {
        let driver = Driver::new(0x1000, QUEUE_SIZE);
        self.monitor().reset();
        assert_eq!(client.look(pool), Change::Reset);
        self.ram.poke(0x1000, &[0; 0x1000]);
        self.monitor().live(0, &[driver.record()]);
        assert_eq!(client.look(pool), Change::Live);
        driver
    }
}

fn pool() -> Pool {
    let mut pool = Pool::default();
    pool.stir(&[1, 2, 3, 4]);
    pool
}

#[test]
fn a_guest_gets_bytes_that_are_not_the_ones_before() {
    let (guest, mut pool) = (Guest::new(), pool());
    let mut client = guest.client();
    let mut driver = guest.start(&mut client, &pool);
    let mut seen = Vec::new();
    for len in [1u32, 3, 64, 255, 256, 257, 1000] {
        driver.add(&guest.ram, &[(BUFFERS, len, true), (BUFFERS + 0x1000, len, true)]).unwrap();
        guest.monitor().ring(0);
        client.look(&pool);
        client.turn(&mut pool, &mut Chain::default());
        assert_eq!(driver.used(&guest.ram).map(|used| used.1), Some(2 * len));
        for at in [BUFFERS, BUFFERS + 0x1000] {
            let bytes = guest.ram.peek(at, len as usize);
            assert!(len < 64 || !seen.contains(&bytes));
            assert!(len < 64 || bytes.windows(8).all(|eight| eight != [0; 8]));
            assert_eq!(guest.ram.peek(at + u64::from(len), 1), [0], "a byte beyond the buffer");
            guest.ram.poke(at, &vec![0; len as usize]);
            seen.push(bytes);
        }
        assert_eq!(guest.monitor().take_pending(), 1);
        assert!(client.device().take_wake());
    }
}

#[test]
fn nobody_is_looked_at_without_a_doorbell() {
    let (guest, mut pool) = (Guest::new(), pool());
    let mut client = guest.client();
    let mut driver = guest.start(&mut client, &pool);
    assert!(!client.turn(&mut pool, &mut Chain::default()) && !client.listen());
    driver.add(&guest.ram, &[(BUFFERS, 8, true)]).unwrap();
    let before = guest.ram.accesses();
    client.look(&pool);
    client.turn(&mut pool, &mut Chain::default());
    assert_eq!(guest.ram.accesses(), before);
    // Before sleeping the worker sees it all the same.
    assert!(client.listen());
    client.turn(&mut pool, &mut Chain::default());
    assert_eq!(driver.used(&guest.ram), Some((0, 8)));
}

#[test]
fn however_much_one_guest_asks_another_waits_for_one_turn() {
    let (greedy, modest, mut pool) = (Guest::new(), Guest::new(), pool());
    let (mut first, mut second) = (greedy.client(), modest.client());
    let mut asks = greedy.start(&mut first, &pool);
    let mut rarely = modest.start(&mut second, &pool);
    let mut chain = Chain::default();
    let (mut given, mut most) = (0, (0, 0));
    for round in 0..250u32 {
        // The greedy guest's queue is always full, of large requests and then of small ones.
        let len = if round < 100 { 0x8000 } else { 1 };
        while asks.add(&greedy.ram, &[(BUFFERS, len, true)]).is_some() {}
        rarely.add(&modest.ram, &[(BUFFERS, 64, true)]).unwrap();
        greedy.monitor().ring(0);
        modest.monitor().ring(0);
        first.look(&pool);
        second.look(&pool);
        assert!(first.turn(&mut pool, &mut chain), "the greedy guest wants another turn");
        second.turn(&mut pool, &mut chain);
        assert_eq!(rarely.used(&modest.ram).map(|used| used.1), Some(64), "round {round}");
        let (mut bytes, mut requests) = (0, 0);
        while let Some((_, written)) = asks.used(&greedy.ram) {
            assert!(written > 0);
            (bytes, requests) = (bytes + written as usize, requests + 1);
        }
        assert!(bytes <= TURN_BYTES && requests <= TURN_REQUESTS, "{bytes} in {requests}");
        most = (bytes.max(most.0), requests.max(most.1));
        given += bytes;
    }
    assert_eq!(most, (TURN_BYTES, TURN_REQUESTS), "both limits are met");
    assert!(given > 100 * TURN_BYTES / 2, "the greedy guest starves: {given} bytes");
}

#[test]
fn a_request_that_the_device_should_read_is_a_broken_rule() {
    let (guest, mut pool) = (Guest::new(), pool());
    let mut client = guest.client();
    for wrong in [&[(BUFFERS, 8, false)][..], &[(BUFFERS, 8, false), (BUFFERS + 8, 8, true)]] {
        let mut driver = guest.start(&mut client, &pool);
        driver.add(&guest.ram, wrong).unwrap();
        assert!(!client.turn(&mut pool, &mut Chain::default()));
        assert_eq!(client.device().take_broken(), Some(Rule::Direction));
        assert!(guest.monitor().is_broken());
        assert_eq!(driver.used(&guest.ram), None);
    }
}

#[test]
fn without_a_seed_the_device_refuses_to_go_live() {
    let (guest, mut pool) = (Guest::new(), Pool::default());
    let mut client = guest.client();
    let mut driver = guest.start(&mut client, &pool);
    assert!(guest.monitor().is_broken());
    assert_eq!(client.device().take_broken(), None, "the guest has broken nothing");
    driver.add(&guest.ram, &[(BUFFERS, 8, true)]).unwrap();
    guest.monitor().ring(0);
    client.look(&pool);
    assert!(!client.turn(&mut pool, &mut Chain::default()) && !client.listen());
    assert_eq!((driver.used(&guest.ram), guest.ram.accesses()), (None, 0));
}
