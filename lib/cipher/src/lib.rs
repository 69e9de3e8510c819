//! The cipher of encrypted volumes: AES-256-XTS, one data unit for each block of 4 KiB.
//!
//! [`Cipher`] holds a volume's key schedules. A data unit is a block of [`BLOCK`] bytes; its tweak
//! is the block's number *within the volume* as a little-endian 128-bit integer (IEEE 1619,
//! "XTS-AES encryption procedure"), so that a volume may move on its disk. XTS hides what a block
//! holds; it does not tell whether a block was changed or is an old one.
//!
//! Neighbours: `lib/keyslot` unwraps the key that [`Cipher::new`] takes, `lib/block` encrypts
//! between guest and bounce pages. The AES instructions are those of crate `aes`; on the bare
//! machine it uses them only in programs that are compiled for SSE and AES, see docs/hacking.md.
//! Invariant: no call allocates, panics or branches on key or data, and a dropped cipher leaves no
//! key in its memory.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use aes::cipher::consts::{U32, U64};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256Dec, Aes256Enc, Block};

/// Bytes of a data unit.
pub const BLOCK: usize = 4096;
/// Bytes of a key: the data's and the tweaks', 256 bits each.
pub const KEY: usize = 64;

/// Bytes of an AES block.
const AES_BLOCK: usize = 16;
/// AES blocks that are worked side by side: as many as the registers hold.
const LANES: usize = 8;
/// x^128 in terms of lower powers: the polynomial of IEEE 1619, "Multiplication by a primitive
/// element".
const REDUCTION: u128 = 0x87;

/// A length that is no whole number of blocks. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OddLength {
    /// The bytes that were given.
    pub bytes: usize,
}

/// The key schedules of one volume. Wiped when it is dropped.
pub struct Cipher {
    encrypt: Aes256Enc,
    decrypt: Aes256Dec,
    tweak: Aes256Enc,
}

impl Cipher {
    /// A cipher for a volume's key: the first half is for data, the second for tweaks. Whoever
    /// makes keys sees to it that the halves differ.
    pub fn new(key: &[u8; KEY]) -> Cipher {
        let key: &Array<u8, U64> = key.into();
        let (data, tweak) = key.split_ref::<U32>();
        Cipher {
            encrypt: Aes256Enc::new(data),
            decrypt: Aes256Dec::new(data),
            tweak: Aes256Enc::new(tweak),
        }
    }

    /// Encrypts whole blocks in place; the first has this number within the volume.
    pub fn encrypt_blocks(&self, first_block: u64, data: &mut [u8]) -> Result<(), OddLength> {
        self.each_block(first_block, data, |lanes| self.encrypt.encrypt_blocks(lanes))
    }

    /// Decrypts whole blocks in place; the first has this number within the volume.
    pub fn decrypt_blocks(&self, first_block: u64, data: &mut [u8]) -> Result<(), OddLength> {
        self.each_block(first_block, data, |lanes| self.decrypt.decrypt_blocks(lanes))
    }

    #[inline(always)]
    fn each_block(
        &self,
        first_block: u64,
        data: &mut [u8],
        cipher: impl Fn(&mut [Block]),
    ) -> Result<(), OddLength> {
        let bytes = data.len();
        let (blocks, []) = data.as_chunks_mut::<BLOCK>() else {
            return Err(OddLength { bytes });
        };
        let mut number = first_block;
        for block in blocks {
            let mut tweak = self.first_tweak(number);
            let (units, _) = block.as_chunks_mut::<AES_BLOCK>();
            let (groups, _) = units.as_chunks_mut::<LANES>();
            for group in groups {
                tweak = work(group, tweak, &cipher);
            }
            number = number.wrapping_add(1);
        }
        Ok(())
    }

    /// The tweak of a block's first 16 bytes.
    fn first_tweak(&self, number: u64) -> u128 {
        let mut block = Array(u128::from(number).to_le_bytes());
        self.tweak.encrypt_block(&mut block);
        u128::from_le_bytes(block.0)
    }
}

/// Works a group of AES blocks whose first has this tweak; returns the tweak behind the group.
#[inline(always)]
fn work(group: &mut [[u8; AES_BLOCK]; LANES], first: u128, cipher: impl Fn(&mut [Block])) -> u128 {
    let mut tweaks = [[0; AES_BLOCK]; LANES];
    let next = fill(&mut tweaks, first);
    let mut lanes = *group;
    mix(&mut lanes, &tweaks);
    cipher(Array::cast_slice_from_core_mut(&mut lanes));
    mix(&mut lanes, &tweaks);
    *group = lanes;
    next
}

/// The tweaks of a group from its first; returns the next group's first. Not inlined, so that the
/// tweaks come in memory: carried from general to vector registers twice, they would cost more.
#[inline(never)]
fn fill(tweaks: &mut [[u8; AES_BLOCK]; LANES], first: u128) -> u128 {
    let mut next = first;
    for tweak in tweaks {
        *tweak = next.to_le_bytes();
        next = double(next);
    }
    next
}

/// Adds each tweak to its AES block.
#[inline(always)]
fn mix(group: &mut [[u8; AES_BLOCK]; LANES], tweaks: &[[u8; AES_BLOCK]; LANES]) {
    for (byte, tweak) in group.as_flattened_mut().iter_mut().zip(tweaks.as_flattened()) {
        *byte ^= tweak;
    }
}

/// A tweak times x. The reduction is masked, not branched on.
#[inline(always)]
fn double(tweak: u128) -> u128 {
    let carry = 0_u128.wrapping_sub(tweak >> 127);
    (tweak << 1) ^ (carry & REDUCTION)
}
