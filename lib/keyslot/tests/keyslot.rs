//! Headers, slots and messages: known answers, round trips, and hostile bytes.

use cloister_keyslot::passphrase::{self, Block, Cost};
use cloister_keyslot::release::{Reason, Reply, Request, Words};
use cloister_keyslot::{HEADER, Header, Kind, SLOTS, Slot, Unreadable, VolumeKey, WrappingKey};
use crc::{CRC_32_ISCSI, Crc};
use proptest::prelude::*;

/// Bytes 0 to 31.
fn wrapping() -> WrappingKey {
    WrappingKey::new(core::array::from_fn(|at| at as u8))
}

/// Byte `i` is `3 * i + 1`.
fn volume_bytes() -> [u8; VolumeKey::BYTES] {
    core::array::from_fn(|at| (3 * at + 1) as u8)
}

fn volume_key() -> VolumeKey {
    VolumeKey::new(volume_bytes()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn typed(memory_kib: u32, passes: u32, salt: u8) -> Kind {
    Kind::Passphrase { cost: Cost::new(memory_kib, passes).unwrap(), salt: [salt; 32] }
}

fn header() -> Header {
    let slots = [
        Some(Slot::wrap(Kind::Sealed, &wrapping(), &volume_key())),
        Some(Slot::wrap(typed(64, 3, 9), &WrappingKey::new([7; 32]), &volume_key())),
    ];
    Header { id: [0xa5; 16], slots }
}

/// The block with a right checksum behind whatever was changed.
fn with_checksum(mut block: [u8; HEADER]) -> [u8; HEADER] {
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&block[..HEADER - 4]);
    block[HEADER - 4..].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn a_wrapped_key_is_what_another_implementation_makes() {
    let expected = "eaf748d48a9d1122ff2c6e1a2546d40587d5157e5884572e6a0c8289c931902db1ca02e6ba2cc5ecb698197ad962a0eb7acba582276481d33153ff9d3371ecc44c4218404a66ba2b";
    let block = Header { id: [0; 16], slots: [header().slots[0], None] }.to_block();
    assert_eq!(hex(&block[64 + 48..64 + 48 + 72]), expected);
}

#[test]
fn a_passphrase_gives_the_key_that_another_implementation_gives() {
    let expected = "3452c9c63d5842407c52e40258fcdeb004f9064434defc62c782f9d548898093";
    let salt = core::array::from_fn(|at| at as u8);
    let mut memory = vec![Block::new(); 64];
    let cost = Cost::new(64, 3).unwrap();
    let key = passphrase::derive(b"correct horse", cost, &salt, &mut memory).unwrap();
    assert_eq!(hex(key.bytes()), expected);
    assert!(memory.iter().all(|block| block.as_ref().iter().all(|&word| word == 0)));
    assert!(passphrase::derive(b"x", cost, &salt, &mut memory[..63]).is_none());
    assert!(passphrase::derive(&[b'x'; 129], cost, &salt, &mut memory).is_none());
}

#[test]
fn costs_have_limits() {
    assert!(Cost::new(8, 1).is_some() && Cost::new(16 * 1024, 16).is_some());
    for (memory, passes) in [(7, 1), (16 * 1024 + 1, 1), (u32::MAX, 1), (8, 0), (8, 17)] {
        assert_eq!(Cost::new(memory, passes), None, "{memory} {passes}");
    }
}

#[test]
fn keys_with_equal_halves_are_none() {
    assert!(VolumeKey::new([3; VolumeKey::BYTES]).is_none());
}

#[test]
fn a_header_reads_back_and_each_slot_opens_with_its_key_alone() {
    let read = Header::read(&header().to_block()).unwrap();
    assert_eq!(read, header());
    for key in [wrapping(), WrappingKey::new([7; 32])] {
        assert_eq!(read.unlock(&key).unwrap().bytes(), &volume_bytes());
    }
    assert!(read.unlock(&WrappingKey::new([8; 32])).is_none());
}

#[test]
fn an_erased_volume_opens_with_no_key() {
    let block = Header::erased([0xa5; 16]);
    let read = Header::read(&block).unwrap();
    assert!(read.is_erased() && !header().is_erased());
    assert_eq!((read.id, read.slots), ([0xa5; 16], [None; SLOTS]));
    assert!(read.unlock(&wrapping()).is_none());
    // Nothing of a wrapped key is left, in either slot.
    assert!(block[64..64 + 2 * 160].iter().all(|&byte| byte == 0));
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    let good = header().to_block();
    for at in 0..HEADER {
        let mut bad = good;
        bad[at] ^= 1 << (at % 8);
        let expected = if at < 16 { Unreadable::NoHeader } else { Unreadable::Checksum };
        assert_eq!(Header::read(&bad), Err(expected), "{at}");
    }
}

#[test]
fn each_rule_of_a_header_has_its_name() {
    let cases: [(usize, u8, Unreadable); 12] = [
        (16, 2, Unreadable::Version(2)),
        (20, 9, Unreadable::Cipher(9)),
        (24, 1, Unreadable::Data((1 << 20) + 1)),
        (48, 1, Unreadable::NotZero),
        (4000, 1, Unreadable::NotZero),
        (64, 3, Unreadable::Slot(0)),
        (64, 0, Unreadable::Slot(0)),
        (68, 1, Unreadable::Slot(0)),
        (80, 1, Unreadable::Slot(0)),
        (224 + 4, 1, Unreadable::Slot(1)),
        (224 + 10, 1, Unreadable::Slot(1)),
        (224 + 159, 1, Unreadable::Slot(1)),
    ];
    for (at, value, expected) in cases {
        let mut block = header().to_block();
        block[at] = value;
        assert_eq!(Header::read(&with_checksum(block)), Err(expected), "{at}");
    }
}

#[test]
fn a_changed_wrapped_key_does_not_open() {
    for at in 0..72 {
        let mut block = header().to_block();
        block[64 + 48 + at] ^= 0x10;
        let read = Header::read(&with_checksum(block)).unwrap();
        assert!(read.unlock(&wrapping()).is_none(), "{at}");
    }
}

#[test]
fn a_key_comes_back_for_its_nonce_alone() {
    let words = Reply::Key { nonce: 5, key: wrapping() }.to_words();
    match Reply::from_words(&words, 5) {
        Some(Reply::Key { nonce: 5, key }) => assert_eq!(key.bytes(), wrapping().bytes()),
        other => panic!("{other:?}"),
    }
    assert!(Reply::from_words(&words, 6).is_none());
    assert!(!format!("{:?}", Reply::Key { nonce: 5, key: wrapping() }).contains("30"));
    for reason in [Reason::Already, Reason::NoSuchKey, Reason::Cancelled, Reason::Unknown] {
        let words = Reply::Refused { nonce: 1, reason }.to_words();
        let back = Reply::from_words(&words, 1);
        assert!(matches!(back, Some(Reply::Refused { reason: r, .. }) if r == reason));
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let typed = (8_u32..=16 * 1024, 1_u32..=16, any::<[u8; 32]>())
        .prop_map(|(m, p, salt)| Kind::Passphrase { cost: Cost::new(m, p).unwrap(), salt });
    prop_oneof![Just(Kind::Sealed), typed]
}

proptest! {
    #[test]
    fn headers_read_back(kind in kinds(), id in any::<[u8; 16]>(), key in any::<[u8; 32]>()) {
        let wrapping = WrappingKey::new(key);
        let slots = [None, Some(Slot::wrap(kind, &wrapping, &volume_key()))];
        let header = Header { id, slots };
        let read = Header::read(&header.to_block()).unwrap();
        prop_assert_eq!(read, header);
        let opened = read.unlock(&wrapping).unwrap();
        prop_assert_eq!(opened.bytes(), &volume_bytes());
    }

    #[test]
    fn requests_come_back(kind in kinds(), nonce in any::<u64>(), wrong in any::<bool>()) {
        let request =
            if wrong { Request::Wrong { nonce, kind } } else { Request::Ask { nonce, kind } };
        prop_assert_eq!(Request::from_words(&request.to_words()), Some(request));
    }

    /// Hostile bytes behind a magic and a right checksum: never a panic, and what is accepted is
    /// what would be written.
    #[test]
    fn hostile_headers_are_read_exactly_or_not_at_all(
        changes in prop::collection::vec((16_usize..HEADER - 4, any::<u8>()), 0..8),
        random_slots in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 320),
    ) {
        let mut block = header().to_block();
        if random_slots {
            block[64..384].copy_from_slice(&bytes);
        }
        for (at, value) in changes {
            block[at] = value;
        }
        let block = with_checksum(block);
        if let Ok(read) = Header::read(&block) {
            prop_assert!(read.to_block() == block);
            let _ = read.unlock(&wrapping());
        }
    }

    #[test]
    fn hostile_words_are_read_exactly_or_not_at_all(
        mut words in any::<Words>(),
        small in any::<[bool; 8]>(),
        nonce in any::<u64>(),
    ) {
        for (word, is_small) in words.iter_mut().zip(small) {
            if is_small {
                *word &= 3;
            }
        }
        words[0] |= 1 << 32;
        if let Some(request) = Request::from_words(&words) {
            prop_assert_eq!(request.to_words(), words);
        }
        words[1] = nonce;
        if let Some(reply) = Reply::from_words(&words, nonce) {
            prop_assert_eq!(*reply.to_words(), words);
        }
    }
}
