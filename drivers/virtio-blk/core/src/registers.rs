//! The registers of a device, as a driver's core sees them: [`Registers`].

/// What belongs to a PCI function: its configuration space, which is only read, and the registers
/// behind its BARs, of 8, 16 and 32 bits. `None` is what is not there or not mapped.
pub trait Registers {
    /// Reads 32 bits of configuration space.
    fn config(&self, register: u8) -> Option<u32>;

    /// Bytes behind a BAR that are mapped.
    fn bytes(&self, bar: u8) -> u64;

    /// Reads 8 bits.
    fn read8(&self, bar: u8, offset: u64) -> Option<u8>;

    /// Reads 16 bits.
    fn read16(&self, bar: u8, offset: u64) -> Option<u16>;

    /// Reads 32 bits.
    fn read32(&self, bar: u8, offset: u64) -> Option<u32>;

    /// Writes 8 bits.
    fn write8(&self, bar: u8, offset: u64, value: u8) -> Option<()>;

    /// Writes 16 bits.
    fn write16(&self, bar: u8, offset: u64, value: u16) -> Option<()>;

    /// Writes 32 bits.
    fn write32(&self, bar: u8, offset: u64, value: u32) -> Option<()>;
}
