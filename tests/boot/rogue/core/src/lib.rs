//! What a rogue driver, the owners of canaries and the judge outside the machine agree on.
//!
//! [`sweep`] is for the rogue whose device is slow, and who tries the pages that the judge lists.
//! Every page of canaries says whose it is and which ([`canary`]), so that one that was changed,
//! moved or copied is seen. The judge (`xtask/src/testing/rogue/`) reads and writes the machine's
//! memory from outside; it talks to each program through a page that begins with [`MARK`].
//!
//! Invariant: no page of canaries, no page of the attack and no marked page is one of the others.

#![no_std]
#![forbid(unsafe_code)]

pub mod sweep;

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Words of a page.
pub const WORDS: u64 = PAGE / 8;
/// Pages of a batch of the attack. Each is read and written, and the kernel stops a device that is
/// refused more than 1000 accesses in a second.
pub const BATCH: u64 = 448;
/// Pages of canaries that there have to be.
pub const CANARIES: u64 = 65_536;

/// The first two words of a page by which a program is found.
pub const MARK: [u64; 2] = [0x2b1d_8c4e_90f7_a635, 0x7c02_e5d9_4b6a_13f8];
/// Word of a marked page: whose it is, [`ROGUE`] or an owner of canaries.
pub const WHO: u64 = 2;
/// Word: what the judge wants, [`WAIT`] until then.
pub const ORDER: u64 = 3;
/// Word: what has to be added to the rogue's addresses for them to be those of its device.
pub const SHIFT: u64 = 4;
/// Word: pages of memory that the machine has.
pub const RAM: u64 = 5;
/// Word: pages of canaries that the owner has.
pub const COUNT: u64 = 6;

/// Word: where the rogue's region begins, for the rogue itself. The marked page is its last.
pub const ADDRESS: u64 = 7;
/// Word: pages of the rogue's region.
pub const OWN: u64 = 8;
/// Word: entries of the list that a rogue gets ([`sweep`]).
pub const LISTED: u64 = 9;
/// Words: the first page to attack, and the one behind the last.
pub const FROM: u64 = 10;
/// See [`FROM`].
pub const TO: u64 = 11;

/// The rogue; owners have other numbers.
pub const ROGUE: u64 = 0;
/// Nothing yet.
pub const WAIT: u64 = 0;
/// The owner looks at its canaries; the rogue attacks every page.
pub const GO: u64 = 1;
/// The rogue attacks canaries alone, because the machine would not survive the rest.
pub const GO_FOR_CANARIES: u64 = 2;
/// The rogue attacks every page and never rests.
pub const GO_ON: u64 = 3;

/// The first word of each page of canaries; no other word of any page has this value.
pub const CANARY: u64 = 0x63a1_77e5_0d9b_c284;
/// The first word of the page that the rogue has its device write everywhere.
pub const ATTACK: u64 = 0xd15e_a5e0_6b3f_921d;

/// A word of a page of canaries.
pub fn canary(owner: u64, page: u64, word: u64) -> u64 {
    match word {
        0 => CANARY,
        1 => owner << 32 | page,
        _ => mix(owner << 48 | page << 16 | word),
    }
}

/// Which owner's page this is and which of them, if it is a whole page of canaries.
pub fn canary_of(page: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
    let (owner, number) = (page(1) >> 32, page(1) & 0xffff_ffff);
    (0..WORDS).all(|word| page(word) == canary(owner, number, word)).then_some((owner, number))
}

/// A word of the page of the attack.
pub fn attack(word: u64) -> u64 {
    if word == 0 { ATTACK } else { mix(!word) }
}

/// Spreads a number over all bits; different numbers stay different (the finalizer of SplitMix64,
/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators").
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// An owner of canaries: a marked page, and canaries in all the others.
pub struct Owner<'m> {
    words: &'m [AtomicU64],
    number: u64,
}

impl<'m> Owner<'m> {
    /// Fills memory, of whole pages, with canaries.
    pub fn new(words: &'m [AtomicU64], number: u64) -> Owner<'m> {
        let owner = Owner { words, number };
        for page in 1..=owner.count() {
            (0..WORDS).for_each(|word| owner.set(page, word, canary(number, page, word)));
        }
        owner.set(0, WHO, number);
        owner.set(0, COUNT, owner.count());
        (0..).zip(MARK).for_each(|(word, value)| owner.set(0, word, value));
        owner
    }

    /// Pages of canaries.
    pub fn count(&self) -> u64 {
        (self.words.len() as u64 / WORDS).saturating_sub(1)
    }

    /// Whether the judge wants the canaries looked at.
    pub fn is_asked(&self) -> bool {
        self.get(0, ORDER) == GO
    }

    /// Pages that are not what they were.
    pub fn changed(&self) -> u64 {
        let is_whole = |page: u64| {
            (0..WORDS).all(|word| self.get(page, word) == canary(self.number, page, word))
        };
        (1..=self.count()).filter(|&page| !is_whole(page)).count() as u64
    }

    fn get(&self, page: u64, word: u64) -> u64 {
        let place = self.words.get((page * WORDS + word) as usize);
        place.map_or(0, |place| place.load(Ordering::Relaxed))
    }

    fn set(&self, page: u64, word: u64, value: u64) {
        if let Some(place) = self.words.get((page * WORDS + word) as usize) {
            place.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_whose_it_is_and_a_changed_one_is_none() {
        for (owner, page) in [(1, 1), (2, 0xffff), (3, 7)] {
            assert_eq!(canary_of(|word| canary(owner, page, word)), Some((owner, page)));
            for spoiled in [0, 1, 2, 300, WORDS - 1] {
                let spoil = |word| canary(owner, page, word) ^ u64::from(word == spoiled);
                assert_eq!(canary_of(spoil), None, "word {spoiled}");
            }
        }
        assert_eq!(canary_of(attack), None);
        assert_eq!(canary_of(|_| 0), None);
    }

    #[test]
    fn an_owner_sees_each_page_that_was_changed() {
        let words = [const { AtomicU64::new(0) }; 4 * WORDS as usize];
        let owner = Owner::new(&words, 2);
        assert_eq!((owner.count(), owner.changed(), owner.is_asked()), (3, 0, false));
        words[2 * WORDS as usize + 77].fetch_xor(1 << 63, Ordering::Relaxed);
        assert_eq!(owner.changed(), 1);
        words[ORDER as usize].store(GO, Ordering::Relaxed);
        assert!(owner.is_asked());
        assert_eq!(words[WHO as usize].load(Ordering::Relaxed), 2);
    }
}
