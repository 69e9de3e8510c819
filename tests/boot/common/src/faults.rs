//! Every fault that a program in ring 3 can cause, and what the kernel has to say of it.
//!
//! [`ALL`] is the whole table. A case is an [`Act`] of the probe, which first notes in the shared
//! page at which instruction the fault will be; everything else that the fault record must hold
//! stands here. Vectors and error codes: Intel SDM, "Interrupt and Exception Handling".

/// An access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load of one byte.
    Read,
    /// A store of one byte.
    Write,
    /// A call of the address.
    Jump,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// A fixed address.
    At(u64),
    /// The probe's own instructions.
    Text,
    /// Its constants.
    Constants,
    /// The bytes from which its data is restored.
    Pristine,
    /// Its data.
    Data,
    /// Its stack.
    Stack,
    /// Just below its stack.
    Guard,
}

/// What the probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// An access to memory.
    Memory(Access, Where),
    /// Calls itself until the stack is used up.
    Recursion,
    /// An instruction of the probe's own list, by name.
    Instruction(&'static str),
    /// `in` of so many bytes from a port.
    In(u8, u16),
    /// `out` of so many bytes to a port.
    Out(u8, u16),
    /// A system call with that number.
    Call(u64),
    /// `leave` with a reason and a detail.
    Leave(u64, u64),
    /// A Rust panic.
    Panic,
}

/// What the record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exception: a vector (or a second one that other CPUs raise), and its error code.
    Exception(u8, u8, u64),
    /// A call that does not exist, with the number as the address.
    BadCall(u64),
    /// `leave`: reason and detail.
    Leave(u64, u64),
    /// `leave` after a panic, in a line above zero.
    Panicked,
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What the probe does.
    pub act: Act,
    /// What comes of it.
    pub kind: Kind,
}

const DIVIDE: u8 = 0;
const DEBUG: u8 = 1;
const INVALID: u8 = 6;
const NO_FPU: u8 = 7;
const STACK: u8 = 12;
const PROTECTION: u8 = 13;
const PAGE: u8 = 14;

// Bits of a page fault's error code.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const FETCH: u64 = 16;

const KERNEL: u64 = 0xffff_ffff_8000_0000;
const NON_CANONICAL: u64 = 0x0000_8000_0000_0000;

/// A page fault with the error code that belongs to the access.
const fn page(name: &'static str, access: Access, place: Where, present: u64) -> Case {
    let error = match access {
        Access::Read => USER,
        Access::Write => USER | WRITE,
        Access::Jump => USER | FETCH,
    };
    let kind = Kind::Exception(PAGE, PAGE, error | present);
    Case { name, act: Act::Memory(access, place), kind }
}

/// An access outside of the address space.
const fn beyond(name: &'static str, access: Access) -> Case {
    let act = Act::Memory(access, Where::At(NON_CANONICAL));
    let kind = Kind::Exception(PROTECTION, STACK, 0);
    Case { name, act, kind }
}

/// An instruction with its vector and error code.
const fn instruction(name: &'static str, vector: u8, error: u64) -> Case {
    let act = Act::Instruction(name);
    let kind = Kind::Exception(vector, vector, error);
    Case { name, act, kind }
}

/// A software interrupt through a gate that is closed to ring 3.
const fn interrupt(name: &'static str, number: u64) -> Case {
    // Index of the gate, and "in the interrupt table".
    instruction(name, PROTECTION, number << 3 | 2)
}

/// An instruction that CPUs refuse as undefined or as privileged.
const fn refused(name: &'static str) -> Case {
    let act = Act::Instruction(name);
    let kind = Kind::Exception(PROTECTION, INVALID, 0);
    Case { name, act, kind }
}

/// A port that is not granted.
const fn port(name: &'static str, act: Act) -> Case {
    let kind = Kind::Exception(PROTECTION, PROTECTION, 0);
    Case { name, act, kind }
}

const fn bad_call(name: &'static str, number: u64) -> Case {
    let act = Act::Call(number);
    // The kernel looks at 32 bits of the number.
    let kind = Kind::BadCall(number & 0xffff_ffff);
    Case { name, act, kind }
}

const fn leave(name: &'static str, reason: u64, detail: u64) -> Case {
    let act = Act::Leave(reason, detail);
    let kind = Kind::Leave(reason, detail);
    Case { name, act, kind }
}

use Access::{Jump, Read, Write};
use Where::At;

/// Instructions that QEMU lets ring 3 execute although CPUs do not: INVD and WBINVD, which do
/// nothing there, and XSAVE with CR0.TS set, which shows what the kernel left in the registers (the
/// FPU suite looks at that). A fault of these must be right, but it may stay away.
pub const EXECUTED_BY_QEMU: &[&str] = &["invd", "wbinvd", "xsave"];

/// Returns to another ring, whose frame QEMU before 8 reads with the kernel's rights: with SMAP on
/// that is a page fault at the task's own stack instead of the protection fault.
pub const RETURNS: &[&str] = &["far-return-to-kernel", "iret-to-kernel"];

