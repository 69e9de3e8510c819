//! Exceptions and interrupts: entry code, handlers, waiting for one without running.
//!
//! Every vector has a handler slot. An exception whose instruction is in the table of
//! [`crate::probe`] goes on behind it; any other without a handler is a panic. Handlers run with
//! interrupts off on the stack of what they interrupt and say [`crate::apic::eoi`] themselves.

use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cpu;
use crate::probe::{self, Fault};

/// The registers of what was interrupted; a handler may change them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Frame {
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
    /// The exception or interrupt.
    pub vector: u64,
    /// Error code, 0 where there is none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// What a vector does.
///
/// It runs in the middle of other code of the same vCPU; what it shares with that code is atomic
/// or behind a [`crate::Lock`].
pub type Handler = fn(&mut Frame);

/// Vectors that mean an exception.
const EXCEPTIONS: u64 = 32;
/// The non-maskable interrupt, which is none.
const NMI: u64 = 2;

static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];

// Sixteen bytes of entry code per vector: an error code where the CPU pushes none (Intel SDM,
// "Exception and Interrupt Reference"), the vector, and a jump.
core::arch::global_asm!(
    ".section .text.traps, \"ax\"",
    ".balign 16",
    "cloister_guest_entries:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21",
    ".elseif vector == 29 || vector == 30",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    "2:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    // The CPU aligned the stack before it pushed: 22 words are a multiple of 16 bytes.
    "call {trap}",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".previous",
    trap = sym trap,
);

const _: () = assert!(size_of::<Frame>().is_multiple_of(16));

/// Address of a vector's entry code.
pub(crate) fn entry(vector: usize) -> u64 {
    unsafe extern "C" {
        static cloister_guest_entries: u8;
    }
    (&raw const cloister_guest_entries) as u64 + vector as u64 * 16
}

/// Called by the entry code; the frame is the one on the stack.
extern "C" fn trap(frame: &mut Frame) {
    if frame.vector < EXCEPTIONS && frame.vector != NMI {
        let fault = Fault { vector: frame.vector as u8, error: frame.error as u32 };
        if let Some((go_on, word)) = probe::lookup(frame.rip, fault) {
            (frame.rip, frame.r11) = (go_on, word);
            return;
        }
    }
    match handler(frame.vector) {
        Some(handler) => handler(frame),
        None => unhandled(frame),
    }
}

fn handler(vector: u64) -> Option<Handler> {
    let pointer = HANDLERS.get(usize::try_from(vector).ok()?)?.load(Ordering::Acquire);
    // SAFETY: `swap` stores nothing but functions of this very type, and null, which is `None`.
    unsafe { core::mem::transmute::<*mut (), Option<Handler>>(pointer) }
}

#[cold]
fn unhandled(frame: &Frame) -> ! {
    let address: u64;
    // SAFETY: reading the register changes nothing.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nostack)) };
    panic!(
        "exception {} (error {:#x}, address {address:#x}) at {:#x}, no handler: {frame:x?}",
        frame.vector, frame.error, frame.rip
    );
}

/// Makes a function the handler of a vector, on all vCPUs.
pub fn set(vector: u8, handler: Handler) {
    swap(vector, Some(handler));
}

/// Takes a vector's handler away.
pub fn clear(vector: u8) {
    swap(vector, None);
}

/// Sets or takes away a vector's handler, and returns the one before.
pub fn swap(vector: u8, new: Option<Handler>) -> Option<Handler> {
    let before = handler(vector.into());
    let pointer = new.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    HANDLERS[usize::from(vector)].store(pointer, Ordering::Release);
    before
}

/// Waits until the condition holds; asleep, as long as no interrupt comes. Interrupts are on
/// afterwards.
///
/// The condition is looked at with interrupts off, so an interrupt that makes it true cannot come
/// between the look and the sleep.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    loop {
        cpu::disable_interrupts();
        if condition() {
            cpu::enable_interrupts();
            return;
        }
        cpu::enable_interrupts_and_halt();
    }
}
