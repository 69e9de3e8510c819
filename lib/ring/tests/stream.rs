//! Byte streams: order, capacity, restarts of either side against a slow model, and a peer that
//! writes what it likes.

#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use cloister_ring::{Side, Stream, TooSmall};
use proptest::prelude::*;

const PAGE_WORDS: usize = 512;
/// Words of the client's counters, as the module documents them.
const WRITTEN: usize = 1;
const TAKEN: usize = 2;

fn region(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn pair(words: &[AtomicU64]) -> (Stream<'_>, Stream<'_>) {
    let client = Stream::new(words, Side::Client, 0).unwrap();
    (client, Stream::new(words, Side::Server, 0).unwrap())
}

fn all(stream: &mut Stream<'_>) -> Vec<u8> {
    let mut found = vec![0; 4096];
    let count = stream.read(&mut found);
    found.truncate(count);
    found
}

#[test]
fn a_region_needs_room_for_a_word_each_way() {
    assert_eq!(Stream::new(&region(17), Side::Client, 0).err(), Some(TooSmall { words: 17 }));
    assert_eq!(Stream::new(&region(18), Side::Client, 0).unwrap().capacity(), 8);
    assert_eq!(Stream::new(&region(PAGE_WORDS), Side::Server, 0).unwrap().capacity(), 1024);
}

#[test]
fn bytes_arrive_in_order_and_a_full_stream_takes_no_more() {
    let words = region(PAGE_WORDS);
    let (mut client, mut server) = pair(&words);
    let text: Vec<u8> = (0..3000u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
    assert_eq!((client.write(&text), client.room(), server.pending()), (1024, 0, 1024));
    assert_eq!(client.write(b"x"), 0);
    let mut first = [0; 10];
    assert_eq!(server.read(&mut first), 10);
    assert_eq!(client.write(&text[1024..]), 10);
    assert_eq!([first.to_vec(), all(&mut server)].concat(), text[..1034]);
    // The other direction has bytes of its own.
    assert_eq!((server.write(b"answer"), all(&mut client)), (6, b"answer".to_vec()));
    assert_eq!((all(&mut client), all(&mut server)), (vec![], vec![]));
}

#[test]
fn last_words_survive_both_sides() {
    let words = region(PAGE_WORDS);
    let (mut client, _) = pair(&words);
    client.write(b"last words");
    let mut client = Stream::new(&words, Side::Client, 1).unwrap();
    client.write(b", first words");
    let mut server = Stream::new(&words, Side::Server, 1).unwrap();
    assert_eq!(all(&mut server), b"last words, first words");
    // What was taken in an earlier life does not come again.
    assert_eq!(all(&mut Stream::new(&words, Side::Server, 2).unwrap()), b"");
}

#[test]
fn what_is_peeked_at_stays_until_it_is_taken() {
    let words = region(PAGE_WORDS);
    let (mut client, mut server) = pair(&words);
    client.write(b"abcdef");
    let mut found = [0; 4];
    assert_eq!((server.peek(&mut found), &found), (4, b"abcd"));
    server.take(1);
    assert_eq!((server.peek(&mut found), &found), (4, b"bcde"));
    server.take(100);
    assert_eq!((server.peek(&mut found), server.pending(), client.room()), (0, 0, 1024));
}

#[test]
fn a_new_life_is_told_once_and_can_forget_what_was_typed_before() {
    let words = region(PAGE_WORDS);
    let (_, mut server) = pair(&words);
    assert!(!server.is_peer_new());
    server.write(b"for the first life");
    let mut client = Stream::new(&words, Side::Client, 1).unwrap();
    client.discard();
    assert!(server.is_peer_new() && !server.is_peer_new());
    server.write(b"for the second");
    assert_eq!(all(&mut client), b"for the second");
    // A peer that comes for the first time is not a new one.
    let words = region(PAGE_WORDS);
    let mut server = Stream::new(&words, Side::Server, 0).unwrap();
    Stream::new(&words, Side::Client, 0).unwrap();
    assert!(!server.is_peer_new());
}

#[test]
fn counters_that_cannot_be_true_cost_bytes_and_no_more() {
    let words = region(PAGE_WORDS);
    let (mut client, mut server) = pair(&words);
    client.write(b"lost");
    words[WRITTEN].store(1 << 40, Ordering::SeqCst);
    assert_eq!((server.pending(), all(&mut server)), (1024, vec![]));
    // The reader stands where the liar said, so it is the liar that is out of step.
    assert_eq!(server.pending(), 0);
    words[TAKEN].store(99, Ordering::SeqCst);
    assert_eq!((server.room(), server.write(b"x")), (0, 0));
    // The next life of the client finds its way from there, in both directions.
    let mut client = Stream::new(&words, Side::Client, 1).unwrap();
    assert_eq!((client.write(b"again"), all(&mut server)), (5, b"again".to_vec()));
    assert_eq!(all(&mut client), b"");
    assert_eq!((server.write(b"yes"), all(&mut client)), (3, b"yes".to_vec()));
}

#[test]
fn counters_may_wrap() {
    let words = region(PAGE_WORDS);
    for place in [WRITTEN, TAKEN, 8 + WRITTEN, 8 + TAKEN] {
        words[place].store(u64::MAX - 2, Ordering::SeqCst);
    }
    let (mut client, mut server) = pair(&words);
    assert_eq!((client.write(b"around"), all(&mut server)), (6, b"around".to_vec()));
    assert_eq!((server.write(b"and back"), all(&mut client)), (8, b"and back".to_vec()));
    assert_eq!(client.room(), 1024);
}

#[derive(Clone, Debug)]
enum Step {
    Write(bool, usize),
    Read(bool, usize),
    Restart(bool),
    Discard(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let side = any::<bool>();
    prop_oneof![
        6 => (side, 0usize..40).prop_map(|(at, count)| Step::Write(at, count)),
        6 => (side, 0usize..40).prop_map(|(at, count)| Step::Read(at, count)),
        1 => side.prop_map(Step::Restart),
        1 => side.prop_map(Step::Discard),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the order of writes, reads and restarts: every byte arrives once, in order.
    #[test]
    fn every_byte_arrives_once_and_in_order(
        words in 18usize..40,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let words = region(words);
        let side = |at| if at { Side::Server } else { Side::Client };
        let mut ends = [false, true].map(|at| Stream::new(&words, side(at), 0).unwrap());
        // The client was there first, so the server's first life is one that it has not seen.
        prop_assert!(!ends[0].is_peer_new() && !ends[1].is_peer_new());
        let capacity = ends[0].capacity();
        let mut inbox: [VecDeque<u8>; 2] = Default::default();
        let (mut next, mut life) = (0u8, 0);
        for step in steps {
            match step {
                Step::Write(at, count) => {
                    let bytes: Vec<u8> = (0..count).map(|nth| next.wrapping_add(nth as u8)).collect();
                    let inbox = &mut inbox[usize::from(!at)];
                    let room = capacity - inbox.len();
                    let written = ends[usize::from(at)].write(&bytes);
                    prop_assert_eq!(written, count.min(room));
                    inbox.extend(&bytes[..written]);
                    next = next.wrapping_add(written as u8);
                }
                Step::Read(at, count) => {
                    let mut found = vec![0; count];
                    let inbox = &mut inbox[usize::from(at)];
                    prop_assert_eq!(ends[usize::from(at)].pending(), inbox.len());
                    let read = ends[usize::from(at)].read(&mut found);
                    let expected: Vec<u8> = inbox.drain(..count.min(inbox.len())).collect();
                    prop_assert_eq!(&found[..read], expected);
                }
                Step::Restart(at) => {
                    life += 1;
                    ends[usize::from(at)] = Stream::new(&words, side(at), life).unwrap();
                    prop_assert!(ends[usize::from(!at)].is_peer_new());
                    prop_assert!(!ends[usize::from(at)].is_peer_new());
                }
                Step::Discard(at) => {
                    ends[usize::from(at)].discard();
                    inbox[usize::from(at)].clear();
                }
            }
        }
    }

    /// Random stores anywhere in the region between random calls: no panic, never more bytes than
    /// fit, and after the storm a new life of the liar is heard again.
    #[test]
    fn random_stores_never_break_this_side(
        calls in prop::collection::vec(
            (any::<u8>(), 0usize..40, any::<u64>(), any::<bool>()),
            1..200,
        ),
    ) {
        let words = region(40);
        let mut server = Stream::new(&words, Side::Server, 0).unwrap();
        for (what, place, value, is_small) in calls {
            words[place].store(if is_small { value % 100 } else { value }, Ordering::SeqCst);
            prop_assert!(server.room() <= server.capacity());
            prop_assert!(server.pending() <= server.capacity());
            let mut found = [0; 200];
            match what % 4 {
                0 => prop_assert!(server.write(&[1; 200]) <= server.capacity()),
                1 => server.discard(),
                2 => drop(server.is_peer_new()),
                _ => prop_assert!(server.read(&mut found) <= server.capacity()),
            }
        }
        all(&mut server);
        let mut client = Stream::new(&words, Side::Client, 1).unwrap();
        all(&mut server);
        prop_assert_eq!(client.write(b"hello"), 5);
        prop_assert_eq!(all(&mut server), b"hello".to_vec());
        // The storm may have hit the counter from which the client would have gone on.
        let mut heard = Vec::new();
        for _ in 0..3 {
            server.write(b"you");
            heard.extend(all(&mut client));
        }
        prop_assert!(heard.ends_with(b"you"));
    }
}
