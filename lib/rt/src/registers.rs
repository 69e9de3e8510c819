//! A device's registers in memory, as a task that owns the device sees them.
//!
//! [`Registers`] comes from a grant by name, checks every offset, and makes each access exactly
//! once, 32 bits wide: the width that most registers of today's devices take. Those of virtio have
//! 8 and 16 bits as well, and take no other width. Configuration space is only read.

use core::ptr;

/// The registers of a device; the mapping is uncached.
pub struct Registers {
    va: u64,
    len: u64,
    is_writable: bool,
}

/// The types of registers: unsigned numbers, of which every pattern is one.
trait Width: Copy {}

impl Width for u8 {}
impl Width for u16 {}
impl Width for u32 {}

impl Registers {
    /// # Safety
    /// `va .. va + len` is mapped for the life of the task, page aligned, writable if
    /// `is_writable`, and every reference to any of it is to atomic words, or to bytes that never
    /// change and are not writable.
    pub(crate) unsafe fn at(va: u64, len: u64, is_writable: bool) -> Registers {
        Registers { va, len, is_writable }
    }

    fn register<T: Width>(&self, offset: u64) -> Option<*mut T> {
        let width = size_of::<T>() as u64;
        let fits = offset.is_multiple_of(width) && offset.checked_add(width)? <= self.len;
        let at = ptr::with_exposed_provenance_mut(self.va.checked_add(offset)? as usize);
        fits.then_some(at)
    }

    fn get<T: Width>(&self, offset: u64) -> Option<T> {
        let at = self.register::<T>(offset)?;
        // SAFETY: (1) in the range that the maker vouched for, and aligned. (2) Devices may change
        // it at any time, which a volatile read allows. (3) Every pattern is a value of a `Width`.
        Some(unsafe { at.read_volatile() })
    }

    fn set<T: Width>(&self, offset: u64, value: T) -> Option<()> {
        let at = self.register::<T>(offset).filter(|_| self.is_writable)?;
        // SAFETY: as for `get`, and the mapping is writable.
        unsafe { at.write_volatile(value) };
        Some(())
    }

    /// Bytes that are mapped.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Reads the register at an offset in bytes; `None` if the device's range does not hold it.
    pub fn read(&self, offset: u64) -> Option<u32> {
        self.get(offset)
    }

    /// Writes the register at an offset in bytes; `None` if the device's range does not hold it, or
    /// is only read.
    pub fn write(&self, offset: u64, value: u32) -> Option<()> {
        self.set(offset, value)
    }

    /// Reads a register of 16 bits.
    pub fn read16(&self, offset: u64) -> Option<u16> {
        self.get(offset)
    }

    /// Writes a register of 16 bits.
    pub fn write16(&self, offset: u64, value: u16) -> Option<()> {
        self.set(offset, value)
    }

    /// Reads a register of 8 bits.
    pub fn read8(&self, offset: u64) -> Option<u8> {
        self.get(offset)
    }

    /// Writes a register of 8 bits.
    pub fn write8(&self, offset: u64, value: u8) -> Option<()> {
        self.set(offset, value)
    }
}

#[cfg(test)]
mod tests {
    use super::Registers;

    #[test]
    fn a_register_must_lie_in_the_range_and_be_aligned() {
        let mut memory = [0u32; 4];
        let va = (&raw mut memory).expose_provenance() as u64;
        // SAFETY: the array outlives the registers and is used only through them.
        let [registers, constants] = [true, false].map(|may| unsafe { Registers::at(va, 16, may) });
        assert_eq!(registers.write(12, 0x0403_0207), Some(()));
        assert_eq!(registers.read(12), Some(0x0403_0207));
        assert_eq!((registers.read16(14), registers.read8(13)), (Some(0x0403), Some(2)));
        assert_eq!((registers.write16(12, 5), registers.write8(15, 6)), (Some(()), Some(())));
        assert_eq!(registers.read(12), Some(0x0603_0005));
        assert_eq!(registers.read(0), Some(0));
        for outside in [2, 13, 16, u64::MAX - 3, u64::MAX] {
            assert_eq!(registers.read(outside), None, "{outside}");
            assert_eq!(registers.write(outside, 1), None, "{outside}");
        }
        for outside in [1, 15, 16, u64::MAX] {
            assert_eq!(registers.read16(outside), None, "{outside}");
        }
        assert_eq!((registers.read8(15), registers.read8(16)), (Some(6), None));
        assert_eq!((constants.read(12), constants.read8(15)), (Some(0x0603_0005), Some(6)));
        assert_eq!(constants.write(12, 1).or(constants.write16(12, 1)), None);
        assert_eq!((constants.write8(12, 1), constants.read(12)), (None, Some(0x0603_0005)));
    }
}
