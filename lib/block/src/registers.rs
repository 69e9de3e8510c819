//! Registers in one piece, as a driver's core sees them: [`Registers`].

/// The registers of a controller. `None` is an offset that they do not have.
pub trait Registers {
    /// Reads 32 bits.
    fn read(&self, offset: u64) -> Option<u32>;

    /// Writes 32 bits.
    fn write(&self, offset: u64, value: u32) -> Option<()>;
}
