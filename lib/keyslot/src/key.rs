//! Keys as values that wipe themselves and print nothing.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of each half of a volume's key.
const HALF: usize = 32;

/// The key that a volume's data is encrypted with: 256 bits for data, 256 for tweaks.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey([u8; Self::BYTES]);

impl VolumeKey {
    /// Bytes of a volume's key.
    pub const BYTES: usize = 2 * HALF;

    /// A key from random bytes. `None` if its halves are equal, which XTS does not allow (NIST SP
    /// 800-38E and the implementation guidance of FIPS 140 on it) and random bytes never are.
    pub fn new(bytes: [u8; Self::BYTES]) -> Option<VolumeKey> {
        let key = VolumeKey(bytes);
        let (halves, _) = key.0.as_chunks::<HALF>();
        (halves.first() != halves.last()).then_some(key)
    }

    /// The bytes, for the cipher.
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// The key that a slot's volume key is wrapped with.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct WrappingKey([u8; Self::BYTES]);

impl WrappingKey {
    /// Bytes of a wrapping key.
    pub const BYTES: usize = 32;

    /// A key from its bytes.
    pub fn new(bytes: [u8; Self::BYTES]) -> WrappingKey {
        WrappingKey(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(hidden)")
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(hidden)")
    }
}
