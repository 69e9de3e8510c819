//! The tweaks of a block: [`Tweaks`], a group of them after the other.
//!
//! A tweak is four words of 32 bits, of which all are treated alike, so that the compiler doubles
//! them in one vector register: seven instructions, where two words of 64 bits take eleven in
//! general registers. Invariant: nothing branches on a tweak.

use core::hint::black_box;

use crate::{AES_BLOCK, Group, LANES};

/// What a word gets if the highest bit of the word below it was set: x^128 in terms of lower powers
/// comes into the lowest (IEEE 1619, "Multiplication by a primitive element").
const CARRIES: [u32; 4] = [0x87, 1, 1, 1];

/// Words of a tweak, the lowest first, where vector instructions can use them.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Tweak([u32; 4]);

/// The tweaks of a group, and what makes the next group's of them.
pub(crate) struct Tweaks {
    group: [Tweak; LANES],
    next: Tweak,
    carries: Tweak,
}

impl Tweaks {
    /// The tweaks of the block whose first is this one. None is there before [`Tweaks::advance`].
    #[inline(always)]
    pub(crate) fn from(first: &[u8; AES_BLOCK]) -> Tweaks {
        let mut next = Tweak([0; 4]);
        for (word, bytes) in next.0.iter_mut().zip(first.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // A compiler that knew these numbers would treat the first word in another way than the
        // others, and each of them by itself.
        let carries = Tweak(black_box(CARRIES));
        Tweaks { group: [Tweak([0; 4]); LANES], next, carries }
    }

    /// Goes on to the next group. Not inlined, so that the tweaks come in memory, and the registers
    /// are the data's.
    #[inline(never)]
    pub(crate) fn advance(&mut self) {
        let mut next = self.next;
        for tweak in &mut self.group {
            *tweak = next;
            next = double(next, self.carries);
        }
        self.next = next;
    }

    /// Adds each tweak to its AES block.
    #[inline(always)]
    pub(crate) fn add_to(&self, group: &mut Group) {
        for (block, tweak) in group.iter_mut().zip(&self.group) {
            let (words, _) = block.as_chunks_mut();
            for (word, by) in words.iter_mut().zip(&tweak.0) {
                *word = (u32::from_le_bytes(*word) ^ by).to_le_bytes();
            }
        }
    }
}

/// A tweak times x.
#[inline(always)]
fn double(Tweak([a, b, c, d]): Tweak, Tweak(carries): Tweak) -> Tweak {
    let mut words = [a, b, c, d];
    for ((word, below), carry) in words.iter_mut().zip([d, a, b, c]).zip(carries) {
        // All ones if the highest bit is set.
        let mask = below.cast_signed().wrapping_shr(31).cast_unsigned();
        *word = (*word << 1) ^ (mask & carry);
    }
    Tweak(words)
}
