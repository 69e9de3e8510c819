//! A mapped piece of memory that a device reaches: [`Region`].
//!
//! Neighbours: `lib/rt` makes one for each grant that the manifest gives. Invariant: see the crate;
//! every bound is checked before the first access.

use crate::{Memory, View};

/// A region, mapped for as long as the task lives.
#[derive(Debug)]
pub struct Region {
    base: *mut u8,
    len: usize,
}

impl Region {
    /// The region that is mapped at `base`, for the device at the same address.
    ///
    /// # Safety
    /// For as long as the value lives: (1) `base .. base + len` is mapped, readable and writable;
    /// (2) `base` is a multiple of 8 and comes from an allocation or an exposed mapping of all
    /// these bytes; (3) nothing else in the program refers to any of them. Devices may change them
    /// at any time.
    pub const unsafe fn at(base: *mut u8, len: usize) -> Region {
        Region { base, len }
    }

    /// Two regions in place of this one: the first `at` bytes and the rest. `None` if there are not
    /// so many, or they are no multiple of 8.
    pub fn split(self, at: usize) -> Option<(Region, Region)> {
        let rest = self.len.checked_sub(at).filter(|_| at.is_multiple_of(8))?;
        let first = Region { base: self.base, len: at };
        Some((first, Region { base: self.base.wrapping_add(at), len: rest }))
    }

    /// Its first byte. Whoever uses the pointer has the duties of [`Region::at`], while the region
    /// lives and is not used.
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    /// Where the `len` bytes at `at` are mapped.
    fn place(&self, at: u64, len: usize) -> Option<*mut u8> {
        let at = usize::try_from(at).ok()?;
        let end = at.checked_add(len)?;
        (end <= self.len).then(|| self.base.wrapping_add(at))
    }

    fn aligned<T>(&self, at: u64) -> Option<*mut T> {
        let place = self.place(at, size_of::<T>())?.cast::<T>();
        place.is_aligned().then_some(place)
    }
}

impl Memory for Region {
    fn len(&self) -> u64 {
        u64::try_from(self.len).unwrap_or(u64::MAX)
    }

    fn address(&self, at: u64) -> u64 {
        let base = u64::try_from(self.base.addr()).unwrap_or(u64::MAX);
        base.saturating_add(at)
    }

    fn load_u32(&self, at: u64) -> Option<u32> {
        let place = self.aligned::<u32>(at)?;
        // SAFETY: (1) `aligned` checked that four bytes of the mapping are there, at a multiple of
        // four. (2) The maker of this value vouched for the mapping. (3) A volatile read allows
        // that a device changes them meanwhile; every pattern is a number.
        Some(unsafe { place.read_volatile() })
    }

    fn load_u64(&self, at: u64) -> Option<u64> {
        let place = self.aligned::<u64>(at)?;
        // SAFETY: as for `load_u32`, with eight bytes.
        Some(unsafe { place.read_volatile() })
    }

    fn store_u32(&self, at: u64, value: u32) -> Option<()> {
        let place = self.aligned::<u32>(at)?;
        // SAFETY: as for `load_u32`; the maker vouched that the mapping is writable and that the
        // program has no reference to it.
        unsafe { place.write_volatile(value) };
        Some(())
    }

