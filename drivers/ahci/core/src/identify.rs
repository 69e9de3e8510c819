//! What a disk says of itself: [`Identity`] ("ATA", "IDENTIFY DEVICE data").

use cloister_dma::Memory;

use crate::fault::Failure;

/// Bytes of the answer.
pub(crate) const ANSWER: usize = 512;
/// Bytes of a model's name.
const MODEL: usize = 40;
/// In the last word: a checksum is there.
const HAS_CHECKSUM: u8 = 0xa5;
/// Blocks have addresses of 48 bits.
const BLOCKS_MAX: u64 = 1 << 48;

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its model, as it calls itself; bytes that are no printable ASCII became dots.
    pub model: [u8; MODEL],
    /// Its blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Commands that its queue takes; `None` without a queue.
    pub depth: Option<u8>,
    /// It has a cache that a loss of power empties.
    pub has_write_cache: bool,
    /// It can be told of blocks that are no longer needed.
    pub has_trim: bool,
    /// It keeps a log of errors in its queue.
    pub has_log: bool,
}

impl Identity {
    pub(crate) fn read(memory: &impl Memory, at: u64) -> Result<Identity, Failure> {
        let mut bytes = [0; ANSWER];
        memory.read(at, &mut bytes).ok_or(Failure::Memory)?;
        Identity::of(&bytes).ok_or(Failure::Unsupported)
    }

    fn of(bytes: &[u8; ANSWER]) -> Option<Identity> {
        let word = |number: usize| {
            let pair = bytes.as_chunks::<2>().0.get(number);
            pair.map_or(0, |pair| u16::from_le_bytes(*pair))
        };
        let is = |number: usize, bit: u16| word(number) >> bit & 1 != 0;
        // Words that say what is there and what is on are right only if bit 14 is 1 and bit 15 0.
        let is_told = |number: usize| word(number) >> 14 == 1;
        let [.., mark, _] = bytes;
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let is_whole = *mark != HAS_CHECKSUM || sum == 0;
        let is_disk = !is(0, 15) && is(49, 8) && is(49, 9) && is_told(83) && is(83, 10);
        if !is_whole || !is_disk {
            return None;
        }
        let blocks = [100, 101, 102, 103].map(word).map(u16::to_le_bytes);
        let blocks = u64::from_le_bytes(blocks.as_flattened().try_into().ok()?);
        let block_size = if is_told(106) && is(106, 12) {
            (u32::from(word(118)) << 16 | u32::from(word(117))).checked_mul(2)?
        } else {
            512
        };
        let is_size = block_size.is_power_of_two() && (512..=4096).contains(&block_size);
        if !is_size || blocks == 0 || blocks > BLOCKS_MAX {
            return None;
        }
        let depth = u8::try_from(word(75) & 0x1f).ok()?.checked_add(1)?;
        let has_queue = word(76) != 0 && word(76) != u16::MAX && is(76, 8);
        Some(Identity {
            model: model(bytes)?,
            blocks,
            block_size,
            depth: has_queue.then_some(depth),
            // What is on stands in words 85 to 87, whose validity word 87 says.
            has_write_cache: !is_told(87) || is(85, 5),
            has_trim: is(169, 0),
            has_log: is_told(84) && is(84, 5),
        })
    }

    /// The model without the spaces behind it.
    pub fn model_name(&self) -> &str {
        core::str::from_utf8(&self.model).unwrap_or_default().trim_ascii_end()
    }
}

/// The model's name: of each two characters the second stands first.
fn model(bytes: &[u8; ANSWER]) -> Option<[u8; MODEL]> {
    let mut model = [0; MODEL];
    let from = bytes.get(54..)?.as_chunks::<2>().0;
    for (to, [second, first]) in model.as_chunks_mut::<2>().0.iter_mut().zip(from) {
        *to = [*first, *second];
    }
    for byte in &mut model {
        if !matches!(*byte, b' '..=b'~') {
            *byte = b'.';
        }
    }
    Some(model)
}
