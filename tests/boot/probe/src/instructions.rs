//! Instructions that ring 3 may not use, or may use without harm, by the names of the cases.
//!
//! Each faulting one notes its own address first: label 2 is where the fault must be, label 3 where
//! it may be instead.

use core::arch::asm;

use boot_common::page::{EXPECTED, Page};
use boot_common::raw;
use cloister_rt::abi::call::Call;

use crate::Boss;

/// Room for what an instruction would store, should it not fault.
#[repr(C, align(64))]
struct Room([u8; 1024]);

/// One instruction, its address noted. `r8` points to memory, `r9` is the page with the note.
macro_rules! must_fault {
    ($page:expr, $($code:literal),+) => {{
        let mut room = Room([0; 1024]);
        // SAFETY: the last instruction faults and the task ends with it. Should it not fault, the
        // case has failed; registers that the code names are declared, and memory that an
        // instruction could store to is `room`.
        unsafe {
            asm!("lea rax, [rip + 2f]", "mov [r9], rax",
                 "xor eax, eax", "xor ecx, ecx", "xor edx, edx",
                 $($code),+,
                 in("r8") room.0.as_mut_ptr(), in("r9") $page.word(EXPECTED).as_ptr(),
                 out("rax") _, out("rcx") _, out("rdx") _, out("r10") _, out("r11") _,
                 out("rsi") _, out("rdi") _);
        }
    }};
}

/// Runs the instruction of a case.
pub fn run(boss: &Boss, name: &str) {
    let page = &boss.page;
    if !(undefined(page, name)
        || software_interrupt(page, name)
        || control_register(page, name)
        || table(page, name)
        || privileged(page, name)
        || selector(page, name)
        || floating_point(page, name)
        || step(boss, name))
    {
        flags(page, name);
    }
}

fn undefined(page: &Page, name: &str) -> bool {
    match name {
        "divide" => must_fault!(page, "2: div ecx"),
        "divide-overflow" => must_fault!(page, "mov edx, 5", "mov ecx, 2", "2: div ecx"),
        "ud2" => must_fault!(page, "2: ud2"),
        "lock-nop" => must_fault!(page, "2: .byte 0xf0, 0x90"),
        "far-call-in-64-bit" => must_fault!(page, "2: .byte 0x9a, 0, 0, 0, 0, 8, 0"),
        "too-long" => must_fault!(page, "2: .fill 15, 1, 0x66", "nop"),
        "outsb" => must_fault!(page, "mov rsi, r8", "mov edx, 0x300", "2: outsb"),
        "insb" => must_fault!(page, "mov rdi, r8", "mov edx, 0x300", "2: insb"),
        _ => return false,
    }
    true
}

fn software_interrupt(page: &Page, name: &str) -> bool {
    match name {
        "int3" => must_fault!(page, "2: int3"),
        "int-0x80" => must_fault!(page, "2: int 0x80"),
        "int-14" => must_fault!(page, "2: int 14"),
        "int-2" => must_fault!(page, "2: int 2"),
        "int-8" => must_fault!(page, "2: int 8"),
        "int-timer" => must_fault!(page, "2: int 0xf1"),
        "int-ipi" => must_fault!(page, "2: int 0xf0"),
        "int-unused" => must_fault!(page, "2: int 0xc8"),
        // A trap: the record shows the next instruction.
        "icebp" => {
            must_fault!(
                page,
                "lea r10, [rip + 3f]",
                "mov [r9 + 8], r10",
                "3: .byte 0xf1",
                "2: nop"
            );
        }
        _ => return false,
    }
    true
}

fn control_register(page: &Page, name: &str) -> bool {
    match name {
        "mov-to-cr0" => must_fault!(page, "2: mov cr0, rax"),
        "mov-to-cr3" => must_fault!(page, "2: mov cr3, rax"),
        "mov-to-cr4" => must_fault!(page, "2: mov cr4, rax"),
        "mov-to-cr8" => must_fault!(page, "2: mov cr8, rax"),
        "mov-from-cr0" => must_fault!(page, "2: mov rax, cr0"),
        "mov-from-cr3" => must_fault!(page, "2: mov rax, cr3"),
        "mov-to-dr7" => must_fault!(page, "2: mov dr7, rax"),
        "mov-from-dr6" => must_fault!(page, "2: mov rax, dr6"),
        "clts" => must_fault!(page, "2: clts"),
        "lmsw" => must_fault!(page, "2: lmsw ax"),
        "smsw" => must_fault!(page, "2: smsw rax"),
        "xsetbv" => must_fault!(page, "mov eax, 7", "2: xsetbv"),
        _ => return false,
    }
    true
}

