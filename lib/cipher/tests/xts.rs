//! Known answers, and the cipher against a slow model written from the standard.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use cloister_cipher::{BLOCK, Cipher, GROUPS, Group, KEY, OddLength};
use proptest::prelude::*;

/// Both keys of IEEE 1619, "Test vectors", vectors 10 to 14 (XTS-AES-256, 512 bytes each).
const KEYS: [&str; 2] = [
    "2718281828459045235360287471352662497757247093699959574966967627",
    "3141592653589793238462643383279502884197169399375105820974944592",
];

/// Data unit, and the first and last 32 bytes of its ciphertext, for plaintext 00 01 02 … of 512
/// bytes. Shorter units than a block are its beginning: without a remainder nothing is stolen.
const STANDARD: [(u64, &str, &str); 5] = [
    (
        0xff,
        "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
        "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
    ),
    (
        0xffff,
        "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11",
        "54fbff89eeaeea791f4a7ab1f9868294a4f9e27b42af8100cb9d59cef9645803",
    ),
    (
        0xffffff,
        "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200",
        "ed242c8900dd1fa965bc950dfce09b132263a1eef52dd6888c309f5a7d712826",
    ),
    (
        0xffffffff,
        "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5",
        "f6516139420fcff3b7361d86322c4bd84c82f335abb152c4a93411373aaa8220",
    ),
    (
        0xffffffffff,
        "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23",
        "6975be5e0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9",
    ),
];

