//! System calls by number, and capability slots by name: what `cloister-rt` hides on purpose.
//!
//! A raw call can do nothing to this task's memory (no call takes a pointer), so it is safe; what
//! it does to the system is what the tests are about.

use core::arch::asm;

use cloister_rt::abi::call::{Call, Status};
use cloister_rt::abi::info::{GRANT_BIT, GRANT_CAP, Grant, TaskInfo};
use cloister_rt::abi::layout::{PAGE, TASK_INFO, TASK_INFO_PAGES};
use cloister_rt::abi::name_str;
use cloister_rt::abi::table::CapKind;
use zerocopy::FromBytes;

/// Everything that is in the registers after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// `rax`: a [`Status`] code.
    pub status: u64,
    /// `rdx`, `rsi`, `rdi`, `r8`.
    pub values: [u64; 4],
    /// Which registers broke the contract: bits 0 to 5 for `rbx`, `rbp`, `r12` to `r15`, which
    /// must keep their values, bits 6 and 7 for `r9` and `r10`, which must hold nothing of the
    /// kernel's.
    pub broken: u64,
}

impl Reply {
    /// Whether the call returned this status and kept the registers.
    pub fn is(&self, status: Status) -> bool {
        self.status == status as u64 && self.broken == 0
    }
}

/// Patterns for the registers that a call must not change.
const KEPT: u64 = 0x5ca1_ab1e_0ddb_a110;

/// Makes a call with these registers. `rax` is the number, all 64 bits of it.
pub fn call(number: u64, a: u64, b: u64, c: u64) -> Reply {
    let (status, rdx, rsi, rdi, r8): (u64, u64, u64, u64, u64);
    let (broken, r9, r10): (u64, u64, u64);
    // SAFETY: (1) the kernel neither reads nor writes this task's memory for a call. (2) Every
    // register that the code or the call changes is an output; `rbx` and `rbp`, which cannot be
    // named as such, are saved on the stack and taken back from there. (3) The stack is balanced,
    // and below the red zone that this target does not have.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rbx, r13",
            "lea r12, [r13 + 2]",
            "lea r14, [r13 + 4]",
            "lea r15, [r13 + 5]",
            "syscall",
            // What differs is collected in r11, which the call destroys anyway.
            "mov rcx, {kept}",
            "xor r11d, r11d",
            "cmp rbx, rcx", "setne r11b",
            // The frame pointer stays what it is, so that a backtrace from here leads somewhere.
            "cmp rbp, [rsp]", "je 2f", "or r11d, 2", "2:",
            "add rcx, 2", "cmp r12, rcx", "je 2f", "or r11d, 4", "2:",
            "inc rcx", "lea r12, [rcx - 3]", "cmp r13, r12", "je 2f", "or r11d, 8", "2:",
            "inc rcx", "cmp r14, rcx", "je 2f", "or r11d, 16", "2:",
            "inc rcx", "cmp r15, rcx", "je 2f", "or r11d, 32", "2:",
            "pop rbp",
            "pop rbx",
            kept = const KEPT,
            inlateout("rax") number => status,
            inlateout("rdi") a => rdi,
            inlateout("rsi") b => rsi,
            inlateout("rdx") c => rdx,
            lateout("r8") r8,
            lateout("r9") r9,
            lateout("r10") r10,
            lateout("r11") broken,
            lateout("rcx") _,
            out("r12") _,
            inout("r13") KEPT => _,
            out("r14") _,
            out("r15") _,
        );
    }
    let leaked = u64::from(r9 != 0) << 6 | u64::from(r10 != 0) << 7;
    Reply { status, values: [rdx, rsi, rdi, r8], broken: broken | leaked }
}

/// Makes one of the known calls.
pub fn known(number: Call, a: u64, b: u64, c: u64) -> Reply {
    call(number as u64, a, b, c)
}

/// This task's grants as the image builder wrote them.
fn entries() -> &'static [Grant] {
    let len = (TASK_INFO_PAGES * PAGE) as usize;
    let start = TASK_INFO as *const u8;
    // SAFETY: the first page of the task information is mapped read-only for the task's life, and
    // the head lies in it.
    let head = unsafe { core::slice::from_raw_parts(start, size_of::<TaskInfo>()) };
    let Ok(info) = TaskInfo::ref_from_bytes(head) else {
        return &[];
    };
    let bytes = size_of::<TaskInfo>() + usize::from(info.count) * size_of::<Grant>();
    // SAFETY: as above; the head says how many entries were written, and the builder maps all of
    // their pages.
    let all = unsafe { core::slice::from_raw_parts(start, bytes.min(len)) };
    match <[Grant]>::ref_from_bytes(&all[size_of::<TaskInfo>()..]) {
        Ok(entries) => entries,
        Err(_) => &[],
    }
}

/// The slot of a capability, by its grant's name.
pub fn slot(name: &str, kind: CapKind) -> Option<u64> {
    let mut caps = entries().iter().filter(|entry| entry.kind == GRANT_CAP);
    caps.find(|entry| entry.cap_kind == kind as u8 && name_str(&entry.name) == name)
        .map(|entry| u64::from(entry.slot))
}

/// The first slot beyond this task's capability table.
pub fn slots() -> u64 {
    let caps = entries().iter().filter(|entry| entry.kind == GRANT_CAP);
    caps.map(|entry| u64::from(entry.slot) + 1).max().unwrap_or(0)
}

/// The bit of the own signal word that belongs to a grant, as a mask; zero for none.
pub fn bit(name: &str) -> u64 {
    let mut bits = entries().iter().filter(|entry| entry.kind == GRANT_BIT);
    bits.find(|entry| name_str(&entry.name) == name).map_or(0, |entry| 1 << (entry.bit & 63))
}
