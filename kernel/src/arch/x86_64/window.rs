//! The kernel's fixed addresses, see also `cloister_abi::layout`.
//!
//! ```text
//! core window (0x20_0000, differs from core to core; a page table of its own):
//!   +0x1000  kernel stack, one page; +0x0000 is its guard
//!   +0xc000  the core's objects, and at their end four small stacks for NMI, machine check,
//!            double fault and debug exception: their handlers push nothing
//!   +0x10000 its log ring  +0x14000 local APIC registers (xAPIC mode)
//!   +0x15000 IOAPIC registers (core 0), up to four pages
//!   +0x1a000 IOMMU registers (core 0), up to eight pages
//!   +0x23000 what the kernel knows of the PCI functions of this core
//!   +0x40000 each one's configuration space and MSI-X table
//! kernel half (the same on every core):
//!   0x00_0000  text, constants, data of the image
//!   0x18_0000  system table, read-only
//!   0x1b_f000  interrupt descriptor table, read-only
//!   0x1c_0000  shared words
//! physical memory below 4 GiB, until the seal and only on the boot core:
//!   0xffff_8000_0000_0000
//! ```

use cloister_abi::layout::{CORE_WINDOW, KERNEL_BASE, PAGE, VCPU};

/// Pages of the kernel stack; below them lies a guard page.
pub const STACK_PAGES: u64 = 1;
/// Lowest address of the kernel stack.
pub const STACK: u64 = CORE_WINDOW + 0x1000;
/// Initial stack pointer of every kernel entry.
pub const STACK_TOP: u64 = STACK + STACK_PAGES * PAGE;
/// The core's objects.
pub const CORE: u64 = CORE_WINDOW + 0xc000;
/// Pages for the core's objects.
pub const CORE_PAGES: u64 = 2;
/// Bytes of the stack of an NMI, a machine check, a double fault or a debug exception: the CPU's
/// own frame of 48 bytes, once, since none of these handlers pushes or is entered twice.
pub const SMALL_STACK: u64 = 128;
/// One byte above the first of the four small stacks; the others follow upwards.
pub const SMALL_STACKS: u64 = CORE + CORE_PAGES * PAGE - 3 * SMALL_STACK;
/// The core's log ring.
pub const LOG: u64 = CORE_WINDOW + 0x1_0000;
/// Pages of the core's log ring.
pub const LOG_PAGES: u64 = 4;
/// Local APIC registers.
pub const APIC: u64 = CORE_WINDOW + 0x1_4000;
/// First page of IOAPIC registers.
pub const IOAPIC: u64 = CORE_WINDOW + 0x1_5000;
/// Most IOAPICs.
pub const IOAPICS: usize = 4;
/// First page of IOMMU registers.
pub const IOMMU: u64 = CORE_WINDOW + 0x1_a000;
/// Most IOMMU units.
pub const IOMMUS: usize = 8;
/// The records of `crate::device`, one page; on cores that own a bus master.
pub const FUNCTIONS: u64 = CORE_WINDOW + 0x2_3000;
/// First of two pages for each device record: its function's configuration space, and the page
/// with the beginning of its MSI-X table.
pub const CONFIG: u64 = CORE_WINDOW + 0x4_0000;

/// The control block of the thread's vCPU; the further pages are `virt`'s.
pub const CONTROL: u64 = VCPU;

/// The system table, read-only.
pub const TABLE: u64 = KERNEL_BASE + 0x18_0000;
/// Largest system table, in pages.
pub const TABLE_PAGES_MAX: u64 = 0x3f;
/// The interrupt descriptor table.
pub const IDT: u64 = KERNEL_BASE + 0x1b_f000;
/// The shared words.
pub const SHARED: u64 = KERNEL_BASE + 0x1c_0000;
/// Largest size of the shared words, in pages.
pub const SHARED_PAGES_MAX: u64 = 0x40;

/// Where physical memory below 4 GiB is mapped until the seal.
pub const PHYSICAL: u64 = 0xffff_8000_0000_0000;
/// Entry of the top page table that maps [`PHYSICAL`].
pub const PHYSICAL_SLOT: usize = 256;
/// End of the physical memory that the kernel can reach at boot.
pub const PHYSICAL_END: u64 = 1 << 32;
