//! Memory that driver and device share: [`Area`].

use core::sync::atomic::{AtomicU64, Ordering};

/// Words of memory and the address under which the device knows them.
///
/// A value of two or four bytes is read and written as a part of its word. That is enough: each
/// word of a ring is written by one side alone, and a word is accessed as a whole. Bytes are in
/// little-endian order, as virtio has them and as the platform's processors do.
#[derive(Clone, Copy, Debug)]
pub struct Area<'m> {
    at: u64,
    words: &'m [AtomicU64],
}

impl<'m> Area<'m> {
    /// These words, which the device finds at `at`.
    pub fn new(at: u64, words: &'m [AtomicU64]) -> Self {
        Self { at, words }
    }

    /// Where the device finds it.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Makes all of it zero.
    pub fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// A piece of whole words of it; less where it ends.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> Area<'m> {
        let end = (offset + bytes).div_ceil(8).min(self.words.len());
        let start = (offset / 8).min(end);
        Area { at: self.at + start as u64 * 8, words: &self.words[start..end] }
    }

    pub(crate) fn load(&self, word: usize, order: Ordering) -> u64 {
        self.words[word].load(order)
    }

    pub(crate) fn store(&self, word: usize, value: u64, order: Ordering) {
        self.words[word].store(value, order);
    }

    /// The two bytes at an even offset.
    pub(crate) fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        (self.load(offset / 8, order) >> (offset % 8 * 8)) as u16
    }

    /// The four bytes at a multiple of four.
    pub(crate) fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        (self.load(offset / 8, order) >> (offset % 8 * 8)) as u32
    }

    /// Writes two bytes at an even offset of a word that the device does not write.
    pub(crate) fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        let shift = offset % 8 * 8;
        let others = self.load(offset / 8, Ordering::Relaxed) & !(0xffff << shift);
        self.store(offset / 8, others | u64::from(value) << shift, order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_word_is_read_and_written_alone() {
        let words = [const { AtomicU64::new(0) }; 4];
        let area = Area::new(0x1000, &words);
        area.store(1, 0x8877_6655_4433_2211, Ordering::Relaxed);
        assert_eq!(area.load_u16(10, Ordering::Relaxed), 0x4433);
        assert_eq!(area.load_u32(12, Ordering::Relaxed), 0x8877_6655);
        area.store_u16(14, 0xabcd, Ordering::Relaxed);
        assert_eq!(area.load(1, Ordering::Relaxed), 0xabcd_6655_4433_2211);
    }

    #[test]
    fn a_part_stays_inside() {
        let words = [const { AtomicU64::new(0) }; 4];
        let area = Area::new(0x1000, &words);
        let part = area.part(8, 9);
        assert_eq!((part.at(), part.bytes()), (0x1008, 16));
        assert_eq!(area.part(24, 100).bytes(), 8);
        assert_eq!(area.part(100, 100).bytes(), 0);
    }
}
