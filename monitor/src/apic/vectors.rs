//! A set of interrupt vectors: the 256-bit registers of a local APIC.
//!
//! [`Vectors`] is the type of `apic`'s in-service, request and trigger-mode registers. The highest
//! vector is found word by word from the top, because every interrupt asks for it.

use crate::num::{high32, low32};

/// A set of vectors, 64 a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors([u64; 4]);

impl Vectors {
    /// Puts a vector in, or takes it out.
    #[inline(always)]
    pub(super) fn set(&mut self, vector: u8, is_in: bool) {
        let bit = 1u64 << (vector & 63);
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word = if is_in { *word | bit } else { *word & !bit };
        }
    }

    /// Whether there is none.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// Whether a vector is in.
    #[inline(always)]
    pub(super) fn has(&self, vector: u8) -> bool {
        let word = self.0.get(usize::from(vector >> 6)).copied().unwrap_or(0);
        word & 1u64 << (vector & 63) != 0
    }

    /// The highest vector.
    #[inline(always)]
    pub(super) fn highest(&self) -> Option<u8> {
        let (word, base) = match self.0 {
            [.., d] if d != 0 => (d, 192),
            [.., c, _] if c != 0 => (c, 128),
            [_, b, ..] if b != 0 => (b, 64),
            [a, ..] => (a, 0),
        };
        word.checked_ilog2().map(|bit| base | crate::num::low8(u64::from(bit)))
    }

    /// One of the eight 32-bit registers that show the set.
    pub(super) fn register(&self, number: u32) -> u32 {
        let word = self.0.get(crate::num::index(u64::from(number >> 1))).copied().unwrap_or(0);
        if number & 1 == 0 { low32(word) } else { high32(word) }
    }
}
