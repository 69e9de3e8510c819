//! A device's registers in memory, as a task that owns the device sees them.
//!
//! [`Registers`] comes from a grant by name, checks every offset, and makes each access exactly
//! once, 32 bits wide: the width that every register of today's devices takes.

use core::ptr;

/// The registers of a device; the mapping is uncached.
pub struct Registers {
    va: u64,
    len: u64,
}

/// Bytes of a register.
const WIDTH: u64 = 4;

impl Registers {
    /// # Safety
    /// `va .. va + len` is mapped for the life of the task, writable and page aligned, and every
    /// reference to any of it is to atomic words.
    pub(crate) unsafe fn at(va: u64, len: u64) -> Registers {
        Registers { va, len }
    }

    fn register(&self, offset: u64) -> Option<*mut u32> {
        let fits = offset.is_multiple_of(WIDTH) && offset.checked_add(WIDTH)? <= self.len;
        let at = ptr::with_exposed_provenance_mut(self.va.checked_add(offset)? as usize);
        fits.then_some(at)
    }

    /// Reads the register at an offset in bytes; `None` if the device's range does not hold it.
    pub fn read(&self, offset: u64) -> Option<u32> {
        let at = self.register(offset)?;
        // SAFETY: (1) in the range that the maker vouched for, and aligned. (2) Devices may change
        // it at any time, which a volatile read allows.
        Some(unsafe { at.read_volatile() })
    }

    /// Writes the register at an offset in bytes; `None` if the device's range does not hold it.
    pub fn write(&self, offset: u64, value: u32) -> Option<()> {
        let at = self.register(offset)?;
        // SAFETY: as for `read`, and the mapping is writable.
        unsafe { at.write_volatile(value) };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::Registers;

    #[test]
    fn a_register_must_lie_in_the_range_and_be_aligned() {
        let mut memory = [0u32; 4];
        // SAFETY: the array outlives the registers and is used only through them.
        let registers = unsafe { Registers::at((&raw mut memory).expose_provenance() as u64, 16) };
        assert_eq!(registers.write(12, 7), Some(()));
        assert_eq!(registers.read(12), Some(7));
        assert_eq!(registers.read(0), Some(0));
        for outside in [2, 13, 16, u64::MAX - 3, u64::MAX] {
            assert_eq!(registers.read(outside), None, "{outside}");
            assert_eq!(registers.write(outside, 1), None, "{outside}");
        }
    }
}
