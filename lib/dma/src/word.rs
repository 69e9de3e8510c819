//! What one instruction moves: [`Word`], as bytes and back.
//!
//! Sixteen bytes in programs that are compiled for vector registers, eight in the others.
//! Invariant: a word has no padding, and every pattern of bytes is one.

#[cfg(target_feature = "sse2")]
mod vector {
    use core::arch::x86_64::__m128i;

    pub(crate) type Word = __m128i;

    #[inline(always)]
    pub(crate) fn to_bytes(word: Word) -> [u8; size_of::<Word>()] {
        // SAFETY: sixteen bytes without padding become sixteen bytes.
        unsafe { core::mem::transmute::<__m128i, [u8; 16]>(word) }
    }

    #[inline(always)]
    pub(crate) fn from_bytes(bytes: [u8; size_of::<Word>()]) -> Word {
        // SAFETY: sixteen bytes become as many without padding; every pattern is a value.
        unsafe { core::mem::transmute::<[u8; 16], __m128i>(bytes) }
    }
}

#[cfg(not(target_feature = "sse2"))]
mod general {
    pub(crate) type Word = u64;

    pub(crate) fn to_bytes(word: Word) -> [u8; size_of::<Word>()] {
        word.to_ne_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; size_of::<Word>()]) -> Word {
        Word::from_ne_bytes(bytes)
    }
}

#[cfg(not(target_feature = "sse2"))]
pub(crate) use general::{Word, from_bytes, to_bytes};
#[cfg(target_feature = "sse2")]
pub(crate) use vector::{Word, from_bytes, to_bytes};
