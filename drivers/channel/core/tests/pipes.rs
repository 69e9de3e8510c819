//! Two guests and the pipe between them: what arrives, what waits, and what is dropped.

use core::sync::atomic::AtomicU64;

use cloister_channel_core::{OFFER, Pipe, QUEUE_SIZE, TURN_BYTES, TURN_MESSAGES};
use cloister_virtio::{Device, Rule, Worker, features};
use cloister_virtio_testing::{Driver, Monitor, TestRam, page};
use proptest::prelude::*;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Where buffers are: slot `n` of a queue at `BUFFERS + queue * AREA + n * SLOT`.
const BUFFERS: u64 = 0x1_0000;
const AREA: u64 = 0x10_0000;
const SLOT: u64 = 0x1_0000;

struct Side {
    words: Vec<AtomicU64>,
    bells: Vec<AtomicU64>,
    ram: TestRam,
}

impl Side {
    fn new() -> Side {
        Side { words: page(), bells: page(), ram: TestRam::new(1 << 22) }
    }

    fn device(&self) -> Device<'_, &TestRam, 2> {
        let worker = Worker::new(&self.words, &self.bells, 0, &OFFER).unwrap();
        Device::new(worker, &self.ram, QUEUE_SIZE)
    }
}

/// A guest with a console driver.
struct Guest<'a> {
    side: &'a Side,
    monitor: Monitor<'a>,
    queues: [Driver; 2],
    /// For each queue, by head: where its buffer is.
    slots: [Vec<u64>; 2],
    /// Where buffers are free.
    free: [Vec<u64>; 2],
}

impl<'a> Guest<'a> {
    fn new(side: &'a Side) -> Guest<'a> {
        Guest {
            side,
            monitor: Monitor::new(&side.words, &side.bells, 0),
            queues: [Driver::new(0x1000, QUEUE_SIZE), Driver::new(0x2000, QUEUE_SIZE)],
            slots: [vec![0; QUEUE_SIZE.into()], vec![0; QUEUE_SIZE.into()]],
            free: slots(),
        }
    }

    fn reset(&mut self) {
        self.monitor.reset();
    }

    fn start(&mut self, features: u64) {
        self.queues = [Driver::new(0x1000, QUEUE_SIZE), Driver::new(0x2000, QUEUE_SIZE)];
        self.free = slots();
        self.side.ram.poke(0x1000, &[0; 0x2000]);
        self.monitor.live(features, &[self.queues[0].record(), self.queues[1].record()]);
    }

    fn add(&mut self, queue: usize, len: u32) -> Option<u64> {
        let at = *self.free[queue].last()?;
        let head = self.queues[queue].add(&self.side.ram, &[(at, len, queue == RECEIVE)])?;
        self.free[queue].pop();
        self.slots[queue][usize::from(head)] = at;
        self.monitor.ring(queue);
        Some(at)
    }

    /// Sends a message; false if the queue is full.
    fn send(&mut self, bytes: &[u8]) -> bool {
        // The buffer is filled before it is made available: nothing runs in between here.
        let at = self.add(TRANSMIT, bytes.len() as u32);
        at.inspect(|at| self.side.ram.poke(*at, bytes)).is_some()
    }

    /// Gives a buffer for what arrives; false if the queue is full.
    fn give(&mut self, len: u32) -> bool {
        self.add(RECEIVE, len).is_some()
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let (at, len) = self.used(RECEIVE)?;
        Some(self.side.ram.peek(at, len as usize))
    }

    /// Messages that came back from the device.
    fn sent(&mut self) -> usize {
        core::iter::from_fn(|| self.used(TRANSMIT)).count()
    }

    fn used(&mut self, queue: usize) -> Option<(u64, u32)> {
        let (head, len) = self.queues[queue].used(&self.side.ram)?;
        let at = self.slots[queue][usize::from(head)];
        self.free[queue].push(at);
        Some((at, len))
    }
}

/// The places for buffers of both queues.
fn slots() -> [Vec<u64>; 2] {
    let of = |queue| (0..u64::from(QUEUE_SIZE)).map(move |n| BUFFERS + queue * AREA + n * SLOT);
    [of(0).collect(), of(1).collect()]
}

fn pipe<'a>(sides: &'a [Side; 2]) -> Pipe<'a, &'a TestRam> {
    Pipe::new(sides[0].device(), sides[1].device())
}