/// All cases, in the order in which they run.
pub const ALL: &[Case] = &[
    page("read-null", Read, At(0), 0),
    page("write-null", Write, At(0), 0),
    page("jump-null", Jump, At(0), 0),
    page("read-near-null", Read, At(0xfff), 0),
    page("read-below-window", Read, At(0x1f_ffff), 0),
    page("write-text", Write, Where::Text, PRESENT),
    page("write-constants", Write, Where::Constants, PRESENT),
    page("write-pristine", Write, Where::Pristine, PRESENT),
    page("write-system-page", Write, At(0x40_8000), PRESENT),
    page("write-task-info", Write, At(0x40_4000), PRESENT),
    page("jump-data", Jump, Where::Data, PRESENT),
    page("jump-stack", Jump, Where::Stack, PRESENT),
    page("jump-constants", Jump, Where::Constants, PRESENT),
    page("jump-pristine", Jump, Where::Pristine, PRESENT),
    page("jump-system-page", Jump, At(0x40_8000), PRESENT),
    page("jump-log-ring", Jump, At(0x40_a000), PRESENT),
    page("read-guard", Read, Where::Guard, 0),
    page("write-guard", Write, Where::Guard, 0),
    Case {
        name: "stack-overflow",
        act: Act::Recursion,
        kind: Kind::Exception(PAGE, PAGE, USER | WRITE),
    },
    // The kernel's half: text, system table, interrupt table, shared words.
    page("read-kernel-text", Read, At(KERNEL), PRESENT),
    page("write-kernel-text", Write, At(KERNEL), PRESENT),
    page("jump-kernel-text", Jump, At(KERNEL), PRESENT),
    page("read-system-table", Read, At(KERNEL + 0x18_0000), PRESENT),
    page("read-interrupt-table", Read, At(KERNEL + 0x1b_f000), PRESENT),
    page("write-interrupt-table", Write, At(KERNEL + 0x1b_f000), PRESENT),
    page("read-shared-words", Read, At(KERNEL + 0x1c_0000), PRESENT),
    page("write-shared-words", Write, At(KERNEL + 0x1c_0000), PRESENT),
    // The core window: guard, stack, objects, log ring.
    page("read-kernel-guard", Read, At(0x20_0000), 0),
    page("read-kernel-stack", Read, At(0x20_1000), PRESENT),
    page("write-kernel-stack", Write, At(0x20_1ff8), PRESENT),
    page("jump-kernel-stack", Jump, At(0x20_1000), PRESENT),
    page("read-core-objects", Read, At(0x20_c000), PRESENT),
    page("write-core-objects", Write, At(0x20_c000), PRESENT),
    page("read-kernel-log", Read, At(0x21_0000), PRESENT),
    // The thread frame and the I/O permission bitmap.
    page("read-frame", Read, At(0x40_0000), PRESENT),
    page("write-frame", Write, At(0x40_0c00), PRESENT),
    page("jump-frame", Jump, At(0x40_0000), PRESENT),
    page("read-io-bitmap", Read, At(0x40_1000), PRESENT),
    page("write-io-bitmap", Write, At(0x40_1000), PRESENT),
    page("write-io-bitmap-end", Write, At(0x40_2fff), PRESENT),
    // What was there before the seal, and the ends of the address space.
    page("read-physical-memory", Read, At(0xffff_8000_0000_0000), 0),
    page("read-physical-stub", Read, At(0xffff_8000_0010_0000), 0),
    page("read-user-end", Read, At(0x4000_0000), 0),
    page("write-user-end", Write, At(0x4000_0000), 0),
    page("jump-last-page", Jump, At(0x7fff_ffff_f000), 0),
    page("read-last-byte", Read, At(u64::MAX), 0),
    beyond("read-non-canonical", Read),
    beyond("write-non-canonical", Write),
    beyond("jump-non-canonical", Jump),
    // Arithmetic and undefined instructions.
    instruction("divide", DIVIDE, 0),
    instruction("divide-overflow", DIVIDE, 0),
    instruction("ud2", INVALID, 0),
    instruction("lock-nop", INVALID, 0),
    instruction("far-call-in-64-bit", INVALID, 0),
    instruction("too-long", PROTECTION, 0),
    // Software interrupts: every gate is closed to ring 3.
    interrupt("int3", 3),
    interrupt("int-0x80", 0x80),
    interrupt("int-14", 14),
    interrupt("int-2", 2),
    interrupt("int-8", 8),
    interrupt("int-timer", 0xf1),
    interrupt("int-ipi", 0xf0),
    interrupt("int-unused", 0xc8),
    // QEMU before 8 does not know it.
    Case {
        name: "icebp",
        act: Act::Instruction("icebp"),
        kind: Kind::Exception(DEBUG, INVALID, 0),
    },
    // Privileged instructions.
    instruction("cli", PROTECTION, 0),
    instruction("sti", PROTECTION, 0),
    instruction("hlt", PROTECTION, 0),
    instruction("mov-to-cr0", PROTECTION, 0),
    instruction("mov-to-cr3", PROTECTION, 0),
    instruction("mov-to-cr4", PROTECTION, 0),
    instruction("mov-to-cr8", PROTECTION, 0),
    instruction("mov-from-cr0", PROTECTION, 0),
    instruction("mov-from-cr3", PROTECTION, 0),
    instruction("mov-to-dr7", PROTECTION, 0),
    instruction("mov-from-dr6", PROTECTION, 0),
    instruction("clts", PROTECTION, 0),
    instruction("lmsw", PROTECTION, 0),
    instruction("wrmsr", PROTECTION, 0),
    instruction("rdmsr", PROTECTION, 0),
    instruction("rdpmc", PROTECTION, 0),
    instruction("lgdt", PROTECTION, 0),
    instruction("lidt", PROTECTION, 0),
    instruction("lldt", PROTECTION, 0),
    instruction("ltr", PROTECTION, 0),
    instruction("invlpg", PROTECTION, 0),
    instruction("invd", PROTECTION, 0),
    instruction("wbinvd", PROTECTION, 0),
    instruction("swapgs", PROTECTION, 0),
    instruction("sysretq", PROTECTION, 0),
    instruction("xsetbv", PROTECTION, 0),
    refused("sysenter"),
    refused("monitor"),
    refused("clac"),
    refused("stac"),
    refused("wrfsbase"),
    refused("vmrun"),
    // UMIP.
    instruction("sgdt", PROTECTION, 0),
    instruction("sidt", PROTECTION, 0),
    instruction("sldt", PROTECTION, 0),
    instruction("str", PROTECTION, 0),
    instruction("smsw", PROTECTION, 0),
    // Selectors of the kernel.
    instruction("mov-ds-kernel", PROTECTION, 0x10),
    instruction("mov-ds-task-state", PROTECTION, 0x28),
    instruction("mov-ss-null", PROTECTION, 0),
    instruction("far-return-to-kernel", PROTECTION, 0x08),
    instruction("iret-to-kernel", PROTECTION, 0x08),
    instruction("far-jump-task-state", PROTECTION, 0x28),
    // Ports: beside the granted range, straddling its ends, and where no bitmap reaches.
    port("in-below-granted", Act::In(1, 0x2f7)),
    port("in-above-granted", Act::In(1, 0x300)),
    port("in-word-over-the-end", Act::In(2, 0x2ff)),
    port("in-long-over-the-end", Act::In(4, 0x2fd)),
    port("in-word-over-the-start", Act::In(2, 0x2f7)),
    port("out-above-granted", Act::Out(1, 0x300)),
    port("out-word-over-the-end", Act::Out(2, 0x2ff)),
    port("in-port-0", Act::In(1, 0)),
    port("in-console", Act::In(1, 0x3fd)),
    port("out-pci-config", Act::Out(4, 0xcf8)),
    port("out-power-off", Act::Out(2, 0x604)),
    port("out-reset", Act::Out(1, 0xcf9)),
    port("in-second-half", Act::In(1, 0x8000)),
    port("in-last-of-bitmap", Act::In(1, 0xfff7)),
    port("in-behind-bitmap", Act::In(1, 0xfff8)),
    port("in-last", Act::In(1, 0xffff)),
    port("in-long-at-the-end", Act::In(4, 0xfffc)),
    port("outsb", Act::Instruction("outsb")),
    port("insb", Act::Instruction("insb")),
    // Single steps.
    instruction("step", DEBUG, 0),
    instruction("step-over-syscall", DEBUG, 0),
    instruction("step-over-mov-ss", DEBUG, 0),
    instruction("step-over-sleep", DEBUG, 0),
    instruction("step-over-signal", DEBUG, 0),
    // Floating point in a task that has none.
    instruction("movaps", NO_FPU, 0),
    instruction("x87", NO_FPU, 0),
    instruction("fwait", NO_FPU, 0),
    instruction("mmx", NO_FPU, 0),
    instruction("ldmxcsr", NO_FPU, 0),
    instruction("fxsave", NO_FPU, 0),
    instruction("xsave", NO_FPU, 0),
    instruction("avx", NO_FPU, 0),
    // A fault with the alignment check flag set, which SMAP makes mean something to the kernel.
    instruction("fault-with-ac", INVALID, 0),
    instruction("fault-with-df", INVALID, 0),
    instruction("fault-with-nt", INVALID, 0),
    instruction("fault-with-bad-stack", INVALID, 0),
    instruction("fault-with-bad-frame", INVALID, 0),
    // System calls that do not exist.
    bad_call("call-16", 16),
    bad_call("call-17", 17),
    bad_call("call-255", 255),
    bad_call("call-i32-max", 0x7fff_ffff),
    bad_call("call-i32-min", 0x8000_0000),
    bad_call("call-u32-max", 0xffff_ffff),
    bad_call("bind-after-seal", 11),
    bad_call("hand-over-after-seal", 12),
    bad_call("start-core-after-seal", 13),
    bad_call("map-firmware-after-seal", 14),
    bad_call("seal-after-seal", 15),
    // Leaving.
    leave("exit-0", 0, 0),
    leave("exit-1", 0, 1),
    leave("exit-max", 0, u64::MAX),
    leave("leave-unknown", 7, 9),
    Case { name: "panic", act: Act::Panic, kind: Kind::Panicked },
];
