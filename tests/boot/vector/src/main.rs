//! Test task: encrypts all the time and notices if its registers change.
//!
//! Two of these share a core, each with its own budget, so that the kernel takes the core from one
//! in the middle of AES instructions and gives it to the other. A state that is lost or mixed up
//! changes a ciphertext, or what comes back from it. How often a round took much longer than
//! usual shows that the core was really taken away. With no rounds it measures one block instead.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_cipher::{BLOCK, Cipher, KEY};
use cloister_rt::{Instant, cpuid, grants};

cloister_rt::entry!(main);

/// The first 16 bytes of vector 10 of IEEE 1619, "Test vectors".
const KNOWN: [u8; 16] = [
    0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03, 0x86, 0xe4, 0x83, 0x6c, 0x99, 0xe3, 0x70, 0xcf, 0x9b,
];
/// Its keys.
const KNOWN_KEY: [u8; KEY] = [
    0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26,
    0x62, 0x49, 0x77, 0x57, 0x24, 0x70, 0x93, 0x69, 0x99, 0x59, 0x57, 0x49, 0x66, 0x96, 0x76, 0x27,
    0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95,
    0x02, 0x88, 0x41, 0x97, 0x16, 0x93, 0x99, 0x37, 0x51, 0x05, 0x82, 0x09, 0x74, 0x94, 0x45, 0x92,
];
/// Its data unit.
const KNOWN_UNIT: u64 = 0xff;
/// CPUID leaf 1, ECX: AES instructions.
const HAS_AES: u32 = 1 << 25;
/// Blocks of a round.
const BLOCKS: usize = 2;
/// Rounds that are timed one by one for the number.
const TIMED: usize = 64;

fn main() -> u32 {
    let (Ok(seed), Ok(rounds)) = (grants().number("seed"), grants().number("rounds")) else {
        defmt::error!("give this task numbers = {{ seed = …, rounds = … }}");
        return 1;
    };
    if cpuid(1, 0)[2] & HAS_AES == 0 || !is_known() {
        defmt::error!("seed {=u64}: FAILED, no AES or a wrong answer", seed);
        return 2;
    }
    if rounds == 0 {
        let fastest = fastest();
        defmt::info!("bench {=str} {=u64} {=str}", "aes_xts_4k", fastest, "instructions");
        return 0;
    }
    let mut key = KNOWN_KEY;
    for byte in &mut key {
        *byte = byte.wrapping_mul(5).wrapping_add(seed as u8);
    }
    let (wrong, away) = hold(&Cipher::new(&key), seed, rounds);
    defmt::info!(
        "seed {=u64}: {=u64} rounds, {=u64} wrong, {=u64} times away",
        seed,
        rounds,
        wrong,
        away
    );
    if wrong != 0 || away < 20 {
        defmt::error!("seed {=u64}: FAILED, 0 wrong and at least 20 times away are wanted", seed);
        return 3;
    }
    defmt::info!("seed {=u64}: the registers were its own ok", seed);
    0
}

/// The standard's own answer.
fn is_known() -> bool {
    let mut block = [0; BLOCK];
    for (byte, at) in block.iter_mut().zip(0_usize..) {
        *byte = at as u8;
    }
    let done = Cipher::new(&KNOWN_KEY).encrypt_blocks(KNOWN_UNIT, &mut block);
    done.is_ok() && block.starts_with(&KNOWN)
}

/// Ticks of the shortest encryption of one block: while instructions are counted, its instructions.
fn fastest() -> u64 {
    let (cipher, mut block) = (Cipher::new(&KNOWN_KEY), [0; BLOCK]);
    let mut fastest = u64::MAX;
    for number in 0..TIMED {
        let start = Instant::now().tsc();
        let done = cipher.encrypt_blocks(number as u64, &mut block);
        let ticks = Instant::now().tsc() - start;
        if done.is_ok() {
            fastest = fastest.min(ticks);
        }
    }
    fastest
}

/// The same data again and again; how often it was wrong, how often the core was away.
fn hold(cipher: &Cipher, seed: u64, rounds: u64) -> (u64, u64) {
    let mut data = [[0; BLOCK]; BLOCKS];
    let data = data.as_flattened_mut();
    for (byte, at) in data.iter_mut().zip(0_u64..) {
        *byte = (at.wrapping_mul(seed | 1) >> 3) as u8;
    }
    let plain = sum(data);
    let (mut wrong, mut away, mut usual, mut first) = (0, 0, u64::MAX, None);
    for _ in 0..rounds {
        let start = Instant::now().tsc();
        let there = cipher.encrypt_blocks(seed, data);
        let hidden = sum(data);
        let back = cipher.decrypt_blocks(seed, data);
        let fine = there.is_ok() && back.is_ok();
        wrong += u64::from(!fine || sum(data) != plain || *first.get_or_insert(hidden) != hidden);
        let took = Instant::now().tsc() - start;
        usual = usual.min(took);
        away += u64::from(took > usual.saturating_mul(2));
    }
    (wrong, away)
}

/// A sum that depends on every byte and its place.
fn sum(data: &[u8]) -> u64 {
    let (words, _) = data.as_chunks::<8>();
    words.iter().fold(1, |sum: u64, word| {
        (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}