fn table(page: &Page, name: &str) -> bool {
    match name {
        "lgdt" => must_fault!(page, "2: lgdt [r8]"),
        "lidt" => must_fault!(page, "2: lidt [r8]"),
        "lldt" => must_fault!(page, "2: lldt ax"),
        "ltr" => must_fault!(page, "2: ltr ax"),
        "sgdt" => must_fault!(page, "2: sgdt [r8]"),
        "sidt" => must_fault!(page, "2: sidt [r8]"),
        "sldt" => must_fault!(page, "2: sldt rax"),
        "str" => must_fault!(page, "2: str rax"),
        _ => return false,
    }
    true
}

fn privileged(page: &Page, name: &str) -> bool {
    match name {
        "cli" => must_fault!(page, "2: cli"),
        "sti" => must_fault!(page, "2: sti"),
        "hlt" => must_fault!(page, "2: hlt"),
        // IA32_LSTAR: where system calls enter.
        "wrmsr" => must_fault!(page, "mov ecx, 0xc0000082", "2: wrmsr"),
        "rdmsr" => must_fault!(page, "mov ecx, 0xc0000082", "2: rdmsr"),
        "rdpmc" => must_fault!(page, "2: rdpmc"),
        "invlpg" => must_fault!(page, "2: invlpg [r8]"),
        "invd" => must_fault!(page, "2: invd"),
        "wbinvd" => must_fault!(page, "2: wbinvd"),
        "swapgs" => must_fault!(page, "2: swapgs"),
        "sysretq" => must_fault!(page, "lea rcx, [rip + 4f]", "2: sysretq", "4: nop"),
        "sysenter" => must_fault!(page, "2: sysenter"),
        "monitor" => must_fault!(page, "mov rax, r8", "2: monitor"),
        "clac" => must_fault!(page, "2: clac"),
        "stac" => must_fault!(page, "2: stac"),
        "wrfsbase" => must_fault!(page, "2: wrfsbase rax"),
        "vmrun" => must_fault!(page, "2: .byte 0x0f, 0x01, 0xd8"),
        _ => return false,
    }
    true
}

fn selector(page: &Page, name: &str) -> bool {
    match name {
        "mov-ds-kernel" => must_fault!(page, "mov eax, 0x10", "2: mov ds, eax"),
        "mov-ds-task-state" => must_fault!(page, "mov eax, 0x28", "2: mov ds, eax"),
        "mov-ss-null" => must_fault!(page, "2: mov ss, eax"),
        "far-return-to-kernel" => {
            must_fault!(page, "push 8", "lea rax, [rip + 2f]", "push rax", "2: retfq");
        }
        "iret-to-kernel" => must_fault!(
            page,
            "mov rcx, rsp",
            "push 0x10",
            "push rcx",
            "push 0x202",
            "push 8",
            "lea rax, [rip + 2f]",
            "push rax",
            "2: iretq"
        ),
        "far-jump-task-state" => must_fault!(
            page,
            "mov dword ptr [r8], 0",
            "mov word ptr [r8 + 4], 0x28",
            "2: jmp fword ptr [r8]"
        ),
        _ => return false,
    }
    true
}

fn floating_point(page: &Page, name: &str) -> bool {
    match name {
        "movaps" => must_fault!(page, "2: movaps xmm0, [r8]"),
        "x87" => must_fault!(page, "2: fld1"),
        "fwait" => must_fault!(page, "2: fwait"),
        "mmx" => must_fault!(page, "2: paddb mm0, mm1"),
        "ldmxcsr" => must_fault!(page, "2: ldmxcsr [r8]"),
        "fxsave" => must_fault!(page, "2: fxsave64 [r8]"),
        "xsave" => must_fault!(page, "mov eax, 3", "2: xsave64 [r8]"),
        "avx" => must_fault!(page, "2: vaddps ymm0, ymm1, ymm2"),
        _ => return false,
    }
    true
}