/// The same for whole blocks of 4096 bytes whose byte `i` is `7 * i + i / 256`, from OpenSSL.
const WHOLE: [(u64, &str, &str); 4] = [
    (
        0x0,
        "a713e6493c9e1db208b29de59a0b3a0b6495320bb2e8b77865ea6d3d51010808",
        "00e1e1077361eab7ea82f3852546fd1eeaf61d5c193a3cb64a09dd8e1d209464",
    ),
    (
        0x1,
        "df03f89524571fc5827f01ef31d0cbfe382d2a043bcb64c197a40a21e74c62e7",
        "fc48824230794c1cfd7a2570ded2e8eff81e65d5915caeed5a9b35ce5be31b26",
    ),
    (
        0x123456789abcdef,
        "c958d4bfb1026492c4418d714469009de4e9ea20d7a2683677cb1798e39114bd",
        "3384e82f7385012c5b54a0203b8a82d6bcd6980013b348ee9f8820875e5d9f8f",
    ),
    (
        0xffffffffffffffff,
        "d133b91280965f36c21a2efdea7c55c9bf558e17b98f08838b4a237df7768a2b",
        "5e08456f7cb76c11633cfaa90442a912c3a6dfa0205a49fc932479ac65fb1bed",
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn standard_key() -> [u8; KEY] {
    bytes(&KEYS.concat()).try_into().unwrap()
}

fn whole_block() -> Vec<u8> {
    (0..BLOCK).map(|at| (7 * at + at / 256) as u8).collect()
}

#[test]
fn the_standards_vectors() {
    let cipher = Cipher::new(&standard_key());
    for (unit, first, last) in STANDARD {
        let plain: Vec<u8> = (0..BLOCK).map(|at| at as u8).collect();
        let mut data = plain.clone();
        cipher.encrypt_blocks(unit, &mut data).unwrap();
        assert_eq!(data[..32], bytes(first), "{unit:#x}");
        assert_eq!(data[480..512], bytes(last), "{unit:#x}");
        cipher.decrypt_blocks(unit, &mut data).unwrap();
        assert!(data == plain, "{unit:#x}");
    }
}

#[test]
fn whole_blocks_as_another_implementation_has_them() {
    let cipher = Cipher::new(&standard_key());
    for (number, first, last) in WHOLE {
        let mut data = whole_block();
        cipher.encrypt_blocks(number, &mut data).unwrap();
        assert_eq!(data[..32], bytes(first), "{number:#x}");
        assert_eq!(data[BLOCK - 32..], bytes(last), "{number:#x}");
    }
}

#[test]
fn odd_lengths_are_refused_unchanged() {
    let cipher = Cipher::new(&standard_key());
    for length in [1, 15, 16, 512, BLOCK - 1, BLOCK + 1, 2 * BLOCK - 16] {
        let mut data = vec![0x5a; length];
        assert_eq!(cipher.encrypt_blocks(0, &mut data), Err(OddLength { bytes: length }));
        assert_eq!(cipher.decrypt_blocks(0, &mut data), Err(OddLength { bytes: length }));
        assert!(data.iter().all(|&byte| byte == 0x5a));
    }
    assert_eq!(cipher.encrypt_blocks(u64::MAX, &mut []), Ok(()));
}

/// XTS from the standard's text: one block at a time, bytes doubled with a carry.
fn slow(key: &[u8; KEY], number: u64, data: &mut [u8]) {
    let encrypt = aes::Aes256::new_from_slice(&key[..32]).unwrap();
    let tweaks = aes::Aes256::new_from_slice(&key[32..]).unwrap();
    let mut tweak = Array([0; 16]);
    tweak[..8].copy_from_slice(&number.to_le_bytes());
    tweaks.encrypt_block(&mut tweak);
    for unit in data.chunks_exact_mut(16) {
        let mut block = Array([0; 16]);
        for (at, byte) in unit.iter().enumerate() {
            block[at] = byte ^ tweak[at];
        }
        encrypt.encrypt_block(&mut block);
        for (at, byte) in unit.iter_mut().enumerate() {
            *byte = block[at] ^ tweak[at];
        }
        let mut carry = 0;
        for byte in tweak.iter_mut() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        tweak[0] ^= carry * 0x87;
    }
}

/// A block that goes from one place to another. Each group is loaded once and stored once, the
/// first one first.
fn on_its_way(
    from: &[u8],
    work: impl Fn(Range<usize>, &dyn Fn(&usize) -> Group, &dyn Fn(usize, Group)),
) -> Vec<u8> {
    let (lanes, _) = from.as_chunks::<16>();
    let (groups, _) = lanes.as_chunks::<8>();
    let (loaded, to) = (Cell::new(0), RefCell::new(Vec::new()));
    let load = |nth: &usize| {
        assert_eq!(loaded.replace(nth + 1), *nth);
        groups[*nth]
    };
    let store = |nth, group: Group| {
        assert_eq!((loaded.get(), to.borrow().len()), (nth + 1, nth * BLOCK / GROUPS));
        to.borrow_mut().extend_from_slice(group.as_flattened());
    };
    work(0..GROUPS, &load, &store);
    to.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_block_on_its_way_becomes_what_it_would_in_place(
        seed in any::<[u8; KEY]>(),
        number in any::<u64>(),
        fill in any::<u64>(),
    ) {
        let cipher = Cipher::new(&seed);
        let block: Vec<u8> =
            (0..BLOCK).map(|at| (fill.wrapping_mul(at as u64 | 1) >> 24) as u8).collect();
        let (mut encrypted, mut decrypted) = (block.clone(), block.clone());
        cipher.encrypt_blocks(number, &mut encrypted).unwrap();
        cipher.decrypt_blocks(number, &mut decrypted).unwrap();
        let way = on_its_way(&block, |groups, load, store| {
            cipher.encrypt(number, groups, load, store);
        });
        prop_assert!(way == encrypted);
        let way = on_its_way(&block, |groups, load, store| {
            cipher.decrypt(number, groups, load, store);
        });
        prop_assert!(way == decrypted);
    }

    #[test]
    fn several_blocks_agree_with_the_slow_model_and_come_back(
        seed in any::<[u8; KEY]>(),
        first in any::<u64>(),
        blocks in 1_usize..4,
        fill in any::<u64>(),
    ) {
        let plain: Vec<u8> = (0..blocks * BLOCK)
            .map(|at| (fill.wrapping_mul(at as u64 | 1) >> 24) as u8)
            .collect();
        let cipher = Cipher::new(&seed);
        let mut fast = plain.clone();
        cipher.encrypt_blocks(first, &mut fast).unwrap();
        let mut model = plain.clone();
        for (nth, block) in model.chunks_exact_mut(BLOCK).enumerate() {
            slow(&seed, first.wrapping_add(nth as u64), block);
        }
        prop_assert!(fast == model);
        cipher.decrypt_blocks(first, &mut fast).unwrap();
        prop_assert!(fast == plain);
    }
}
