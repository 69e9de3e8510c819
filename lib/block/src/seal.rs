//! What encrypts the blocks of a sealed volume: [`Seal`]; and [`Plain`], for drivers without one.
//!
//! A driver that serves sealed volumes brings a cipher (`lib/seal`); one that does not has
//! [`Plain`], of which there is no value, so that nothing of all this is in its program.
//! Invariant: a block is sealed by its number within its volume, whatever request it is part of.

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// A volume's cipher.
pub trait Seal {
    /// Encrypts the block of that number within the volume.
    fn encrypt(&self, number: u64, block: &mut [u8; BLOCK]);

    /// Decrypts it.
    fn decrypt(&self, number: u64, block: &mut [u8; BLOCK]);
}

/// The cipher of a driver that has none.
#[derive(Clone, Copy, Debug)]
pub enum Plain {}

impl Seal for Plain {
    fn encrypt(&self, _: u64, _: &mut [u8; BLOCK]) {
        match *self {}
    }

    fn decrypt(&self, _: u64, _: &mut [u8; BLOCK]) {
        match *self {}
    }
}
