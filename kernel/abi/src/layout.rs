//! Where things lie in virtual memory. Every address space has the same shape.
//!
//! ```text
//! 0x0000_0000  nothing: null pointers fault
//! 0x0020_0000  core window: this core's kernel stacks and objects (supervisor only)
//! 0x0040_0000  thread frame: saved registers, TSS, XSAVE area (supervisor only)
//! 0x0040_1000  I/O permission bitmap, 8 KiB (supervisor only)
//! 0x0040_4000  task information (read-only)
//! 0x0040_8000  system page (read-only)
//! 0x0040_a000  log ring (read-write), up to 64 KiB
//! 0x0042_1000  stack, grows down from STACK_TOP; everything below its size is a guard
//! 0x0044_1000  virtual CPU, in threads that have one (supervisor only)
//! 0x0045_0000  task image: text, constants, pristine data, data, bss; then grants
//! 0xffff_ffff_8000_0000  kernel text and constants, shared words (supervisor only)
//! ```

/// Size of a page and of a frame, in bytes.
pub const PAGE: u64 = 4096;
/// Start of the core window: the kernel pages of the core that this address space runs on.
pub const CORE_WINDOW: u64 = 0x0020_0000;
/// The page with the thread's saved registers.
pub const FRAME: u64 = 0x0040_0000;
/// The thread's I/O permission bitmap, two pages.
pub const IO_BITMAP: u64 = 0x0040_1000;
/// The task's [`crate::info::TaskInfo`] and its entries, at most [`TASK_INFO_PAGES`] pages.
pub const TASK_INFO: u64 = 0x0040_4000;
/// Largest size of the task information, in pages.
pub const TASK_INFO_PAGES: u64 = 3;
/// The [`crate::info::SystemPage`].
pub const SYSTEM_PAGE: u64 = 0x0040_8000;
/// The task's log ring.
pub const LOG_RING: u64 = 0x0040_a000;
/// Largest size of a task's log ring, in bytes.
pub const LOG_RING_MAX: u64 = 0x1_0000;
/// One byte above the stack of a task's first thread. Further threads' stacks lie
/// among the grants, each with a guard page below.
pub const STACK_TOP: u64 = 0x0044_0000;
/// Largest stack of a first thread, in bytes.
pub const STACK_MAX: u64 = 0x1_f000;
/// Where a task's image begins.
pub const IMAGE: u64 = 0x0045_0000;
/// First address that user mappings may not reach (one page directory: 1 GiB).
pub const USER_END: u64 = 0x4000_0000;
/// Where virtual machines' RAM is mapped in the tasks that work their rings: a page directory
/// each; the end is [`GUEST_RAM_END`].
pub const GUEST_RAM: u64 = 0x40_0000_0000;
/// End of the addresses for [`GUEST_RAM`].
pub const GUEST_RAM_END: u64 = 0x80_0000_0000;
/// The kernel's part of a vCPU: control block, own state, a view of the shared page, the nested
/// tables of the device pages, the doorbell counters (supervisor only).
pub const VCPU: u64 = 0x0044_1000;
/// Guest-physical range of device pages, which a monitor may have stepped.
pub const GUEST_DEVICES: core::ops::Range<u64> = 0xfec0_0000..0xff00_0000;
/// Where the segments of a guest begin, and its first instruction is.
pub const GUEST_SEGMENTS: u64 = 0xc000_0000;
/// Virtual base of the kernel image.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Largest size of the kernel image with its bss, in bytes.
pub const KERNEL_MAX: u64 = 0x0020_0000;

/// Most cores that one system can use.
pub const MAX_CORES: usize = 16;
/// Most threads that one core can hold: one bit each in a core's words.
pub const MAX_THREADS_PER_CORE: usize = 32;
/// Most threads of a system.
pub const MAX_THREADS: usize = 128;
/// Most tasks of a system.
pub const MAX_TASKS: usize = 64;
/// Most interrupts of a system.
pub const MAX_IRQS: usize = 32;
/// Most regions of a system.
pub const MAX_REGIONS: usize = 1024;
/// Most maps of a system.
pub const MAX_MAPS: usize = 2048;
/// Most capabilities of a system.
pub const MAX_CAPS: usize = 2048;
/// Most port ranges of a system.
pub const MAX_PORTS: usize = 256;
/// Most devices of a system.
pub const MAX_DEVICES: usize = 64;
/// Most virtual machines of a system.
pub const MAX_VMS: usize = 16;
/// Most virtual CPUs of a system.
pub const MAX_VCPUS: usize = 64;
/// Most virtual CPUs of one virtual machine.
pub const MAX_VM_VCPUS: usize = 8;
/// Most guest maps of a system.
pub const MAX_GUEST_MAPS: usize = 512;
/// Most doorbells of a system.
pub const MAX_DOORBELLS: usize = 256;
