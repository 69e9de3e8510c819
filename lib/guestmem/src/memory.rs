//! A guest's RAM: the trait [`Ram`], and [`GuestMemory`], which is a mapping of it.
//!
//! Payload is copied by volatile accesses, words of eight bytes where alignment allows. Indices,
//! which order other accesses, are atomics; the caller names the ordering. Values are little
//! endian, as virtio and x86 have them.
//! Invariant: an access touches exactly the bytes it names, each once, or none at all.

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use cloister_dma::View;

use crate::address::{GuestPhys, Range};

/// Why an access was not made. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddress {
    /// Not all of it lies in RAM.
    Outside,
    /// The address of a value is no multiple of its size.
    Unaligned,
}

/// Bytes that stand between two memories while they are copied piece by piece.
const BETWEEN: usize = 256;
/// Bytes of a word.
const WORD: usize = 8;

/// What copies so many words from one memory to another, each once. Whoever calls it vouches for
/// that they are mapped readable and writable, and that both addresses are multiples of eight.
pub type CopyWords = unsafe fn(from: *const u64, to: *mut u64, words: usize);

/// What may be done with a guest's memory.
pub trait Ram {
    /// Bytes of RAM, from guest-physical 0 upwards.
    fn size(&self) -> u64;

    /// Copies guest bytes out.
    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress>;

    /// Copies bytes into the guest.
    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress>;

    /// Loads an aligned index; `order` is one that loads may have.
    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress>;

    /// Stores an aligned index; `order` is one that stores may have.
    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress>;

    /// Stores an aligned value; `order` is one that stores may have.
    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress>;

    /// Copies a piece of this memory to another one of the same kind, to `at` and on.
    fn copy_to(&self, from: Range, to: &Self, at: GuestPhys) -> Result<(), BadAddress>
    where
        Self: Sized,
    {
        let target = Range::new(at, from.len()).ok_or(BadAddress::Outside)?;
        if !self.holds(from) || !to.holds(target) {
            return Err(BadAddress::Outside);
        }
        copy_pieces(self, from, to, target)
    }

    /// So many groups at an address, to be loaded and stored group by group. `None` if they are not
    /// all RAM, do not lie at a multiple of sixteen bytes, or if this memory has no views: there are
    /// copies then.
    fn view<const GROUPS: usize>(&self, _: GuestPhys) -> Option<View<'_, GROUPS>> {
        None
    }

    /// Whether all of a range is RAM.
    fn holds(&self, range: Range) -> bool {
        range.end().get() <= self.size()
    }

    /// Reads sixteen bytes at any address, once: two little-endian values.
    fn read_pair(&self, at: GuestPhys) -> Result<[u64; 2], BadAddress> {
        let mut bytes = [0; 16];
        self.read_into(at, &mut bytes)?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        Ok([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)])
    }

    /// Reads a value at any address.
    fn read_u16(&self, at: GuestPhys) -> Result<u16, BadAddress> {
        let mut bytes = [0; 2];
        self.read_into(at, &mut bytes).map(|()| u16::from_le_bytes(bytes))
    }

    /// Reads a value at any address.
    fn read_u32(&self, at: GuestPhys) -> Result<u32, BadAddress> {
        let mut bytes = [0; 4];
        self.read_into(at, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    /// Reads a value at any address.
    fn read_u64(&self, at: GuestPhys) -> Result<u64, BadAddress> {
        let mut bytes = [0; 8];
        self.read_into(at, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }
}

impl<M: Ram + ?Sized> Ram for &M {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        (**self).read_into(at, bytes)
    }

    fn read_pair(&self, at: GuestPhys) -> Result<[u64; 2], BadAddress> {
        (**self).read_pair(at)
    }

    fn view<const GROUPS: usize>(&self, at: GuestPhys) -> Option<View<'_, GROUPS>> {
        (**self).view(at)
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        (**self).write_from(at, bytes)
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        (**self).load_u16(at, order)
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        (**self).store_u16(at, value, order)
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        (**self).store_u32(at, value, order)
    }
}

/// A guest's RAM, mapped.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory {
    base: *mut u8,
    len: usize,
    copy: CopyWords,
}

