//! The thread frame: the supervisor-only page of an address space that holds what the CPU saves.
//!
//! Every address space has its frame at the same address, so the entry code stores registers at
//! absolute addresses without a scratch register, and the task state segment (which lies in the
//! frame) makes the CPU push interrupt frames straight into it. No thread's registers are mapped
//! while another thread runs.

use super::window;
use cloister_abi::layout::{FRAME, IO_BITMAP, PAGE};

/// Offset of the saved registers; the XSAVE area lies below it.
pub const REGS: u64 = 0xc00;
/// Offset of the task state segment.
pub const TSS: u64 = 0xe00;
/// Bytes of the I/O permission bitmap.
pub const IO_BITMAP_LEN: u64 = 8192;
/// Limit of the task state segment: it ends with the bitmap, so ports from 0xfff8 are never usable.
pub const TSS_LIMIT: u64 = IO_BITMAP - FRAME - TSS + IO_BITMAP_LEN - 1;
/// `Regs::vector` of a thread that entered by a system call.
pub const BY_SYSCALL: u64 = 0x100;
/// User code selector.
pub const USER_CS: u64 = 0x23;
/// User data selector.
pub const USER_SS: u64 = 0x1b;
/// Flags of a new thread: interrupts on.
pub const USER_FLAGS: u64 = 0x202;

/// Saved registers in the order in which the entry code pushes them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Vector of the exception or interrupt, or [`BY_SYSCALL`].
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Regs {
    /// Sets what a system call returns: `rax`, `rdx`, `rsi`, `rdi`, `r8`.
    #[inline(always)]
    pub fn set_result(&mut self, values: [u64; 5]) {
        [self.rax, self.rdx, self.rsi, self.rdi, self.r8] = values;
    }
}

/// The 64-bit task state segment (Intel SDM, "Task State Segment in 64-bit Mode").
#[derive(Clone, Copy, Default)]
#[repr(C, packed)]
struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<Regs>() == 22 * 8);
const _: () = assert!(size_of::<Tss>() == 104);
const _: () = assert!((REGS + size_of::<Regs>() as u64).is_multiple_of(16));
const _: () = assert!(REGS + size_of::<Regs>() as u64 <= TSS && TSS + 104 <= PAGE);

/// The frame of the thread whose address space is loaded.
///
/// # Safety
/// No other reference to the frame is alive, and a thread's address space is loaded.
pub unsafe fn current() -> &'static mut Regs {
    // SAFETY: every thread's address space maps its frame here, writable for the kernel.
    unsafe { &mut *((FRAME + REGS) as *mut Regs) }
}

/// Writes a new frame's task state segment; the page was zeroed.
///
/// # Safety
/// `frame` is the address at which the frame's page can be written.
pub unsafe fn init(frame: *mut u8, has_ports: bool) {
    let tss = Tss {
        rsp: [FRAME + REGS + size_of::<Regs>() as u64, 0, 0],
        // NMI, machine check, double fault, debug exception.
        ist: core::array::from_fn(|n| match n as u64 {
            n @ 0..4 => window::SMALL_STACKS + n * window::SMALL_STACK,
            _ => 0,
        }),
        // A bitmap beyond the limit denies every port (Intel SDM, "I/O Permission Bit Map").
        io_map: if has_ports { (IO_BITMAP - FRAME - TSS) as u16 } else { u16::MAX },
        ..Default::default()
    };
    // SAFETY: the segment lies inside the page (checked above at build time).
    let at = unsafe { frame.add(TSS as usize) };
    // SAFETY: the caller owns the page; packed structs have no alignment.
    unsafe { at.cast::<Tss>().write(tss) };
}
