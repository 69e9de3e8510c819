//! A message: its number, bytes that follow from the number, a checksum.
//!
//! Invariant: [`decode`] of what [`encode`] made is the number, and a change of any byte is seen.

use crc::{CRC_32_ISCSI, Crc};

/// Bytes of a message.
pub const LEN: usize = 48;
/// Bytes of the number at the front, and of the checksum at the end.
const WORD: usize = 4;

const CHECK: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The message with this number.
pub fn encode(number: u32) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..WORD].copy_from_slice(&number.to_le_bytes());
    for (place, byte) in bytes[WORD..LEN - WORD].iter_mut().enumerate() {
        *byte = filler(number, place);
    }
    let sum = CHECK.checksum(&bytes[..LEN - WORD]);
    bytes[LEN - WORD..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn filler(number: u32, place: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add(place as u8)
}

/// The number of a message; nothing if it is damaged.
pub fn decode(bytes: &[u8; LEN]) -> Option<u32> {
    let [a, b, c, d, ..] = *bytes;
    let number = u32::from_le_bytes([a, b, c, d]);
    (encode(number) == *bytes).then_some(number)
}