impl GuestMemory {
    /// The RAM that is mapped at `base`.
    ///
    /// # Safety
    /// For as long as the value or a copy of it lives: (1) `base .. base + len` is mapped,
    /// readable and writable; (2) `base` is a multiple of 8 and comes from an allocation or an
    /// exposed mapping of all these bytes; (3) the program has no reference to any of them but to
    /// atomics. Others (the guest) may change them at any time.
    pub const unsafe fn at(base: *mut u8, len: usize) -> GuestMemory {
        GuestMemory { base, len, copy: copy_words }
    }

    /// The same memory, from which words are copied to another one by `copy`, which knows a shorter
    /// way than this crate.
    ///
    /// # Safety
    /// `copy` does what [`CopyWords`] says and nothing else.
    pub const unsafe fn copying_by(self, copy: CopyWords) -> GuestMemory {
        GuestMemory { copy, ..self }
    }

    /// Where the `len` bytes at `at` are mapped.
    fn place(&self, at: GuestPhys, len: usize) -> Result<*mut u8, BadAddress> {
        let bytes = u64::try_from(len).map_err(|_| BadAddress::Outside)?;
        let range = Range::new(at, bytes).ok_or(BadAddress::Outside)?;
        let offset = usize::try_from(at.get()).map_err(|_| BadAddress::Outside)?;
        // An empty range at the end of RAM gives the pointer behind it, which nothing follows.
        if self.holds(range) {
            Ok(self.base.wrapping_add(offset))
        } else {
            Err(BadAddress::Outside)
        }
    }

    fn aligned<T>(&self, at: GuestPhys) -> Result<*mut T, BadAddress> {
        let place = self.place(at, size_of::<T>())?.cast::<T>();
        if place.is_aligned() { Ok(place) } else { Err(BadAddress::Unaligned) }
    }

    fn atomic_u16(&self, at: GuestPhys) -> Result<&AtomicU16, BadAddress> {
        let place = self.aligned::<u16>(at)?;
        // SAFETY: (1) `aligned` checked that two bytes of the mapping are there, at an even
        // address. (2) The maker of this value vouched for the mapping and for that the program
        // has no other reference. (3) The reference lives no longer than the value, and a guest
        // that changes the bytes does what atomics allow.
        Ok(unsafe { AtomicU16::from_ptr(place) })
    }

    fn atomic_u32(&self, at: GuestPhys) -> Result<&AtomicU32, BadAddress> {
        let place = self.aligned::<u32>(at)?;
        // SAFETY: as for `atomic_u16`, with four bytes at a multiple of four.
        Ok(unsafe { AtomicU32::from_ptr(place) })
    }
}

/// Bytes before the first address from which words can be copied, at most `len`.
fn bytes_to_word(place: *const u8, len: usize) -> usize {
    place.align_offset(align_of::<u64>()).min(len)
}

/// Copies bytes out; returns where the next one is.
///
/// # Safety
/// As many bytes as `to` has are mapped readable at `from`.
unsafe fn read_bytes(mut from: *const u8, to: &mut [u8]) -> *const u8 {
    for byte in to {
        // SAFETY: the caller vouches for as many bytes as there are turns.
        *byte = unsafe { from.read_volatile() };
        from = from.wrapping_add(1);
    }
    from
}

/// Copies a range of one memory to another of the same length, by way of bytes on the stack.
fn copy_pieces<M: Ram>(of: &M, from: Range, to: &M, target: Range) -> Result<(), BadAddress> {
    let mut bytes = [0; BETWEEN];
    let mut done = 0;
    while done < from.len() {
        let most = u64::try_from(BETWEEN).unwrap_or(u64::MAX);
        let (piece, place) = (from.part(done, most), target.part(done, most));
        let (Some(piece), Some(place)) = (piece, place) else {
            return Err(BadAddress::Outside);
        };
        let len = usize::try_from(piece.len()).map_err(|_| BadAddress::Outside)?;
        let bytes = bytes.get_mut(..len).ok_or(BadAddress::Outside)?;
        of.read_into(piece.start(), bytes)?;
        to.write_from(place.start(), bytes)?;
        done = done.saturating_add(piece.len());
    }
    Ok(())
}

/// Copies words from one memory to another, one by one.
///
/// # Safety
/// (1) `words` words are mapped readable at `from` and writable at `to`. (2) Both are multiples of
/// eight.
unsafe fn copy_words(mut from: *const u64, mut to: *mut u64, words: usize) {
    for _ in 0..words {
        // SAFETY: the caller vouches for as many words as there are turns, and their alignment.
        let word = unsafe { from.read_volatile() };
        // SAFETY: as for the line before.
        unsafe { to.write_volatile(word) };
        (from, to) = (from.wrapping_add(1), to.wrapping_add(1));
    }
}

