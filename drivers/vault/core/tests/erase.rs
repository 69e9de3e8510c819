//! A volume that is to be erased: what the vault tells a driver, and what somebody types for it.

use std::sync::atomic::AtomicU64;

use cloister_keyslot::erase::{Order, Outcome};
use cloister_keyslot::passphrase::Cost;
use cloister_keyslot::release::{Reason, Reply, Request};
use cloister_keyslot::{Asker, Failure, Header, Kind, Slot, Step, VolumeKey, WrappingKey};
use cloister_ring::{Link, Message, Side};
use cloister_vault_core::{Answer, Desk, Keeper, Said, Wanted};

fn wrapping() -> WrappingKey {
    WrappingKey::new([9; 32])
}

fn header() -> Header {
    let volume = VolumeKey::new(core::array::from_fn(|at| at as u8)).unwrap();
    Header { id: [1; 16], slots: [Some(Slot::wrap(Kind::Sealed, &wrapping(), &volume)), None] }
}

fn ask(nonce: u64) -> [u64; 8] {
    Request::Ask { nonce, kind: Kind::Sealed }.to_words()
}

fn outcome(number: u64, is_erased: bool) -> [u64; 8] {
    Outcome { number, is_erased }.to_words()
}

#[test]
fn no_life_gets_a_key_until_one_has_erased() {
    let mut keeper = Keeper::new(Some(wrapping()), false);
    assert!(matches!(keeper.ask(&ask(1), 1), Answer::Reply(Reply::Key { .. })));
    assert_eq!(keeper.order(), None);
    keeper.erase(77);
    for life in 2..5 {
        assert_eq!(keeper.order(), Some(Order { number: 77 }));
        assert!(matches!(keeper.ask(&ask(1), life), Answer::Nothing));
        assert!(matches!(keeper.ask(&outcome(77, false), life), Answer::Erased(false)));
    }
    for wrong in [0, 76, 78, u64::MAX] {
        assert!(matches!(keeper.ask(&outcome(wrong, true), 5), Answer::Nothing));
    }
    assert!(matches!(keeper.ask(&ask(1), 5), Answer::Nothing));
    assert!(matches!(keeper.ask(&outcome(77, true), 5), Answer::Erased(true)));
    assert_eq!(keeper.order(), None);
    // Said once more, it means nothing.
    assert!(matches!(keeper.ask(&outcome(77, true), 5), Answer::Nothing));
}

#[test]
fn what_was_typed_is_forgotten_with_the_volume() {
    let kind = Kind::Passphrase { cost: Cost::new(8, 1).unwrap(), salt: [4; 32] };
    let words = Request::Ask { nonce: 1, kind }.to_words();
    let mut keeper = Keeper::new(None, true);
    let wanted = |keeper: &mut Keeper, life| -> Wanted {
        match keeper.ask(&words, life) {
            Answer::Type(wanted) => wanted,
            other => panic!("{other:?}"),
        }
    };
    let first = wanted(&mut keeper, 1);
    assert!(matches!(keeper.typed(first, Some(wrapping())), Reply::Key { .. }));
    assert!(matches!(keeper.ask(&words, 2), Answer::Reply(Reply::Key { .. })), "it is kept");
    keeper.erase(1);
    keeper.ask(&outcome(1, true), 2);
    wanted(&mut keeper, 3);
}

#[test]
fn an_order_reaches_a_driver_that_waits_and_one_that_is_open() {
    let region: Vec<_> = (0..512).map(|_| AtomicU64::new(0)).collect();
    let mut vault = Link::new(&region, Side::Server, 0).unwrap();
    let mut asker = Asker::new(Link::new(&region, Side::Client, 1).unwrap(), 100);
    let mut keeper = Keeper::new(Some(wrapping()), false);
    let header = header();
    let order = |vault: &mut Link<'_>, keeper: &mut Keeper, number| {
        keeper.erase(number);
        let words = keeper.order().unwrap().to_words();
        vault.send(&Message(words), || {}).unwrap();
    };
    while !vault.meet(|| {}) {
        assert!(matches!(asker.step(&header, || {}), Step::Wait));
    }
    order(&mut vault, &mut keeper, 5);
    let Step::Erase(found) = asker.step(&header, || {}) else { panic!("no order") };
    assert_eq!(found, Order { number: 5 });
    asker.report(Outcome { number: 5, is_erased: false }, || {}).unwrap();
    // The open one has left a question and a late key behind.
    let reply = Reply::Key { nonce: 101, key: wrapping() };
    vault.send(&Message(*reply.to_words()), || {}).unwrap();
    order(&mut vault, &mut keeper, 6);
    assert_eq!(asker.listen(|| {}), Some(Order { number: 6 }));
    assert_eq!(asker.listen(|| {}), None);
    asker.report(Outcome { number: 6, is_erased: true }, || {}).unwrap();
    let mut answers = Vec::new();
    while let Ok(Some(message)) = vault.receive(|| {}) {
        answers.extend(match keeper.ask(&message.0, 1) {
            Answer::Erased(is_erased) => Some(is_erased),
            _ => None,
        });
    }
    assert_eq!(answers, [true], "the first number is an older order's");
    let word = u64::from_le_bytes([9; 8]);
    let left = region.iter().any(|at| at.load(std::sync::atomic::Ordering::Relaxed) == word);
    assert!(!left, "the late key is left in the mailbox");
}

