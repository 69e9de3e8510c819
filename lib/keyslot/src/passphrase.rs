//! A wrapping key from a passphrase, by Argon2id (RFC 9106).
//!
//! The memory is the caller's: nothing is allocated. What a header may ask for is limited by
//! [`Cost::new`], because a disk is a stranger.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroize;

pub use argon2::Block;

use crate::key::WrappingKey;
use crate::slot::SALT;

/// The most memory that a key may cost, in KiB. The vault has that much.
pub const MEMORY_KIB_MAX: u32 = 16 * 1024;
/// The most passes over it.
pub const PASSES_MAX: u32 = 16;
/// The longest passphrase, in bytes.
pub const LENGTH_MAX: usize = 128;

/// What Argon2id costs: memory and passes. It always has one lane, as a task has one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
}

impl Cost {
    /// What new slots cost: on a real CPU some hundredths of a second.
    pub const USUAL: Cost = Cost { memory_kib: MEMORY_KIB_MAX, passes: 4 };

    /// A cost within the limits.
    pub fn new(memory_kib: u32, passes: u32) -> Option<Cost> {
        let memory = Params::MIN_M_COST..=MEMORY_KIB_MAX;
        let is_fine = memory.contains(&memory_kib) && (1..=PASSES_MAX).contains(&passes);
        is_fine.then_some(Cost { memory_kib, passes })
    }

    /// Memory in KiB: as many [`Block`]s are needed.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(self) -> u32 {
        self.passes
    }
}

/// Makes the wrapping key. `None` if there is too little memory or the passphrase is too long. The
/// memory is wiped.
pub fn derive(
    passphrase: &[u8],
    cost: Cost,
    salt: &[u8; SALT],
    memory: &mut [Block],
) -> Option<WrappingKey> {
    if passphrase.len() > LENGTH_MAX {
        return None;
    }
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(WrappingKey::BYTES)).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let memory = memory.get_mut(..usize::try_from(cost.memory_kib).ok()?)?;
    let mut bytes = zeroize::Zeroizing::new([0; WrappingKey::BYTES]);
    let done =
        argon.hash_password_into_with_memory(passphrase, salt, bytes.as_mut_slice(), &mut *memory);
    memory.iter_mut().for_each(Zeroize::zeroize);
    done.ok()?;
    Some(WrappingKey::new(*bytes))
}