/// Copies bytes in; returns where the next one is.
///
/// # Safety
/// As many bytes as `from` has are mapped writable at `to`.
unsafe fn write_bytes(mut to: *mut u8, from: &[u8]) -> *mut u8 {
    for byte in from {
        // SAFETY: the caller vouches for as many bytes as there are turns.
        unsafe { to.write_volatile(*byte) };
        to = to.wrapping_add(1);
    }
    to
}

impl Ram for GuestMemory {
    fn size(&self) -> u64 {
        u64::try_from(self.len).unwrap_or(u64::MAX)
    }

    fn read_into(&self, at: GuestPhys, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let place = self.place(at, bytes.len())?.cast_const();
        let (first, rest) = bytes.split_at_mut(bytes_to_word(place, bytes.len()));
        let (words, last) = rest.as_chunks_mut::<8>();
        // SAFETY: `place` checked that the mapping has `bytes.len()` bytes there; these are the
        // first of them.
        let mut place = unsafe { read_bytes(place, first) };
        for word in words {
            // SAFETY: (1) the next eight of the bytes that were checked. (2) `first` ends at a
            // multiple of eight, or `words` is empty.
            let value = unsafe { place.cast::<u64>().read_volatile() };
            *word = value.to_le_bytes();
            place = place.wrapping_add(8);
        }
        // SAFETY: the last of the bytes that were checked.
        unsafe { read_bytes(place, last) };
        Ok(())
    }

    fn write_from(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), BadAddress> {
        let place = self.place(at, bytes.len())?;
        let (first, rest) = bytes.split_at(bytes_to_word(place, bytes.len()));
        let (words, last) = rest.as_chunks::<8>();
        // SAFETY: `place` checked that the mapping has `bytes.len()` bytes there; these are the
        // first of them.
        let mut place = unsafe { write_bytes(place, first) };
        for word in words {
            let value = u64::from_le_bytes(*word);
            // SAFETY: (1) the next eight of the bytes that were checked. (2) `first` ends at a
            // multiple of eight, or `words` is empty.
            unsafe { place.cast::<u64>().write_volatile(value) };
            place = place.wrapping_add(8);
        }
        // SAFETY: the last of the bytes that were checked.
        unsafe { write_bytes(place, last) };
        Ok(())
    }

    fn copy_to(&self, from: Range, to: &Self, at: GuestPhys) -> Result<(), BadAddress> {
        let len = usize::try_from(from.len()).map_err(|_| BadAddress::Outside)?;
        let source = self.place(from.start(), len)?.cast_const().cast::<u64>();
        let target = to.place(at, len)?.cast::<u64>();
        let mut done = 0;
        if source.is_aligned() && target.is_aligned() {
            let words = len / WORD;
            // SAFETY: (1) `place` checked that either mapping has `len` bytes there, and the words
            // have no more. (2) Both are aligned to words. (3) `copy` does what its type says: it
            // is this crate's, or its giver vouched for it.
            unsafe { (self.copy)(source, target, words) };
            done = words.saturating_mul(WORD);
        }
        // What is left are bytes at the end, or all of them where words do not lie alike.
        let done = u64::try_from(done).unwrap_or(u64::MAX);
        let rest = from.part(done, from.len()).ok_or(BadAddress::Outside)?;
        let target = Range::new(at, from.len()).and_then(|target| target.part(done, from.len()));
        copy_pieces(self, rest, to, target.ok_or(BadAddress::Outside)?)
    }

    fn read_pair(&self, at: GuestPhys) -> Result<[u64; 2], BadAddress> {
        let place = self.place(at, 16)?.cast_const().cast::<[u64; 2]>();
        if !place.is_aligned() {
            return Ok([
                self.read_u64(at)?,
                self.read_u64(at.checked_add(8).ok_or(BadAddress::Outside)?)?,
            ]);
        }
        // SAFETY: (1) `place` checked that the mapping has sixteen bytes there. (2) They begin at
        // a multiple of eight. (3) The access is volatile, so that a guest which changes them
        // meanwhile changes what is read and nothing else.
        let [low, high] = unsafe { place.read_volatile() };
        Ok([u64::from_le(low), u64::from_le(high)])
    }

