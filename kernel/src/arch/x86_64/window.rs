//! The kernel's fixed addresses, see also `cloister_abi::layout`.
//!
//! ```text
//! core window (0x20_0000, differs from core to core; a page table of its own):
//!   +0x1000  kernel stack, two pages, grows down from +0x3000; +0x0000 is its guard
//!   +0x4000  NMI stack     +0x6000  machine-check stack   each with a guard page below
//!   +0x8000  double-fault  +0xa000  debug-exception stack
//!   +0xc000  the core's objects
//!   +0x10000 its log ring  +0x14000 local APIC registers (xAPIC mode)
//!   +0x15000 IOAPIC registers (core 0), up to four pages
//! kernel half (the same on every core):
//!   0x00_0000  text, constants, data of the image
//!   0x18_0000  system table, read-only
//!   0x1b_f000  interrupt descriptor table, read-only
//!   0x1c_0000  shared words
//! physical memory below 4 GiB, until the seal and only on the boot core:
//!   0xffff_8000_0000_0000
//! ```

use cloister_abi::layout::{CORE_WINDOW, KERNEL_BASE, PAGE};

/// Pages of the kernel stack.
pub const STACK_PAGES: u64 = 2;
/// Lowest address of the kernel stack.
pub const STACK: u64 = CORE_WINDOW + 0x1000;
/// Initial stack pointer of every kernel entry.
pub const STACK_TOP: u64 = STACK + STACK_PAGES * PAGE;
/// The page of the NMI stack.
pub const NMI_STACK: u64 = CORE_WINDOW + 0x4000;
/// The page of the machine-check stack.
pub const MC_STACK: u64 = CORE_WINDOW + 0x6000;
/// The page of the double-fault stack.
pub const DF_STACK: u64 = CORE_WINDOW + 0x8000;
/// The page of the debug-exception stack.
pub const DB_STACK: u64 = CORE_WINDOW + 0xa000;
/// The core's objects.
pub const CORE: u64 = CORE_WINDOW + 0xc000;
/// Pages for the core's objects.
pub const CORE_PAGES: u64 = 2;
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
