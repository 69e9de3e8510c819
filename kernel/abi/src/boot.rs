//! What the boot stub tells the kernel.
//!
//! The stub runs with physical memory below 4 GiB mapped one to one. It checks the payload, maps
//! the kernel's segments at their virtual addresses and jumps to the kernel's entry with the
//! physical address of a [`BootInfo`] in `rdi`.

/// `BootInfo::magic`.
pub const BOOT_MAGIC: u64 = 0x6f62_7265_7473_6c63;
/// Most memory ranges that the stub passes on.
pub const MAX_RANGES: usize = 64;

/// E820 type of ordinary memory.
pub const RANGE_RAM: u32 = 1;

/// A range of physical memory as firmware describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemRange {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// E820 type.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// Handed from the stub to the kernel.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// Physical address of the ACPI root pointer, 0 if the loader did not say.
    pub rsdp: u64,
    /// Physical address of the payload.
    pub payload: u64,
    /// Bytes of the payload.
    pub payload_len: u64,
    /// First free physical byte behind the payload and the kernel's bss, page aligned.
    pub free: u64,
    /// Physical address of the top page table in use; entry 511 is the kernel's half.
    pub pml4: u64,
    /// TSC when the stub began and when the check was done.
    pub tsc_start: u64,
    /// TSC when the payload check was done.
    pub tsc_checked: u64,
    /// Number of valid entries of `ranges`.
    pub range_count: u64,
    /// The memory map.
    pub ranges: [MemRange; MAX_RANGES],
}
