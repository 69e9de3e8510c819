//! What the loader says of the machine, whichever loader it was.

use crate::{Refusal, multiboot2, pvh};
use cloister_abi::boot::{MAX_RANGES, MemRange};

/// What the kernel needs of the machine.
pub struct Machine {
    /// Physical address of the ACPI root pointer, or 0.
    pub rsdp: u64,
    /// Number of valid `ranges`.
    pub count: usize,
    /// The memory map.
    pub ranges: [MemRange; MAX_RANGES],
}

impl Machine {
    /// Reads what the loader passed.
    ///
    /// # Safety
    /// `register` is `ebx` of a PVH loader, or of a multiboot2 loader with [`multiboot2::MARK`];
    /// memory below 4 GiB is mapped one to one.
    pub unsafe fn read(register: u32) -> Result<Machine, Refusal> {
        if register & multiboot2::MARK != 0 {
            // SAFETY: the caller's condition.
            unsafe { multiboot2::read(register & !multiboot2::MARK) }
        } else {
            // SAFETY: the caller's condition.
            unsafe { pvh::read(register) }
        }
    }

    /// Whether ordinary memory covers `base..base + len`.
    pub fn has_ram(&self, base: u64, len: u64) -> bool {
        self.ranges.iter().take(self.count).any(|r| {
            r.kind == cloister_abi::boot::RANGE_RAM
                && r.base <= base
                && r.base.saturating_add(r.len) >= base.saturating_add(len)
        })
    }
}
