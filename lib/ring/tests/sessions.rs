//! Mailboxes between honest peers: order, capacity, restarts of either side, against a slow model.

#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use cloister_ring::{Link, Lost, Mapped, Message, Ready, Ring, SendError, Side, TooSmall, Unsent};
use proptest::prelude::*;

const PAGE_WORDS: usize = 512;

fn region(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn message(number: u64) -> Message {
    Message([number, 1, 2, 3, 4, 5, 6, !number])
}

/// Both sides, ready.
fn pair(words: &[AtomicU64]) -> (Ring<'_, Ready>, Ring<'_, Ready>) {
    let client = Ring::new(words, Side::Client, 0).unwrap();
    let server = Ring::new(words, Side::Server, 0).unwrap();
    meet(client, server)
}

fn meet<'a>(
    client: Ring<'a, Mapped>,
    server: Ring<'a, Mapped>,
) -> (Ring<'a, Ready>, Ring<'a, Ready>) {
    let client = client.handshake(|| ()).unwrap_err();
    let server = server.handshake(|| ()).unwrap_err();
    let client = client.handshake(|| ()).unwrap();
    (client, server.handshake(|| ()).unwrap())
}

#[test]
fn a_region_needs_room_for_one_message_each_way() {
    assert_eq!(Ring::new(&region(31), Side::Client, 0).err(), Some(TooSmall { words: 31 }));
    assert!(Ring::new(&region(32), Side::Client, 0).is_ok());
    assert_eq!(Ring::new(&[], Side::Server, 0).err(), Some(TooSmall { words: 0 }));
}

#[test]
fn a_page_holds_sixteen_messages_each_way_and_refuses_the_next() {
    let words = region(PAGE_WORDS);
    let (mut client, mut server) = pair(&words);
    assert_eq!(client.capacity(), 16);
    for number in 0..16 {
        client.send(&message(number)).unwrap();
        server.send(&message(100 + number)).unwrap();
    }
    assert_eq!(client.send(&message(16)), Err(SendError::Full));
    assert_eq!(server.receive(), Ok(Some(message(0))));
    client.send(&message(16)).unwrap();
    for number in 0..16 {
        assert_eq!(server.receive(), Ok(Some(message(number + 1))));
        assert_eq!(client.receive(), Ok(Some(message(100 + number))));
    }
    assert_eq!((server.receive(), client.receive()), (Ok(None), Ok(None)));
}

#[test]
fn wake_is_called_when_and_only_when_the_peer_should_look_again() {
    let words = region(PAGE_WORDS);
    let mut wakes = 0;
    let client = Ring::new(&words, Side::Client, 0).unwrap();
    let client = client.handshake(|| wakes += 1).unwrap_err();
    let client = client.handshake(|| wakes += 1).unwrap_err();
    assert_eq!(wakes, 1);
    let server = Ring::new(&words, Side::Server, 0).unwrap().handshake(|| wakes += 1).unwrap_err();
    assert_eq!(wakes, 2);
    let _client = client.handshake(|| wakes += 1).unwrap();
    assert_eq!(wakes, 3);
    let _server = server.handshake(|| wakes += 1).unwrap();
    assert_eq!(wakes, 3);
}

#[test]
fn a_restarted_peer_is_gone_until_met_again_and_nothing_old_arrives() {
    let words = region(PAGE_WORDS);
    let (mut client, mut old_server) = pair(&words);
    client.send(&message(1)).unwrap();
    old_server.send(&message(2)).unwrap();
    let server = Ring::new(&words, Side::Server, 1).unwrap().handshake(|| ()).unwrap_err();
    assert_eq!(client.send(&message(3)), Err(SendError::Lost(Lost::Gone)));
    assert_eq!(client.receive(), Err(Lost::Gone));
    let client = client.again().handshake(|| ()).unwrap_err();
    let mut server = server.handshake(|| ()).unwrap();
    let mut client = client.handshake(|| ()).unwrap();
    assert_eq!((server.receive(), client.receive()), (Ok(None), Ok(None)));
    client.send(&message(4)).unwrap();
    assert_eq!(server.receive(), Ok(Some(message(4))));
}