/// Runs the pipe as its task does, until it would sleep.
fn run(pipe: &mut Pipe<'_, &TestRam>) {
    for _ in 0..10_000 {
        pipe.look();
        if !(pipe.turn() || pipe.listen()) {
            return;
        }
    }
    panic!("the pipe never sleeps");
}

fn both(sides: &[Side; 2]) -> (Pipe<'_, &TestRam>, [Guest<'_>; 2]) {
    let (mut pipe, mut guests) = (pipe(sides), [Guest::new(&sides[0]), Guest::new(&sides[1])]);
    guests.iter_mut().for_each(Guest::reset);
    run(&mut pipe);
    guests.iter_mut().for_each(|guest| guest.start(features::RINGS));
    run(&mut pipe);
    (pipe, guests)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn what_one_sends_the_other_receives() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    assert!(a.give(64) && b.give(64) && a.send(b"to b") && b.send(b"to a"));
    run(&mut pipe);
    assert_eq!(a.receive().as_deref(), Some(&b"to a"[..]));
    assert_eq!(b.receive().as_deref(), Some(&b"to b"[..]));
    assert_eq!([a.sent(), b.sent()], [1, 1]);
    assert_eq!([a.monitor.take_pending(), b.monitor.take_pending()], [0b11, 0b11]);
    assert!(pipe.devices().into_iter().all(Device::take_wake));
}

#[test]
fn messages_share_no_buffer_and_large_ones_take_several() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    for _ in 0..8 {
        assert!(b.give(1000));
    }
    assert!(a.send(&text(1)) && a.send(&text(2500)) && a.send(&text(1000)) && a.send(&text(7)));
    run(&mut pipe);
    let received: Vec<Vec<u8>> = core::iter::from_fn(|| b.receive()).collect();
    let lengths: Vec<usize> = received.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1, 1000, 1000, 500, 1000, 7]);
    assert_eq!(received[1..4].concat(), text(2500));
    assert_eq!(a.sent(), 4);
}

#[test]
fn a_turn_is_bounded_in_messages_and_bytes() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    while a.send(b"x") && b.give(1) {}
    pipe.look();
    assert!(pipe.turn(), "more is there");
    assert_eq!((a.sent(), core::iter::from_fn(|| b.receive()).count()), (8, TURN_MESSAGES));
    run(&mut pipe);
    assert_eq!(core::iter::from_fn(|| b.receive()).count(), usize::from(QUEUE_SIZE) - 8);
    a.sent();
    while a.send(&text(TURN_BYTES / 4 + 1)) && b.give(TURN_BYTES as u32) {}
    pipe.look();
    assert!(pipe.turn(), "more is there");
    assert_eq!(core::iter::from_fn(|| b.receive()).count(), 3, "the fourth is on its way");
}

#[test]
fn a_flood_one_way_does_not_hold_up_the_other_way() {
    for flooded in [0, 1] {
        let sides = [Side::new(), Side::new()];
        let (mut pipe, mut guests) = both(&sides);
        while guests[flooded].send(b"flood") && guests[1 - flooded].give(8) {}
        assert!(guests[flooded].give(8) && guests[1 - flooded].send(b"reply"));
        pipe.look();
        assert!(pipe.turn(), "the flood goes on");
        assert_eq!(guests[flooded].receive().as_deref(), Some(&b"reply"[..]));
    }
}

