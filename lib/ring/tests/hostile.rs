//! A peer that writes what it likes, wherever it likes: each rule by name, and random storms.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering};

use cloister_ring::{Lost, Message, Ready, Ring, Rule, SendError, Side};
use proptest::prelude::*;

const PAGE_WORDS: usize = 512;
/// Places of the client's words, as the protocol's note documents them.
const STATE: usize = 0;
const PRODUCED: usize = 1;
const CONSUMED: usize = 2;

fn region(words: usize) -> Vec<AtomicU64> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn pair(words: &[AtomicU64]) -> (Ring<'_, Ready>, Ring<'_, Ready>) {
    let client = Ring::new(words, Side::Client, 0).unwrap().handshake(|| ()).unwrap_err();
    let server = Ring::new(words, Side::Server, 0).unwrap().handshake(|| ()).unwrap_err();
    (client.handshake(|| ()).unwrap(), server.handshake(|| ()).unwrap())
}

fn set(words: &[AtomicU64], place: usize, value: u64) {
    words[place].store(value, Ordering::SeqCst);
}

/// A server that has exchanged two messages each way with its client.
fn warmed_up(words: &[AtomicU64]) -> Ring<'_, Ready> {
    let (mut client, mut server) = pair(words);
    for _ in 0..2 {
        client.send(&Message::default()).unwrap();
        server.send(&Message::default()).unwrap();
        assert!(server.receive().unwrap().is_some() && client.receive().unwrap().is_some());
    }
    server.send(&Message::default()).unwrap();
    server
}

#[test]
fn producing_backwards_retires_the_peer() {
    let words = region(PAGE_WORDS);
    let mut server = warmed_up(&words);
    for value in [1, 0] {
        set(&words, PRODUCED, value);
        assert_eq!(server.receive(), Err(Lost::Retired(Rule::ProducedBackwards)));
    }
}

#[test]
fn producing_more_than_fits_retires_the_peer() {
    // Two were taken, sixteen fit behind them.
    for (value, is_lie) in [(18, false), (19, true), (1 << 32, true), (u64::MAX, true)] {
        let words = region(PAGE_WORDS);
        let mut server = warmed_up(&words);
        set(&words, PRODUCED, value);
        let expected = is_lie.then_some(Lost::Retired(Rule::ProducedTooFar));
        assert_eq!(server.receive().err(), expected, "{value}");
    }
}

#[test]
fn consuming_backwards_or_ahead_retires_the_peer() {
    for (value, rule) in
        [(1, Rule::ConsumedBackwards), (4, Rule::ConsumedTooFar), (u64::MAX, Rule::ConsumedTooFar)]
    {
        let words = region(PAGE_WORDS);
        let mut server = warmed_up(&words);
        set(&words, CONSUMED, value);
        let expected = Err(SendError::Lost(Lost::Retired(rule)));
        assert_eq!(server.send(&Message::default()), expected, "{value}");
    }
}

#[test]
fn a_retired_peer_stays_retired_when_it_repents() {
    let words = region(PAGE_WORDS);
    let mut server = warmed_up(&words);
    set(&words, PRODUCED, 0);
    assert_eq!(server.receive(), Err(Lost::Retired(Rule::ProducedBackwards)));
    set(&words, PRODUCED, 2);
    assert_eq!(server.receive(), Err(Lost::Retired(Rule::ProducedBackwards)));
    let expected = Err(SendError::Lost(Lost::Retired(Rule::ProducedBackwards)));
    assert_eq!(server.send(&Message::default()), expected);
}

#[test]
fn only_a_new_life_of_a_retired_peer_is_met_again() {
    let words = region(PAGE_WORDS);
    let mut server = warmed_up(&words);
    set(&words, PRODUCED, 0);
    assert!(server.receive().is_err());
    let server = server.again().handshake(|| ()).unwrap_err();
    // The same life, trying once more.
    let old = Ring::new(&words, Side::Client, 0).unwrap().handshake(|| ()).unwrap_err();
    let server = server.handshake(|| ()).unwrap_err();
    assert!(old.handshake(|| ()).is_err());
    // The next life.
    let new = Ring::new(&words, Side::Client, 1).unwrap().handshake(|| ()).unwrap_err();
    let mut server = server.handshake(|| ()).unwrap();
    let mut new = new.handshake(|| ()).unwrap();
    new.send(&Message([7; 8])).unwrap();
    assert_eq!(server.receive(), Ok(Some(Message([7; 8]))));
}

#[test]
fn a_changed_state_word_is_gone_and_not_a_broken_rule() {
    for state in [0, u64::MAX, 1, 1 << 32] {
        let words = region(PAGE_WORDS);
        let mut server = warmed_up(&words);
        set(&words, PRODUCED, 0);
        set(&words, STATE, state);
        assert_eq!(server.receive(), Err(Lost::Gone), "{state:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Random stores anywhere in the region between random calls: no panic, no more messages than
    /// fit without a new look, and a loss is the same loss until begun anew.
    #[test]
    fn random_stores_never_break_this_side(
        calls in prop::collection::vec(
            (any::<u8>(), 0usize..64, any::<u64>(), any::<bool>()),
            1..200,
        ),
    ) {
        let words = region(64);
        let mut ring = Some(pair(&words).1);
        let mut mapped = None;
        let mut lost = None;
        for (what, place, value, is_small) in calls {
            // Small values look like counters and epochs; large ones like nothing at all.
            set(&words, place, if is_small { value % 5 } else { value });
            if let Some(mut ready) = ring.take() {
                match what % 4 {
                    0 => {
                        let now = ready.send(&Message::default());
                        if let Some(lost) = lost {
                            prop_assert_eq!(now, Err(SendError::Lost(lost)));
                        } else if let Err(SendError::Lost(found)) = now {
                            lost = Some(found);
                        }
                    }
                    1 | 2 => {
                        let now = ready.receive();
                        if let Some(lost) = lost {
                            prop_assert_eq!(now, Err(lost));
                        } else if let Err(found) = now {
                            lost = Some(found);
                        }
                    }
                    _ => {
                        mapped = Some(ready.again());
                        lost = None;
                        continue;
                    }
                }
                ring = Some(ready);
            } else if let Some(again) = mapped.take() {
                match again.handshake(|| ()) {
                    Ok(ready) => ring = Some(ready),
                    Err(again) => mapped = Some(again),
                }
            }
        }
    }
}