    fn view<const GROUPS: usize>(&self, at: GuestPhys) -> Option<View<'_, GROUPS>> {
        let place = self.place(at, View::<GROUPS>::BYTES).ok()?;
        // SAFETY: (1) `place` checked that the mapping has as many bytes there, and the maker of
        // this value, which the view borrows, vouched for the mapping. (2) He vouched for that the
        // program has no reference to them but to atomics.
        unsafe { View::at(place) }
    }

    fn load_u16(&self, at: GuestPhys, order: Ordering) -> Result<u16, BadAddress> {
        Ok(self.atomic_u16(at)?.load(order))
    }

    fn store_u16(&self, at: GuestPhys, value: u16, order: Ordering) -> Result<(), BadAddress> {
        self.atomic_u16(at)?.store(value, order);
        Ok(())
    }

    fn store_u32(&self, at: GuestPhys, value: u32, order: Ordering) -> Result<(), BadAddress> {
        self.atomic_u32(at)?.store(value, order);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BadAddress, GuestMemory, Ram};
    use crate::address::{GuestPhys, Range};
    use core::sync::atomic::Ordering;
    use proptest::prelude::*;

    const RAM: usize = 64;
    /// Bytes on either side of the RAM, which no access may change.
    const FENCE: usize = 16;
    const CANARY: u8 = 0xa5;

    /// RAM between two fences; the memory is only used through the pointer.
    struct Bench {
        words: *mut [u64],
    }

    impl Bench {
        fn new() -> Bench {
            let words = vec![u64::from_le_bytes([CANARY; 8]); (RAM + 2 * FENCE) / 8];
            let bench = Bench { words: Box::into_raw(words.into_boxed_slice()) };
            bench.ram().write_from(GuestPhys::new(0), &numbered()).unwrap();
            bench
        }

        fn ram(&self) -> GuestMemory {
            let base = self.words.cast::<u8>().wrapping_add(FENCE);
            // SAFETY: (1) the box has `FENCE + RAM` bytes behind its start, which is aligned to 8,
            // as is `FENCE`. (2) Nothing refers to them until `Drop` of the bench, which outlives
            // its memories in every test.
            unsafe { GuestMemory::at(base, RAM) }
        }

        /// All bytes, fences included, by a memory that begins before the RAM.
        fn all(&self) -> Vec<u8> {
            let mut bytes = vec![0; RAM + 2 * FENCE];
            // SAFETY: all bytes of the box; otherwise as in `ram`.
            let all = unsafe { GuestMemory::at(self.words.cast(), bytes.len()) };
            all.read_into(GuestPhys::new(0), &mut bytes).unwrap();
            bytes
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            // SAFETY: the pointer came from `Box::into_raw` and is freed once.
            drop(unsafe { Box::from_raw(self.words) });
        }
    }

    fn numbered() -> Vec<u8> {
        (1..=RAM as u8).collect()
    }

    fn with_fences(ram: &[u8]) -> Vec<u8> {
        [&[CANARY; FENCE], ram, &[CANARY; FENCE]].concat()
    }

    /// Every address near the RAM with every length up to more than it has, and far ones.
    fn all_ranges() -> impl Iterator<Item = (u64, usize)> {
        let near = 0..(RAM + FENCE) as u64;
        let far = [u64::MAX - 63, u64::MAX - 1, u64::MAX, 1 << 63, 1 << 32];
        near.chain(far).flat_map(|at| (0..RAM + FENCE).map(move |len| (at, len)))
    }

    #[test]
    fn every_read_is_exact_or_refused() {
        let bench = Bench::new();
        let expected = numbered();
        for (at, len) in all_ranges() {
            let mut bytes = vec![0; len];
            let result = bench.ram().read_into(GuestPhys::new(at), &mut bytes);
            match expected.get(at as usize..).and_then(|rest| rest.get(..len)) {
                Some(there) => assert_eq!((result, &bytes[..]), (Ok(()), there), "{at} {len}"),
                None => {
                    assert_eq!(result, Err(BadAddress::Outside), "{at} {len}");
                    assert!(bytes.iter().all(|byte| *byte == 0), "{at} {len}");
                }
            }
        }
        for at in 0..(RAM + FENCE) as u64 {
            let there = expected.get(at as usize..).and_then(|rest| rest.first_chunk::<16>());
            let read = bench.ram().read_pair(GuestPhys::new(at));
            let read = read.map(|[low, high]| u128::from(high) << 64 | u128::from(low));
            let there = there.map(|bytes| u128::from_le_bytes(*bytes));
            assert_eq!(read, there.ok_or(BadAddress::Outside), "{at}");
        }
        assert_eq!(bench.ram().read_pair(GuestPhys::new(u64::MAX - 7)), Err(BadAddress::Outside));
        assert_eq!(bench.all(), with_fences(&expected));
    }

    #[test]
    fn every_write_is_exact_or_refused() {
        let source: Vec<u8> = (100..=255).collect();
        for (at, len) in all_ranges() {
            let bench = Bench::new();
            let mut expected = numbered();
            let result = bench.ram().write_from(GuestPhys::new(at), &source[..len]);
            match expected.get_mut(at as usize..).and_then(|rest| rest.get_mut(..len)) {
                Some(there) => {
                    there.copy_from_slice(&source[..len]);
                    assert_eq!(result, Ok(()), "{at} {len}");
                }
                None => assert_eq!(result, Err(BadAddress::Outside), "{at} {len}"),
            }
            assert_eq!(bench.all(), with_fences(&expected), "{at} {len}");
        }
    }

    #[test]
    fn every_copy_is_exact_or_refused() {
        let expected = numbered();
        for (at, len) in all_ranges() {
            let Some(from) = Range::new(GuestPhys::new(at), len as u64) else { continue };
            for to in [0, 1, 8, 60, 64, 65] {
                let (source, target) = (Bench::new(), Bench::new());
                target.ram().write_from(GuestPhys::new(0), &[0; RAM]).unwrap();
                let result = source.ram().copy_to(from, &target.ram(), GuestPhys::new(to));
                let there = expected.get(at as usize..).and_then(|rest| rest.get(..len));
                let mut after = [0; RAM];
                let place = after.get_mut(to as usize..).and_then(|rest| rest.get_mut(..len));
                match (there, place) {
                    (Some(there), Some(place)) => {
                        place.copy_from_slice(there);
                        assert_eq!(result, Ok(()), "{at} {len} {to}");
                    }
                    _ => assert_eq!(result, Err(BadAddress::Outside), "{at} {len} {to}"),
                }
                assert_eq!(target.all(), with_fences(&after), "{at} {len} {to}");
                assert_eq!(source.all(), with_fences(&expected));
            }
        }
    }

    #[test]
    fn indices_are_aligned_and_inside() {
        let bench = Bench::new();
        let ram = bench.ram();
        let at = GuestPhys::new;
        assert_eq!(ram.load_u16(at(2), Ordering::Acquire), Ok(0x0403));
        assert_eq!(ram.load_u16(at(62), Ordering::Relaxed), Ok(0x403f));
        assert_eq!(ram.load_u16(at(3), Ordering::Relaxed), Err(BadAddress::Unaligned));
        assert_eq!(ram.store_u32(at(2), 1, Ordering::Relaxed), Err(BadAddress::Unaligned));
        for outside in [63, 64, 65, u64::MAX - 1, u64::MAX] {
            let refused = Err(BadAddress::Outside);
            assert_eq!(ram.load_u16(at(outside), Ordering::Relaxed), refused.map(|()| 0));
            assert_eq!(ram.store_u16(at(outside), 1, Ordering::Relaxed), refused);
            assert_eq!(ram.store_u32(at(outside), 1, Ordering::Relaxed), refused);
        }
        assert_eq!(bench.all(), with_fences(&numbered()), "a refused store changed something");
        assert_eq!(ram.store_u16(at(62), 0xbeef, Ordering::Release), Ok(()));
        assert_eq!(ram.store_u32(at(4), 0x0102_0304, Ordering::Relaxed), Ok(()));
        assert_eq!(ram.read_u16(at(62)), Ok(0xbeef));
        assert_eq!(ram.read_u32(at(4)), Ok(0x0102_0304));
        assert_eq!(ram.read_u64(at(57)), Err(BadAddress::Outside));
        assert_eq!(ram.read_u64(at(0)), Ok(0x0102_0304_0403_0201));
    }

    proptest! {
        #[test]
        fn memory_holds_what_ends_in_it(start: u64, len: u64, near in 0..2 * RAM as u64) {
            let bench = Bench::new();
            for (start, len) in [(start, len), (near, near), (near, len % 80)] {
                let range = Range::new(GuestPhys::new(start), len);
                let inside = u128::from(start) + u128::from(len) <= RAM as u128;
                prop_assert_eq!(range.is_some_and(|range| bench.ram().holds(range)), inside);
            }
        }
    }
}