#[test]
fn a_life_that_finds_an_erased_header_hears_the_order_all_the_same() {
    let region: Vec<_> = (0..512).map(|_| AtomicU64::new(0)).collect();
    let mut vault = Link::new(&region, Side::Server, 0).unwrap();
    let mut asker = Asker::new(Link::new(&region, Side::Client, 2).unwrap(), 100);
    let erased = Header::read(&Header::erased([1; 16])).unwrap();
    assert!(matches!(asker.step(&erased, || {}), Step::Failed(Failure::Erased)));
    // That step needed no vault, so nobody knows of this life until it listens.
    assert!(!vault.meet(|| {}));
    assert_eq!(asker.listen(|| {}), None);
    assert!(vault.meet(|| {}));
    vault.send(&Message(Order { number: 8 }.to_words()), || {}).unwrap();
    assert_eq!(asker.listen(|| {}), Some(Order { number: 8 }));
}

#[test]
fn orders_and_answers_are_told_from_keys_and_from_noise() {
    let order = Order { number: 7 }.to_words();
    assert_eq!(Order::from_words(&order), Some(Order { number: 7 }));
    assert!(Reply::from_words(&order, 7).is_none());
    let refused = Reply::Refused { nonce: 7, reason: Reason::Already }.to_words();
    assert_eq!(Order::from_words(&refused), None);
    assert_eq!(Outcome::from_words(&ask(7)), None);
    assert_eq!(Request::from_words(&outcome(7, true)), None);
    for at in [0, 2, 3, 4, 5, 6, 7] {
        let (mut hostile, mut answer) = (order, outcome(7, true));
        hostile[at] ^= 1 << 40;
        answer[at] ^= 1 << 40;
        assert_eq!(Order::from_words(&hostile), None, "word {at}");
        assert_eq!(Outcome::from_words(&answer), None, "word {at}");
    }
}

/// Types a text; what the last byte led to.
fn typed(desk: &mut Desk, text: &str) -> Said {
    let find = |name: &[u8]| ["web", "db"].iter().position(|key| key.as_bytes() == name);
    text.bytes().map(|byte| desk.key(byte, find)).last().unwrap()
}

#[test]
fn it_takes_a_name_and_a_word_to_erase() {
    let mut desk = Desk::default();
    for (text, said) in [
        ("\r", Said::Menu),
        ("db\r", Said::Sure(1)),
        ("erase\r", Said::Erase(1)),
        // Once is once.
        ("erase\r", Said::Early),
        ("\rmail\r", Said::Unknown),
        ("db\r", Said::Early),
        ("\rweb\ryes\r", Said::Kept),
        ("\rweb\r\r", Said::Kept),
        ("\rweb\rerase\x03", Said::Kept),
        ("erase\r", Said::Early),
        ("\r\r", Said::Kept),
        ("\x03", Said::Nothing),
        ("\rwex\x7fb\rerase\r", Said::Erase(0)),
    ] {
        assert_eq!(typed(&mut desk, text), said, "{text:?}");
    }
}

#[test]
fn nothing_is_shown_that_may_be_a_passphrase() {
    let mut desk = Desk::default();
    for byte in "open sesame\x7f".chars() {
        assert_eq!(typed(&mut desk, &byte.to_string()), Said::Nothing);
    }
    assert_eq!(typed(&mut desk, "\r"), Said::Early);
    assert_eq!(typed(&mut desk, "\r"), Said::Menu);
    assert_eq!(typed(&mut desk, "d"), Said::Echo(b'd'));
    assert_eq!(typed(&mut desk, "b"), Said::Echo(b'b'));
    assert_eq!(typed(&mut desk, "\x7f"), Said::Rub(1));
    assert_eq!(typed(&mut desk, "bbb\x15"), Said::Rub(4));
    assert_eq!(typed(&mut desk, "\x7f"), Said::Nothing);
    assert_eq!(typed(&mut desk, "\x1b"), Said::Nothing);
    desk.clear();
    assert_eq!(typed(&mut desk, "d"), Said::Nothing);
}
