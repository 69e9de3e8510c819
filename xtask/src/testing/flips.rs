//! Damaged images: the same image with one bit of its payload turned over, by seed and round.
//!
//! The boot stub in front of the payload cannot check itself and is left alone.

use anyhow::{Context, Result};
use cloister_abi::payload::PAYLOAD_BASE;
use serde::Deserialize;

/// What a test asks for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flips {
    /// How many damaged images to boot.
    pub count: u32,
    /// Decides which bits.
    pub seed: u64,
}

/// The image with one bit of its payload turned over, and where that was.
pub fn flipped(image: &[u8], flips: Flips, round: u32) -> Result<(Vec<u8>, String)> {
    let (start, len) = payload_place(image).context("the image has no payload segment")?;
    let draw = mix(flips.seed.wrapping_add(u64::from(round)));
    let (at, bit) = ((draw >> 3) % len, draw % 8);
    let mut damaged = image.to_vec();
    let index = usize::try_from(start + at)?;
    let byte = damaged.get_mut(index).context("the image's payload is cut off")?;
    *byte ^= 1 << bit;
    Ok((damaged, format!("bit {bit} of byte {at:#x} of the payload")))
}

/// File offset and length of the segment that is loaded where payloads are.
fn payload_place(image: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let headers = usize::try_from(word(32)?).ok()?;
    (0..usize::from(half(56)?)).find_map(|index| {
        let header = headers.checked_add(index * 56)?;
        let loadable = image.get(header..header + 4)? == [1, 0, 0, 0];
        let (offset, address, len) = (word(header + 8)?, word(header + 24)?, word(header + 32)?);
        (loadable && address == PAYLOAD_BASE && len > 0).then_some((offset, len))
    })
}

/// A number that looks like chance and is the same on every machine (SplitMix64's finisher).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Flips, PAYLOAD_BASE, flipped, payload_place};

    /// A file with a stub of 8 bytes and a payload of 16.
    fn image() -> Vec<u8> {
        let mut file = vec![0; 64];
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56..58].copy_from_slice(&2_u16.to_le_bytes());
        for (offset, address, len) in [(176_u64, 0x10_0000, 8_u64), (184, PAYLOAD_BASE, 16)] {
            file.extend([1, 0, 0, 0, 0, 0, 0, 0]);
            for field in [offset, address, address, len, len, 0] {
                file.extend(field.to_le_bytes());
            }
        }
        file.resize(200, 0);
        file
    }

    #[test]
    fn exactly_one_bit_of_the_payload_changes() {
        let whole = image();
        assert_eq!(payload_place(&whole), Some((184, 16)));
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..500 {
            let (damaged, _) = flipped(&whole, Flips { count: 500, seed: 7 }, round).unwrap();
            let differing: Vec<usize> =
                (0..whole.len()).filter(|&at| whole[at] != damaged[at]).collect();
            assert_eq!(differing.len(), 1);
            assert!((184..200).contains(&differing[0]));
            assert_eq!(damaged[differing[0]].count_ones(), 1);
            seen.insert(differing[0]);
        }
        assert_eq!(seen.len(), 16);
    }

    #[test]
    fn a_file_without_a_payload_is_an_error() {
        assert!(flipped(b"\x7fELF", Flips { count: 1, seed: 1 }, 0).is_err());
    }
}
