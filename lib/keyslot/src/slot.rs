//! A slot: where its wrapping key comes from, and the volume's key wrapped with it.

use aes_kw::{KeyInit, KwAes256};

use crate::key::{VolumeKey, WrappingKey};
use crate::passphrase::Cost;

/// Bytes of a salt.
pub const SALT: usize = 32;
/// Bytes of a wrapped volume key: eight more than it has (RFC 3394, "Key Wrap").
pub const WRAPPED: usize = 72;

/// Where the wrapping key of a slot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is a key of the manifest.
    Sealed,
    /// Argon2id makes it of a passphrase.
    Passphrase {
        /// What that costs.
        cost: Cost,
        /// Random, so that equal passphrases give different keys.
        salt: [u8; SALT],
    },
}

/// A volume's key, wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the wrapping key comes from.
    pub kind: Kind,
    pub(crate) wrapped: [u8; WRAPPED],
}

impl Slot {
    /// Wraps a volume's key by AES-256 (RFC 3394).
    pub fn wrap(kind: Kind, wrapping: &WrappingKey, key: &VolumeKey) -> Slot {
        let mut wrapped = [0; WRAPPED];
        // The lengths are right by their types: 64 bytes give 72.
        let done = KwAes256::new(wrapping.bytes().into()).wrap_key(key.bytes(), &mut wrapped);
        debug_assert!(done.is_ok());
        Slot { kind, wrapped }
    }

    /// The volume's key; `None` if the wrapping key is another one or the slot was changed, which
    /// cannot be told apart.
    pub fn unwrap(&self, wrapping: &WrappingKey) -> Option<VolumeKey> {
        let mut bytes = zeroize::Zeroizing::new([0; VolumeKey::BYTES]);
        let cipher = KwAes256::new(wrapping.bytes().into());
        cipher.unwrap_key(&self.wrapped, bytes.as_mut_slice()).ok()?;
        VolumeKey::new(*bytes)
    }
}