/// Single steps. The flag is set by `popfq`; the step comes after the instruction behind it.
fn step(boss: &Boss, name: &str) -> bool {
    let page = &boss.page;
    // Where the alternative is noted: an older or another CPU steps there.
    match name {
        "step" => {
            must_fault!(page, "pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "2: nop")
        }
        "step-over-syscall" => must_fault!(
            page,
            "lea r10, [rip + 3f]",
            "mov [r9 + 8], r10",
            "mov eax, 1",
            "mov edi, 0x1000",
            "pushfq",
            "or dword ptr [rsp], 0x100",
            "popfq",
            "syscall",
            "2: nop",
            "3: nop"
        ),
        // MOV SS holds the step back until after the next instruction, which is the system call.
        "step-over-mov-ss" => must_fault!(
            page,
            "lea r10, [rip + 3f]",
            "mov [r9 + 8], r10",
            "mov edi, 0x1000",
            "mov r10d, 0x1b",
            "pushfq",
            "or dword ptr [rsp], 0x100",
            "mov eax, 1",
            "popfq",
            "mov ss, r10d",
            "3: syscall",
            "2: nop",
            "nop"
        ),
        // Sleeps with the flag set: the kernel goes back by its other way out.
        "step-over-sleep" => must_fault!(
            page,
            "lea r10, [rip + 3f]",
            "mov [r9 + 8], r10",
            "rdtsc",
            "shl rdx, 32",
            "lea rsi, [rax + rdx + 100000]",
            "xor edi, edi",
            "xor eax, eax",
            "pushfq",
            "or dword ptr [rsp], 0x100",
            "popfq",
            "syscall",
            "2: nop",
            "3: nop"
        ),
        "step-over-signal" => step_over_signal(page),
        _ => return false,
    }
    true
}

/// A signal that has the supervisor run at once, on the same core.
fn step_over_signal(page: &Page) {
    let slot = page.get(boot_common::page::SLOTS + 1);
    let note = page.word(EXPECTED).as_ptr();
    // SAFETY: the step faults. Registers that the call destroys are named.
    unsafe {
        asm!("lea {t}, [rip + 2f]", "mov [{n}], {t}", "lea {t}, [rip + 3f]", "mov [{n} + 8], {t}",
             "pushfq", "or dword ptr [rsp], 0x100", "popfq", "syscall", "2: nop", "3: nop",
             n = in(reg) note, t = out(reg) _, inout("rax") Call::Signal as u64 => _,
             inout("rdi") slot => _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _,
             out("r9") _, out("r10") _, out("r11") _);
    }
}

/// Faults with flags or registers that could confuse the kernel.
fn flags(page: &Page, name: &str) {
    match name {
        "fault-with-ac" => {
            must_fault!(page, "pushfq", "or dword ptr [rsp], 0x40000", "popfq", "2: ud2")
        }
        "fault-with-df" => must_fault!(page, "std", "2: ud2"),
        "fault-with-nt" => {
            must_fault!(page, "pushfq", "or dword ptr [rsp], 0x4000", "popfq", "2: ud2")
        }
        "fault-with-bad-stack" => must_fault!(page, "mov rsp, 0x201800", "2: ud2"),
        "fault-with-bad-frame" => must_fault!(page, "mov rbp, 0x201800", "2: ud2"),
        _ => {}
    }
}

const AC: u64 = 1 << 18;
const IF: u64 = 1 << 9;
const DF: u64 = 1 << 10;
const IOPL: u64 = 3 << 12;

/// What must not fault: a misaligned access and system calls with the alignment check flag set,
/// an attempt to clear the interrupt flag, cleared selectors. Results: the flags after each, and
/// how many calls went wrong.
pub fn harmless(boss: &Boss) {
    let words = [1_u64, 2];
    let (loaded, flags): (u64, u64);
    // SAFETY: reads eight bytes within `words`, at an odd address; the flags are put back.
    unsafe {
        asm!("pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov {l}, [{w} + 3]",
             "mov eax, 1", "mov edi, 0x1000", "syscall", "pushfq", "pop {f}",
             "pushfq", "and dword ptr [rsp], ~0x40000", "popfq",
             w = in(reg) words.as_ptr(), l = out(reg) loaded, f = out(reg) flags,
             out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _,
             out("r9") _, out("r10") _, out("r11") _);
    }
    boss.result(0, u64::from(loaded == 2 << 40));
    boss.result(1, flags & AC);
    let flags: u64;
    // SAFETY: POPF from ring 3 changes neither the interrupt flag nor the privilege level of I/O.
    unsafe {
        asm!("pushfq", "and dword ptr [rsp], ~0x200", "or dword ptr [rsp], 0x3000", "popfq",
             "pushfq", "pop {f}", f = out(reg) flags);
    }
    boss.result(2, flags & (IF | IOPL));
    let flags: u64;
    // SAFETY: the direction flag is clear again afterwards; the call touches no memory.
    unsafe {
        asm!("std", "mov eax, 1", "mov edi, 0x1000", "syscall", "pushfq", "pop {f}", "cld",
             f = out(reg) flags, out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _,
             out("rdi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    boss.result(3, flags & DF);
    // The upper half of `rax` is not part of the number.
    let reply = raw::call(1 | 7 << 32, 0x1000, 0, 0);
    boss.result(4, reply.status);
}
