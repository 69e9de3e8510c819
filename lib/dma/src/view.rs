//! A piece of a memory that others change, looked up once: [`View`].
//!
//! Whoever moves a block through vector registers asks for it once and then takes [`Spot`]s of it,
//! each a [`Group`] that is loaded, or stored, as a value. [`View::copy_to`] does it for a plain copy.
//! [`Shelf`] is memory of the program itself that looks the same.
//! Neighbours: [`crate::Memory::view`] gives views of what a device reaches, `lib/guestmem` of what
//! a guest writes. Invariant: all bytes of a view are there while it lives; a load or a store
//! touches each of a group's bytes once, by volatile accesses, and makes no reference to them.

use core::marker::PhantomData;

use crate::word::{Word, from_bytes, to_bytes};

/// Bytes of a lane; every view begins at a multiple.
pub const LANE: usize = 16;
/// Lanes of a group: as many as a cipher works side by side.
pub const LANES: usize = 8;
/// What is loaded or stored at once.
pub type Group = [[u8; LANE]; LANES];

/// Bytes of a word, and words of a group.
const WORD: usize = size_of::<Word>();
const WORDS: usize = size_of::<Group>() / WORD;

const _: () = assert!(LANE.is_multiple_of(WORD) && LANE.is_multiple_of(align_of::<Word>()));

/// So many groups of a memory that lives for `'m`.
#[derive(Debug)]
pub struct View<'m, const GROUPS: usize> {
    words: *mut Word,
    memory: PhantomData<&'m ()>,
}

impl<'m, const GROUPS: usize> View<'m, GROUPS> {
    /// Bytes of it.
    pub const BYTES: usize = GROUPS.saturating_mul(size_of::<Group>());

    /// The view of the bytes that are mapped at `place`; `None` if that is no multiple of [`LANE`].
    ///
    /// # Safety
    /// For `'m`: (1) `View::BYTES` bytes from `place` on are mapped, readable and writable, and
    /// `place` comes from an allocation or an exposed mapping of all of them; (2) the program has
    /// no reference to any of them but to atomics. Others may change them at any time.
    pub unsafe fn at(place: *mut u8) -> Option<View<'m, GROUPS>> {
        let is_aligned = place.addr().is_multiple_of(LANE);
        is_aligned.then_some(View { words: place.cast(), memory: PhantomData })
    }

    /// Its groups, one after the other.
    #[inline(always)]
    pub fn spots(&self) -> impl Iterator<Item = Spot<'m>> + use<'m, GROUPS> {
        let words = self.words;
        (0..GROUPS).map(move |nth| Spot {
            words: words.wrapping_add(nth.wrapping_mul(WORDS)),
            memory: PhantomData,
        })
    }

    /// Copies all of it, each byte once.
    pub fn copy_to(&self, target: &View<'_, GROUPS>) {
        let (mut from, mut to) = (self.words, target.words);
        for _ in 0..GROUPS.saturating_mul(WORDS) {
            // SAFETY: (1) either view has as many words as there are turns: whoever made it vouched
            // for the bytes of its groups. (2) `View::at` checked that they begin at a multiple of
            // `LANE`, which suffices for a word, and each step is one. (3) The access is volatile,
            // so that somebody who changes the bytes meanwhile changes what is read and nothing
            // else; every pattern is a word.
            let word = unsafe { from.read_volatile() };
            // SAFETY: as for the line before, and the bytes are writable.
            unsafe { to.write_volatile(word) };
            (from, to) = (from.wrapping_add(1), to.wrapping_add(1));
        }
    }
}

/// So many groups of the program's own, which nobody else changes.
#[repr(C, align(16))]
pub struct Shelf<const GROUPS: usize>([Group; GROUPS]);

impl<const GROUPS: usize> Shelf<GROUPS> {
    /// Zeros.
    pub const ZEROS: Shelf<GROUPS> = Shelf([[[0; LANE]; LANES]; GROUPS]);

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8] {
        self.0.as_flattened().as_flattened()
    }

    /// Its bytes, to be changed.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_flattened_mut().as_flattened_mut()
    }

    /// A view of all of it.
    pub const fn view(&mut self) -> View<'_, GROUPS> {
        // The groups are mapped, writable and at a multiple of sixteen; the view borrows them for
        // as long as it lives, so the program has no other reference to them.
        View { words: (&raw mut self.0).cast(), memory: PhantomData }
    }
}

/// The place of one group in a [`View`].
#[derive(Debug)]
pub struct Spot<'m> {
    words: *mut Word,
    memory: PhantomData<&'m ()>,
}

impl Spot<'_> {
    /// What is there now.
    #[inline(always)]
    pub fn load(&self) -> Group {
        let mut group = [[0; LANE]; LANES];
        let mut place = self.words;
        for bytes in group.as_flattened_mut().as_chunks_mut::<WORD>().0 {
            // SAFETY: (1) the next of the words of a group of the view: only `View::spots` makes
            // spots, below the view's number of groups, and for as long as its memory lives. (2)
            // and (3) as in `View::copy_to`.
            let word = unsafe { place.read_volatile() };
            *bytes = to_bytes(word);
            place = place.wrapping_add(1);
        }
        group
    }

    /// Puts this there.
    #[inline(always)]
    pub fn store(&self, group: Group) {
        let mut place = self.words;
        for bytes in group.as_flattened().as_chunks::<WORD>().0 {
            // SAFETY: as in `load`, and the bytes are writable.
            unsafe { place.write_volatile(from_bytes(*bytes)) };
            place = place.wrapping_add(1);
        }
    }
}
