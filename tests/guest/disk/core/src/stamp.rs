//! A block of the disk: who wrote it, and that it is whole.

use crc::{CRC_32_ISCSI, Crc};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Bytes of the numbers at the front, and of the checksum at the end.
const HEAD: usize = 24;
const SUM: usize = 4;

const CHECK: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What a whole block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// What the write with this sequence number put there.
    Write(u64),
}

/// A block that nobody wrote like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// Its checksum is wrong: it is torn, or was changed.
    Checksum,
    /// It belongs to another block.
    Block(u64),
    /// It is of another run.
    Generation(u64),
}

/// Fills a block.
pub fn stamp(bytes: &mut [u8], block: u64, sequence: u64, generation: u64) {
    let numbers = [block, sequence, generation];
    for (place, number) in bytes[..HEAD].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    // Different from word to word and from write to write, so pieces of two do not look alike.
    let end = bytes.len() - SUM;
    let mut word = block ^ sequence.rotate_left(32) ^ generation;
    for place in bytes[HEAD..end].chunks_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
    }
    let sum = CHECK.checksum(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
}

/// What a block holds that was read from the place `block` in the run `generation`.
pub fn content(bytes: &[u8], block: u64, generation: u64) -> Result<Content, Damaged> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(Content::Zero);
    }
    let (data, sum) = bytes.split_at(bytes.len() - SUM);
    if CHECK.checksum(data).to_le_bytes() != sum {
        return Err(Damaged::Checksum);
    }
    let number = |at: usize| data[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let (found, sequence, run) = (number(0), number(8), number(16));
    if found != block {
        return Err(Damaged::Block(found));
    }
    if run != generation { Err(Damaged::Generation(run)) } else { Ok(Content::Write(sequence)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_back() {
        let mut bytes = [0; BLOCK];
        assert_eq!(content(&bytes, 7, 1), Ok(Content::Zero));
        stamp(&mut bytes, 7, 99, 1);
        assert_eq!(content(&bytes, 7, 1), Ok(Content::Write(99)));
        assert_eq!(content(&bytes, 8, 1), Err(Damaged::Block(7)));
        assert_eq!(content(&bytes, 7, 2), Err(Damaged::Generation(1)));
    }

    #[test]
    fn a_torn_block_is_seen_wherever_it_is_torn() {
        let (mut old, mut new) = ([0; BLOCK], [0; BLOCK]);
        stamp(&mut old, 7, 1, 1);
        stamp(&mut new, 7, 2, 1);
        for at in (8..BLOCK).step_by(8) {
            let mut torn = new;
            torn[at..].copy_from_slice(&old[at..]);
            let is_whole = torn == new || torn == old;
            assert_eq!(content(&torn, 7, 1).is_ok(), is_whole, "torn at {at}");
            torn[..at].fill(0);
            assert_eq!(content(&torn, 7, 1), Err(Damaged::Checksum), "zero up to {at}");
        }
    }
}