    fn store_u64(&self, at: u64, value: u64) -> Option<()> {
        let place = self.aligned::<u64>(at)?;
        // SAFETY: as for `store_u32`, with eight bytes.
        unsafe { place.write_volatile(value) };
        Some(())
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Option<()> {
        let mut place = self.place(at, bytes.len())?;
        let words = if place.cast::<u64>().is_aligned() { bytes.len() & !7 } else { 0 };
        let (words, rest) = bytes.split_at_mut_checked(words)?;
        for word in words.as_chunks_mut::<8>().0 {
            // SAFETY: (1) the next eight of the bytes that `place` checked. (2) The first of them
            // is at a multiple of eight, and each step is eight. (3) As for `load_u32`.
            let value = unsafe { place.cast::<u64>().read_volatile() };
            *word = value.to_le_bytes();
            place = place.wrapping_add(8);
        }
        for byte in rest {
            // SAFETY: the next of the bytes that `place` checked; a byte has no alignment.
            *byte = unsafe { place.read_volatile() };
            place = place.wrapping_add(1);
        }
        Some(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        let mut place = self.place(at, bytes.len())?;
        let words = if place.cast::<u64>().is_aligned() { bytes.len() & !7 } else { 0 };
        let (words, rest) = bytes.split_at_checked(words)?;
        for word in words.as_chunks::<8>().0 {
            let value = u64::from_le_bytes(*word);
            // SAFETY: as in `read`, and the mapping is writable.
            unsafe { place.cast::<u64>().write_volatile(value) };
            place = place.wrapping_add(8);
        }
        for byte in rest {
            // SAFETY: as in `read`, and the mapping is writable.
            unsafe { place.write_volatile(*byte) };
            place = place.wrapping_add(1);
        }
        Some(())
    }

    fn view<const GROUPS: usize>(&self, at: u64) -> Option<View<'_, GROUPS>> {
        let place = self.place(at, View::<GROUPS>::BYTES)?;
        // SAFETY: (1) `place` checked that the mapping has as many bytes there, and the maker of
        // this value, which the view borrows, vouched for the mapping. (2) He vouched for that
        // nothing else refers to it, and this crate makes no references.
        unsafe { View::at(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::Region;
    use crate::Memory;

    const LEN: usize = 48;
    /// Bytes on either side, which no access may change.
    const FENCE: usize = 16;
    const CANARY: u8 = 0xa5;

    /// A region between two fences; the memory is only used through the pointer.
    struct Bench {
        words: *mut [u64],
    }

    impl Bench {
        fn new() -> Bench {
            let words = vec![u64::from_le_bytes([CANARY; 8]); (LEN + 2 * FENCE) / 8];
            Bench { words: Box::into_raw(words.into_boxed_slice()) }
        }

        fn region(&self) -> Region {
            let base = self.words.cast::<u8>().wrapping_add(FENCE);
            // SAFETY: (1) the box has `FENCE + LEN` bytes behind its start, which is aligned to 8,
            // as is `FENCE`. (2) Nothing refers to them until the bench is dropped, which outlives
            // its regions in every test.
            unsafe { Region::at(base, LEN) }
        }

        fn all(&self) -> Vec<u8> {
            let mut bytes = vec![0; LEN + 2 * FENCE];
            // SAFETY: all bytes of the box; otherwise as in `region`.
            let all = unsafe { Region::at(self.words.cast(), bytes.len()) };
            all.read(0, &mut bytes).unwrap();
            bytes
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            // SAFETY: the pointer came from `Box::into_raw` and is freed once.
            drop(unsafe { Box::from_raw(self.words) });
        }
    }

    fn fenced(inner: &[u8]) -> Vec<u8> {
        [&[CANARY; FENCE], inner, &[CANARY; FENCE]].concat()
    }

    #[test]
    fn every_copy_is_exact_or_refused() {
        let source: Vec<u8> = (100..250).collect();
        let far = [u64::MAX - 7, u64::MAX, 1 << 63];
        for at in (0..(LEN + FENCE) as u64).chain(far) {
            for len in 0..LEN + FENCE {
                let bench = Bench::new();
                let mut expected = vec![CANARY; LEN];
                let result = bench.region().write(at, &source[..len]);
                let there = expected.get_mut(at as usize..).and_then(|rest| rest.get_mut(..len));
                let fits = there.is_some();
                if let Some(there) = there {
                    there.copy_from_slice(&source[..len]);
                }
                assert_eq!(result.is_some(), fits, "{at} {len}");
                assert_eq!(bench.all(), fenced(&expected), "{at} {len}");
                let mut back = vec![0; len];
                assert_eq!(bench.region().read(at, &mut back).is_some(), fits, "{at} {len}");
                assert!(!fits || back == source[..len], "{at} {len}");
            }
        }
    }

    #[test]
    fn values_are_aligned_and_inside() {
        let bench = Bench::new();
        let region = bench.region();
        for at in (0..80).chain([u64::MAX - 3, u64::MAX]) {
            let fits = |size: u64| at % size == 0 && at <= LEN as u64 - size;
            assert_eq!(region.store_u32(at, 0x0403_0201).is_some(), fits(4), "{at}");
            assert_eq!(region.load_u32(at), fits(4).then_some(0x0403_0201), "{at}");
            assert_eq!(region.store_u64(at, 0x0807_0605_0403_0201).is_some(), fits(8), "{at}");
            assert_eq!(region.load_u64(at), fits(8).then_some(0x0807_0605_0403_0201), "{at}");
        }
        // A store of four bytes at the upper half of each word came after that of all eight.
        let mut expected = [1, 2, 3, 4].repeat(LEN / 4);
        assert_eq!(bench.all(), fenced(&expected));
        assert_eq!(region.clear(8, 16), Some(()));
        expected[8..24].fill(0);
        assert_eq!(bench.all(), fenced(&expected));
        assert_eq!(region.clear(40, 16), None);
    }

    #[test]
    fn a_region_is_split_in_two_that_do_not_meet() {
        let bench = Bench::new();
        for at in [0, 8, 40, LEN] {
            let (first, rest) = bench.region().split(at).unwrap();
            assert_eq!((first.len(), rest.len()), (at as u64, (LEN - at) as u64));
            assert_eq!(first.base(), bench.region().base());
            assert_eq!(rest.address(0), bench.region().address(at as u64));
            assert_eq!(first.write(at as u64, &[1]).or(rest.write((LEN - at) as u64, &[1])), None);
        }
        for wrong in [4, LEN + 8, usize::MAX - 7] {
            assert!(bench.region().split(wrong).is_none(), "{wrong}");
        }
        assert_eq!(bench.all(), fenced(&[CANARY; LEN]));
    }

    #[test]
    fn the_device_uses_the_tasks_address() {
        let bench = Bench::new();
        let region = bench.region();
        assert_eq!(region.address(8), bench.words.cast::<u8>().addr() as u64 + FENCE as u64 + 8);
        assert_eq!((region.len(), region.is_empty()), (LEN as u64, false));
    }
}