#[test]
fn without_buffers_the_senders_chains_stay() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    let mut messages = 0;
    while a.send(&[messages; 10]) {
        messages += 1;
    }
    run(&mut pipe);
    assert_eq!((u16::from(messages), a.sent()), (QUEUE_SIZE, 0), "none is taken");
    for number in 0..messages {
        assert!(b.give(10));
        run(&mut pipe);
        assert_eq!((b.receive(), a.sent()), (Some(vec![number; 10]), 1));
    }
    // Half a message has gone when the buffers are short; the rest follows.
    assert!(a.send(&text(30)) && b.give(20));
    run(&mut pipe);
    assert_eq!((b.receive().map(|bytes| bytes.len()), a.sent()), (Some(20), 0));
    assert!(b.give(20));
    run(&mut pipe);
    assert_eq!((b.receive(), a.sent()), (Some(text(30)[20..].to_vec()), 1));
}

#[test]
fn nothing_is_sent_to_an_end_that_is_not_there() {
    let sides = [Side::new(), Side::new()];
    let mut pipe = pipe(&sides);
    let mut guests = [Guest::new(&sides[0]), Guest::new(&sides[1])];
    guests.iter_mut().for_each(Guest::reset);
    guests[0].start(0);
    run(&mut pipe);
    assert!(guests[0].send(b"early"));
    run(&mut pipe);
    assert_eq!(guests[0].sent(), 0);
    guests[1].start(0);
    assert!(guests[1].give(64));
    run(&mut pipe);
    assert_eq!(guests[1].receive().as_deref(), Some(&b"early"[..]));
}

#[test]
fn a_reset_drops_the_message_on_its_way_and_no_other() {
    for resets_sender in [true, false] {
        let sides = [Side::new(), Side::new()];
        let (mut pipe, [mut a, mut b]) = both(&sides);
        // Of the first message 20 bytes are used up, of the buffer behind it 5.
        assert!(a.send(&text(25)) && a.send(b"next") && b.give(20));
        run(&mut pipe);
        assert_eq!(b.receive().map(|bytes| bytes.len()), Some(20));
        let end = if resets_sender { &mut a } else { &mut b };
        end.reset();
        run(&mut pipe);
        let ram = &end.side.ram;
        ram.lock(true);
        run(&mut pipe);
        ram.lock(false);
        assert_eq!(ram.trespasses(), 0);
        end.start(features::RINGS);
        run(&mut pipe);
        if resets_sender {
            assert!(a.send(b"next"));
        } else {
            assert_eq!(a.sent(), 1, "the broken message comes back");
        }
        assert!(b.give(20));
        run(&mut pipe);
        assert_eq!(b.receive().as_deref(), Some(&b"next"[..]), "{resets_sender}");
        assert_eq!(a.sent(), 1);
    }
}

#[test]
fn a_sender_that_dies_in_the_middle_leaves_a_buffer_that_begins_anew() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    // More than a turn: the pipe stops in the middle, with a buffer half full.
    assert!(a.send(&vec![b'x'; TURN_BYTES + 100]) && b.give(2 * TURN_BYTES as u32));
    pipe.look();
    assert!(pipe.turn());
    assert_eq!(b.receive(), None);
    a.reset();
    pipe.look();
    a.start(0);
    assert!(a.send(b"anew"));
    run(&mut pipe);
    assert_eq!(b.receive().as_deref(), Some(&b"anew"[..]));
}

