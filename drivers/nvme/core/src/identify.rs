//! What a controller and a namespace say of themselves: [`Identity`], [`Namespace`] ("Identify
//! Controller Data Structure"; NVM Command Set, "Identify Namespace Data Structure").

use cloister_dma::Memory;

use crate::fault::Failure;

/// Bytes of a model's name.
const MODEL: usize = 40;

/// A controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its model, as it calls itself; bytes that are no printable ASCII became dots.
    pub model: [u8; MODEL],
    /// Most bytes of one command; `None` for no bound.
    pub bytes_max: Option<u64>,
    /// It has the command *Write Zeroes*.
    pub has_zeroes: bool,
    /// It has the command *Dataset Management*.
    pub has_deallocate: bool,
    /// It has a cache that a loss of power empties.
    pub has_write_cache: bool,
}

impl Identity {
    pub(crate) fn read(memory: &impl Memory, at: u64) -> Option<Identity> {
        let mut model = [0; MODEL];
        memory.read(at.checked_add(24)?, &mut model)?;
        for byte in &mut model {
            if !matches!(*byte, b' '..=b'~') {
                *byte = b'.';
            }
        }
        let [transfer] = bytes(memory, at, 77)?;
        let commands = u16::from_le_bytes(bytes(memory, at, 520)?);
        let [cache] = bytes(memory, at, 525)?;
        // The unit is the smallest page, which is 4 KiB here.
        let shift = u32::from(transfer).saturating_add(12);
        Some(Identity {
            model,
            bytes_max: if transfer == 0 { None } else { 1u64.checked_shl(shift) },
            has_zeroes: commands >> 3 & 1 != 0,
            has_deallocate: commands >> 2 & 1 != 0,
            has_write_cache: cache & 1 != 0,
        })
    }

    /// The model without the spaces behind it.
    pub fn model_name(&self) -> &str {
        core::str::from_utf8(&self.model).unwrap_or_default().trim_ascii_end()
    }
}

/// A namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub id: u32,
    /// Its blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u32,
}

impl Namespace {
    pub(crate) fn read(memory: &impl Memory, at: u64, id: u32) -> Result<Namespace, Failure> {
        let read = || {
            let blocks = u64::from_le_bytes(bytes(memory, at, 0)?);
            let [formatted] = bytes(memory, at, 26)?;
            let [protection] = bytes(memory, at, 29)?;
            // Bits 5 and 6 are those above the lowest four, for namespaces with many formats.
            let number = u64::from(formatted & 0xf | (formatted >> 5 & 3) << 4);
            let place = number.checked_mul(4)?.checked_add(128)?;
            let [metadata_low, metadata_high, shift, _] = bytes(memory, at, place)?;
            let has_metadata = metadata_low != 0 || metadata_high != 0 || protection & 7 != 0;
            Some((blocks, shift, has_metadata))
        };
        let (blocks, shift, has_metadata) = read().ok_or(Failure::Memory)?;
        if blocks == 0 || has_metadata || !(9..=12).contains(&shift) {
            return Err(Failure::NoNamespace);
        }
        let block_size = 1u32 << shift;
        // More than that has no byte addresses.
        let most = u64::MAX >> shift;
        if blocks > most {
            return Err(Failure::NoNamespace);
        }
        Ok(Namespace { id, blocks, block_size })
    }
}

fn bytes<const N: usize>(memory: &impl Memory, at: u64, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    memory.read(at.checked_add(offset)?, &mut bytes)?;
    Some(bytes)
}