#[test]
fn a_side_that_begins_anew_is_gone_to_its_peer() {
    let words = region(PAGE_WORDS);
    let (client, mut server) = pair(&words);
    let client = client.again().handshake(|| ()).unwrap_err();
    assert_eq!(server.receive(), Err(Lost::Gone));
    let server = server.again().handshake(|| ()).unwrap_err();
    assert!(client.handshake(|| ()).is_ok() && server.handshake(|| ()).is_ok());
}

#[test]
fn a_link_tells_a_loss_once_and_finds_the_peer_again() {
    let words = region(PAGE_WORDS);
    let wake = || ();
    let mut client = Link::new(&words, Side::Client, 0).unwrap();
    assert_eq!(client.send(&message(1), wake), Err(Unsent::NoPeer));
    let mut server = Link::new(&words, Side::Server, 0).unwrap();
    assert_eq!(server.receive(wake), Ok(None));
    client.send(&message(1), wake).unwrap();
    assert_eq!(server.receive(wake), Ok(Some(message(1))));
    let mut server = Link::new(&words, Side::Server, 1).unwrap();
    assert_eq!(server.receive(wake), Ok(None));
    assert_eq!(client.receive(wake), Err(Lost::Gone));
    assert_eq!(client.receive(wake), Ok(None));
    assert_eq!(server.receive(wake), Ok(None));
    client.send(&message(2), wake).unwrap();
    assert_eq!(server.receive(wake), Ok(Some(message(2))));
}

/// One side of the model: a ring in whatever state it is.
enum End<'a> {
    Mapped(Ring<'a, Mapped>),
    Ready(Ring<'a, Ready>),
    Moving,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(bool),
    Receive(bool),
    Restart(bool),
    Begin(bool),
    Shake(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let side = any::<bool>();
    prop_oneof![
        8 => side.prop_map(Step::Send),
        8 => side.prop_map(Step::Receive),
        1 => side.prop_map(Step::Restart),
        1 => side.prop_map(Step::Begin),
        6 => side.prop_map(Step::Shake),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the order of sends, receives and restarts: a message arrives at most once, in
    /// order, whole, in the session in which it was sent, and an honest peer is never retired.
    #[test]
    fn messages_arrive_in_order_or_the_loss_is_told(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let words = region(64);
        let capacity = 2;
        let mut lives = [0, 0];
        let mut next = 0;
        // What the model expects each side to receive. A side that is not ready has sent nothing in
        // the session to come, and whatever it sent before is lost once it announces itself.
        let mut inbox = [VecDeque::new(), VecDeque::new()];
        let side = |index| if index == 0 { Side::Client } else { Side::Server };
        let begin = |index: usize, life| End::Mapped(Ring::new(&words, side(index), life).unwrap());
        let mut ends = [begin(0, 0), begin(1, 0)];
        for step in steps {
            let (Step::Send(at) | Step::Receive(at) | Step::Restart(at) | Step::Begin(at)
                | Step::Shake(at)) = step;
            let (at, peer) = (usize::from(at), usize::from(!at));
            ends[at] = match (step, std::mem::replace(&mut ends[at], End::Moving)) {
                (Step::Restart(_), _) => {
                    lives[at] += 1;
                    begin(at, lives[at])
                }
                (Step::Begin(_), End::Ready(ring)) => End::Mapped(ring.again()),
                (Step::Shake(_), End::Mapped(ring)) => {
                    inbox[peer].clear();
                    ring.handshake(|| ()).map_or_else(End::Mapped, End::Ready)
                }
                (Step::Send(_), End::Ready(mut ring)) => match ring.send(&message(next)) {
                    Ok(()) => {
                        inbox[peer].push_back(next);
                        next += 1;
                        End::Ready(ring)
                    }
                    Err(SendError::Full) => {
                        prop_assert_eq!(inbox[peer].len(), capacity);
                        End::Ready(ring)
                    }
                    Err(SendError::Lost(lost)) => {
                        prop_assert_eq!(lost, Lost::Gone);
                        End::Mapped(ring.again())
                    }
                },
                (Step::Receive(_), End::Ready(mut ring)) => match ring.receive() {
                    Ok(found) => {
                        prop_assert_eq!(found, inbox[at].pop_front().map(message));
                        End::Ready(ring)
                    }
                    Err(lost) => {
                        prop_assert_eq!(lost, Lost::Gone);
                        End::Mapped(ring.again())
                    }
                },
                (_, end) => end,
            };
        }
    }
}