#[test]
fn a_hostile_end_is_dead_and_the_other_lives_on() {
    for (queue, len, written) in [(TRANSMIT, 8, true), (RECEIVE, 8, false)] {
        let sides = [Side::new(), Side::new()];
        let (mut pipe, [mut a, mut b]) = both(&sides);
        assert!(a.give(64) && b.give(64) && a.send(b"sent") && b.send(b"kept"));
        let bad = &mut a.queues[queue];
        // Its own queue first: a good chain of that queue is in front of it.
        bad.add(&sides[0].ram, &[(BUFFERS, len, written)]).unwrap();
        assert!(b.send(b"kept, too"));
        a.monitor.ring(queue);
        run(&mut pipe);
        let [first, second] = pipe.devices();
        assert_eq!(first.take_broken(), Some(Rule::Direction));
        assert_eq!(second.take_broken(), None);
        assert!(a.monitor.is_broken() && !b.monitor.is_broken());
        let before = sides[0].ram.accesses();
        run(&mut pipe);
        assert_eq!(sides[0].ram.accesses(), before, "the dead end's memory is left alone");
        a.reset();
        run(&mut pipe);
        a.start(0);
        assert!(a.give(64) && a.give(64));
        run(&mut pipe);
        let received: Vec<_> = core::iter::from_fn(|| a.receive()).collect();
        assert!(received.contains(&b"kept, too".to_vec()), "{received:?}");
    }
}

#[test]
fn a_message_that_waits_dies_with_its_sender() {
    let sides = [Side::new(), Side::new()];
    let (mut pipe, [mut a, mut b]) = both(&sides);
    assert!(a.send(b"waits"));
    run(&mut pipe);
    a.queues[RECEIVE].set_available(&sides[0].ram, QUEUE_SIZE + 1);
    a.monitor.ring(RECEIVE);
    assert!(b.send(b"finds a dead end"));
    run(&mut pipe);
    assert_eq!(pipe.devices()[0].take_broken(), Some(Rule::AvailableTooFar));
    let before = sides[0].ram.accesses();
    assert!(b.give(64));
    run(&mut pipe);
    assert_eq!((b.receive(), sides[0].ram.accesses()), (None, before));
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize, usize),
    Give(usize, u32),
    Run,
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2usize, 1..5000usize).prop_map(|(who, len)| Step::Send(who, len)),
        3 => (0..2usize, 1..5000u32).prop_map(|(who, len)| Step::Give(who, len)),
        2 => Just(Step::Run),
        2 => Just(Step::Turn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// The slow model: two queues of bytes.
    #[test]
    fn nothing_is_lost_or_changed_between_two_that_live(
        steps in proptest::collection::vec(step(), 1..80),
        features in prop_oneof![Just(0), Just(features::RINGS)],
    ) {
        let sides = [Side::new(), Side::new()];
        let (mut pipe, mut guests) = (pipe(&sides), [Guest::new(&sides[0]), Guest::new(&sides[1])]);
        guests.iter_mut().for_each(|guest| guest.start(features));
        let mut sent = [Vec::new(), Vec::new()];
        let mut received = [Vec::new(), Vec::new()];
        let mut count = 0u8;
        let collect = |guests: &mut [Guest<'_>; 2], received: &mut [Vec<u8>; 2]| {
            for (guest, bytes) in guests.iter_mut().zip(received) {
                while let Some(more) = guest.receive() {
                    bytes.extend(more);
                }
                guest.sent();
            }
        };
        for step in steps {
            match step {
                Step::Send(who, len) => {
                    let bytes: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_add(count)).collect();
                    count = count.wrapping_add(1);
                    if guests[who].send(&bytes) {
                        sent[who].extend(bytes);
                    }
                }
                Step::Give(who, len) => {
                    guests[who].give(len);
                }
                Step::Run => run(&mut pipe),
                Step::Turn => {
                    pipe.look();
                    pipe.turn();
                }
            }
            collect(&mut guests, &mut received);
        }
        // Whatever waits arrives when there are buffers.
        for _ in 0..200 {
            guests.iter_mut().for_each(|guest| while guest.give(5000) {});
            run(&mut pipe);
            collect(&mut guests, &mut received);
        }
        prop_assert_eq!(&received[0], &sent[1]);
        prop_assert_eq!(&received[1], &sent[0]);
        prop_assert_eq!(sides[0].ram.outside() + sides[1].ram.outside(), 0);
    }
}
