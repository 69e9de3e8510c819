//! What encrypts the blocks of a sealed volume: [`Seal`]; and [`Plain`], for drivers without one.
//!
//! A driver that serves sealed volumes brings a cipher (`lib/seal`); one that does not has
//! [`Plain`], of which there is no value, so that nothing of all this is in its program. A block goes
//! from one memory to another and is worked on its way, in registers. Invariant: a block is sealed
//! by its number within its volume, whatever request it is part of.

use cloister_dma::{Group, View};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Groups of a block.
pub const GROUPS: usize = BLOCK / size_of::<Group>();

/// A volume's cipher. It loads each byte of a block once, and stores each once: others may change
/// either memory meanwhile.
pub trait Seal {
    /// Encrypts the block of that number within the volume.
    fn encrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>);

    /// Decrypts it.
    fn decrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>);
}

/// The cipher of a driver that has none.
#[derive(Clone, Copy, Debug)]
pub enum Plain {}

impl Seal for Plain {
    fn encrypt(&self, _: u64, _: &View<'_, GROUPS>, _: &View<'_, GROUPS>) {
        match *self {}
    }

    fn decrypt(&self, _: u64, _: &View<'_, GROUPS>, _: &View<'_, GROUPS>) {
        match *self {}
    }
}
