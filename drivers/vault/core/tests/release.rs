//! A vault and a driver in one process, over a mailbox: who gets a key, and how often.

use std::sync::atomic::AtomicU64;

use cloister_keyslot::passphrase::Cost;
use cloister_keyslot::release::{Reason, Reply, Request};
use cloister_keyslot::{Asker, Failure, Header, Kind, Slot, Step, VolumeKey, WrappingKey};
use cloister_ring::{Link, Message, Side};
use cloister_vault_core::{Answer, Keeper, Line, TRIES, Typed};

fn wrapping(byte: u8) -> WrappingKey {
    WrappingKey::new([byte; 32])
}

fn volume() -> VolumeKey {
    VolumeKey::new(core::array::from_fn(|at| at as u8)).unwrap()
}

fn passphrase() -> Kind {
    Kind::Passphrase { cost: Cost::new(8, 1).unwrap(), salt: [0x44; 32] }
}

fn header(kinds: &[(Kind, u8)]) -> Header {
    let mut slots = [None; 2];
    for (slot, (kind, key)) in slots.iter_mut().zip(kinds) {
        *slot = Some(Slot::wrap(*kind, &wrapping(*key), &volume()));
    }
    Header { id: [1; 16], slots }
}

fn region() -> Vec<AtomicU64> {
    (0..512).map(|_| AtomicU64::new(0)).collect()
}

/// The bytes of a key anywhere in the region.
fn holds(region: &[AtomicU64], byte: u8) -> bool {
    let word = u64::from_le_bytes([byte; 8]);
    region.iter().any(|found| found.load(std::sync::atomic::Ordering::Relaxed) == word)
}

/// A life of the driver with a new mailbox; passphrases are typed in this order. No wrapping key
/// may be left in the mailbox.
fn run(
    keeper: &mut Keeper,
    header: &Header,
    life: u64,
    typed: Vec<Option<WrappingKey>>,
) -> Result<VolumeKey, Failure> {
    let region = region();
    let outcome = steps(keeper, header, &region, life, typed);
    assert!((1..=9).all(|key| !holds(&region, key)), "a key is left in the mailbox");
    outcome
}

/// Steps both sides until the driver knows.
fn steps(
    keeper: &mut Keeper,
    header: &Header,
    region: &[AtomicU64],
    life: u64,
    mut typed: Vec<Option<WrappingKey>>,
) -> Result<VolumeKey, Failure> {
    let mut vault = Link::new(region, Side::Server, 0).unwrap();
    let mut asker = Asker::new(Link::new(region, Side::Client, life).unwrap(), 100 * life);
    for _ in 0..100 {
        match asker.step(header, || {}) {
            Step::Wait => {}
            Step::Key(key) => return Ok(key),
            Step::Failed(failure) => return Err(failure),
            Step::Erase(order) => panic!("{order:?}"),
        }
        while let Ok(Some(message)) = vault.receive(|| {}) {
            let peer = vault.peer_life().unwrap();
            let reply = match keeper.ask(&message.0, peer) {
                Answer::Reply(reply) => reply,
                Answer::Type(wanted) => keeper.typed(wanted, typed.remove(0)),
                other => panic!("{other:?}"),
            };
            vault.send(&Message(*reply.to_words()), || {}).unwrap();
        }
    }
    panic!("the driver never knew");
}

#[test]
fn a_sealed_key_opens_the_volume_once_in_each_life() {
    let mut keeper = Keeper::new(Some(wrapping(9)), false);
    let header = header(&[(Kind::Sealed, 9)]);
    for life in [0, 1, 5] {
        let key = run(&mut keeper, &header, life, vec![]).unwrap();
        assert_eq!(key.bytes(), volume().bytes());
        let again = run(&mut keeper, &header, life, vec![]);
        assert_eq!(again.err(), Some(Failure::Refused(Reason::Already)));
    }
    let older = run(&mut keeper, &header, 3, vec![]);
    assert_eq!(older.err(), Some(Failure::Refused(Reason::Already)));
}

#[test]
fn wrong_missing_and_erased_keys_have_their_names() {
    let sealed = header(&[(Kind::Sealed, 9)]);
    let mut other = Keeper::new(Some(wrapping(8)), false);
    assert_eq!(run(&mut other, &sealed, 0, vec![]).err(), Some(Failure::WrongKey));
    let mut none = Keeper::new(None, true);
    let refused = run(&mut none, &sealed, 0, vec![]).err();
    assert_eq!(refused, Some(Failure::Refused(Reason::NoSuchKey)));
    let erased = Header::read(&Header::erased([1; 16])).unwrap();
    assert_eq!(run(&mut none, &erased, 0, vec![]).err(), Some(Failure::Erased));
}

#[test]
fn the_second_slot_is_tried_where_the_first_kind_is_not_there() {
    let both = header(&[(Kind::Sealed, 9), (passphrase(), 7)]);
    let mut keeper = Keeper::new(None, true);
    assert!(run(&mut keeper, &both, 0, vec![Some(wrapping(7))]).is_ok());
}

#[test]
fn a_mistyped_passphrase_is_typed_again_but_not_for_ever() {
    let header = header(&[(passphrase(), 7)]);
    let mut keeper = Keeper::new(None, true);
    let typed = vec![Some(wrapping(1)), Some(wrapping(2)), Some(wrapping(7))];
    assert!(run(&mut keeper, &header, 0, typed).is_ok());
    // The next life finds the key that was typed.
    assert!(run(&mut keeper, &header, 1, vec![]).is_ok());
    let mut keeper = Keeper::new(None, true);
    let typed = (0..=TRIES).map(|_| Some(wrapping(1))).collect();
    let failed = run(&mut keeper, &header, 0, typed).err();
    assert_eq!(failed, Some(Failure::Refused(Reason::Already)));
    let mut keeper = Keeper::new(None, true);
    let failed = run(&mut keeper, &header, 0, vec![None]).err();
    assert_eq!(failed, Some(Failure::Refused(Reason::Cancelled)));
}

#[test]
fn hostile_messages_get_no_key() {
    let mut keeper = Keeper::new(Some(wrapping(9)), true);
    let good = Request::Ask { nonce: 3, kind: Kind::Sealed }.to_words();
    for at in [0, 2, 3, 4, 7] {
        for change in [1, 1 << 33, u64::MAX] {
            let mut words = good;
            words[at] ^= change;
            let answer = keeper.ask(&words, 1);
            let is_key = matches!(answer, Answer::Reply(Reply::Key { .. }));
            assert!(!is_key, "{words:x?}");
        }
    }
    let wrong = Request::Wrong { nonce: 3, kind: passphrase() }.to_words();
    let answer = keeper.ask(&wrong, 1);
    assert!(matches!(answer, Answer::Reply(Reply::Refused { reason: Reason::Already, .. })));
    assert!(matches!(keeper.ask(&good, 1), Answer::Reply(Reply::Key { nonce: 3, .. })));
}

#[test]
fn a_line_is_edited_unseen() {
    let mut line = Line::default();
    assert_eq!(line.key(b'\r'), Typed::Cancelled);
    for byte in *b"abx\x7fc\x08\x08\x08\x08xyz" {
        assert_eq!(line.key(byte), Typed::More);
    }
    assert_eq!(line.bytes(), b"xyz");
    assert_eq!(line.key(b'\n'), Typed::Whole);
    assert_eq!(line.key(0x15), Typed::More);
    assert!(line.bytes().is_empty());
    for _ in 0..1000 {
        line.key(b'q');
    }
    assert_eq!(line.bytes(), [b'q'; 128]);
    assert_eq!(line.key(3), Typed::Cancelled);
}
