//! The cipher of encrypted volumes: AES-256-XTS, one data unit for each block of 4 KiB.
//!
//! [`Cipher`] holds a volume's key schedules. A data unit is a block of [`BLOCK`] bytes; its tweak
//! is the block's number *within the volume* as a little-endian 128-bit integer (IEEE 1619,
//! "XTS-AES encryption procedure"), so that a volume may move on its disk. XTS hides what a block
//! holds; it does not tell whether a block was changed or is an old one.
//!
//! A block is worked group by group ([`Group`]), each of which is loaded, and stored, by whoever
//! calls: in place, or on its way from one memory to another.
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

mod tweak;

use core::hint::black_box;
use core::slice::IterMut;

use aes::cipher::consts::{U32, U64};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256Dec, Aes256Enc, Block};

use crate::tweak::Tweaks;

/// Bytes of a data unit.
pub const BLOCK: usize = 4096;
/// Bytes of a key: the data's and the tweaks', 256 bits each.
pub const KEY: usize = 64;

/// Bytes of an AES block.
const AES_BLOCK: usize = 16;
/// AES blocks that are worked side by side: as many as the registers hold.
pub const LANES: usize = 8;
/// What is worked at once.
pub type Group = [[u8; AES_BLOCK]; LANES];
/// Groups of a data unit.
pub const GROUPS: usize = BLOCK / (LANES * AES_BLOCK);

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
        each_block(first_block, data, |number, groups| {
            self.encrypt(number, groups, |group| **group, |group, worked| *group = worked);
        })
    }

    /// Decrypts whole blocks in place; the first has this number within the volume.
    pub fn decrypt_blocks(&self, first_block: u64, data: &mut [u8]) -> Result<(), OddLength> {
        each_block(first_block, data, |number, groups| {
            self.decrypt(number, groups, |group| **group, |group, worked| *group = worked);
        })
    }

    /// Encrypts the block of this number on its way from one place to another. `groups` are the
    /// [`GROUPS`] places of its groups in their order, each of which is loaded and stored once.
    #[inline(always)]
    pub fn encrypt<P>(
        &self,
        number: u64,
        groups: impl Iterator<Item = P>,
        load: impl Fn(&P) -> Group,
        store: impl Fn(P, Group),
    ) {
        let tweaks = self.tweaks(number);
        work(tweaks, groups, load, store, |lanes| black_box(&self.encrypt).encrypt_blocks(lanes));
    }

    /// Decrypts it.
    #[inline(always)]
    pub fn decrypt<P>(
        &self,
        number: u64,
        groups: impl Iterator<Item = P>,
        load: impl Fn(&P) -> Group,
        store: impl Fn(P, Group),
    ) {
        let tweaks = self.tweaks(number);
        work(tweaks, groups, load, store, |lanes| black_box(&self.decrypt).decrypt_blocks(lanes));
    }

    /// The tweaks of a block.
    #[inline(always)]
    fn tweaks(&self, number: u64) -> Tweaks {
        let mut block = Array(u128::from(number).to_le_bytes());
        self.tweak.encrypt_block(&mut block);
        Tweaks::from(&block.0)
    }
}

/// Calls `work` for each block in place, with its number and its groups.
#[inline(always)]
fn each_block(
    first_block: u64,
    data: &mut [u8],
    work: impl Fn(u64, IterMut<'_, Group>),
) -> Result<(), OddLength> {
    let bytes = data.len();
    let (blocks, []) = data.as_chunks_mut::<BLOCK>() else {
        return Err(OddLength { bytes });
    };
    let mut number = first_block;
    for block in blocks {
        let (units, _) = block.as_chunks_mut::<AES_BLOCK>();
        let (groups, _) = units.as_chunks_mut::<LANES>();
        work(number, groups.iter_mut());
        number = number.wrapping_add(1);
    }
    Ok(())
}

/// Works a block's groups, whose tweaks these are.
#[inline(always)]
fn work<P>(
    mut tweaks: Tweaks,
    groups: impl Iterator<Item = P>,
    load: impl Fn(&P) -> Group,
    store: impl Fn(P, Group),
    cipher: impl Fn(&mut [Block]),
) {
    for place in groups {
        // Before the load, so that no register is in use over the call.
        tweaks.advance();
        let mut group = load(&place);
        tweaks.add_to(&mut group);
        cipher(Array::cast_slice_from_core_mut(&mut group));
        tweaks.add_to(&mut group);
        store(place, group);
    }
}
