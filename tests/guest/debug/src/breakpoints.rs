//! Breakpoints on instructions and data, INT3 and its like.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::interrupts::{self, Frame};
use cloister_guest_rt::{cpu, port, println};
use guest_common::{
    Cases, Outcome, attempt, ensure, equal, is_old_emulator, log, registers, undefined,
};

/// Vectors of the debug exception and of INT3.
pub const DB: u8 = 1;
const BP: u8 = 3;
/// Resume flag: the breakpoint at the instruction itself is passed over once.
const RESUME: u64 = 1 << 16;
/// DR7: breakpoint 0 on, exactly, and its kinds: execution, one-byte write, four-byte access.
pub const ON: u64 = 0x702;
pub const WRITE_1: u64 = 1 << 16;
const ACCESS_4: u64 = 0xf << 16;
/// DR7 with nothing on.
pub const OFF: u64 = 0x400;
/// DR6 with nothing in it; its bit for breakpoint 0.
pub const CLEAR: u64 = 0xffff_0ff0;
pub const HIT_0: u64 = 1;

/// What the handler found there.
pub static DR6: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(DB, note);
    interrupts::set(BP, |frame| log::note(frame));
    cases.run("INT3 and the debug instruction", instructions);
    cases.run("a breakpoint on an instruction", on_instruction);
    cases.run("a breakpoint on an instruction that leaves the guest", on_exit);
    cases.run("a watchpoint on a write", on_write);
    cases.run("a watchpoint on a read", on_read);
    cases.run("DR4 and DR5 are DR6 and DR7", aliases);
    cases.run("access to debug registers can be detected", detected);
    cases.run("debug registers hold after many exits", held);
    set(0, OFF);
}

/// The handler of debug exceptions.
pub fn note(frame: &mut Frame) {
    DR6.store(registers::dr6(), Ordering::Release);
    // SAFETY: only says what has happened so far.
    unsafe { registers::set_dr6(CLEAR) };
    log::note(frame);
    frame.rflags |= RESUME;
}

/// Sets the address and the control of breakpoint 0.
pub fn set(address: u64, control: u64) {
    // SAFETY: the handler of debug exceptions is set.
    unsafe { registers::set_dr7(OFF) };
    // SAFETY: as above.
    unsafe { registers::set_dr0(address) };
    // SAFETY: as above.
    unsafe { registers::set_dr7(control) };
}

/// Sets breakpoint 0 and forgets what came before.
pub fn arm(address: u64, control: u64) {
    log::clear();
    DR6.store(0, Ordering::Release);
    set(address, control);
}

/// Turns the breakpoint off; one exception has come, before the instruction at `label`.
fn one_at(label: u64) -> Outcome {
    set(0, OFF);
    equal("the number of exceptions", log::len() as u64, 1)?;
    equal("its instruction", log::entry(0).1, label)?;
    equal("DR6", DR6.load(Ordering::Acquire), CLEAR | HIT_0)
}

/// The addresses of the labels `5:` and `6:` in lines that are run with RAX = 0, RCX = an address
/// and a breakpoint at `5:`, or without one if `$control` is 0.
macro_rules! run_at {
    ($control:expr, $address:expr; $($line:literal),+) => {{
        let (first, second): (u64, u64);
        log::clear();
        DR6.store(0, Ordering::Release);
        // SAFETY: the lines change the listed registers; the handler of debug exceptions is set.
        unsafe {
            core::arch::asm!(
                "push rbx", "lea {first}, [rip + 5f]", "lea {second}, [rip + 6f]",
                "test {control}, {control}", "jz 4f", "mov dr0, {first}", "mov dr7, {control}",
                "4:", $($line,)+ "pop rbx",
                first = out(reg) first, second = out(reg) second, control = in(reg) $control,
                inout("rax") 0u64 => _, inout("rcx") $address => _, inout("rdx") 0x5000u64 => _,
            );
        }
        (first, second)
    }};
}

fn instructions() -> Outcome {
    let (_, after) = run_at!(0u64, 0u64; "5: int3", "6: nop");
    equal("the number of exceptions", log::len() as u64, 1)?;
    equal("the vector of INT3", log::entry(0).0, BP.into())?;
    equal("the instruction behind INT3", log::entry(0).1, after)?;
    let (_, after) = run_at!(0u64, 0u64; "5: int 3", "6: nop");
    equal("the vector of INT 3", log::entry(0).0, BP.into())?;
    equal("the instruction behind INT 3", log::entry(0).1, after)?;
    if is_old_emulator() {
        println!("left out on QEMU 7.2: the debug instruction");
        return Ok(());
    }
    let (_, after) = run_at!(0u64, 0u64; "5: .byte 0xf1", "6: nop");
    equal("the number of exceptions", log::len() as u64, 1)?;
    equal("the vector of the debug instruction", log::entry(0).0, DB.into())?;
    equal("the instruction behind it", log::entry(0).1, after)
}

fn on_instruction() -> Outcome {
    for _ in 0..20 {
        let (at, _) = run_at!(ON, 0u64; "nop", "5: inc rax", "6: inc rax");
        one_at(at)?;
    }
    Ok(())
}

fn on_exit() -> Outcome {
    let (at, _) = run_at!(ON, 0u64; "nop", "5: cpuid", "6: inc rax");
    one_at(at)?;
    let (at, _) = run_at!(ON, 0u64; "nop", "5: in al, dx", "6: inc rax");
    one_at(at)?;
    // Behind an exit, too.
    let (at, _) = run_at!(ON, 0u64; "cpuid", "5: inc rax", "6: inc rax");
    one_at(at)
}

fn on_write() -> Outcome {
    let mut byte = 0u8;
    let at = &raw mut byte as u64;
    arm(at, ON | WRITE_1);
    let (_, after) = watched(at, |at| run_at!(0u64, at; "5: mov byte ptr [rcx], 1", "6: nop"));
    one_at(after)?;
    arm(at, ON | WRITE_1);
    watched(at, |at| run_at!(0u64, at; "5: mov al, [rcx]", "6: nop"));
    set(0, OFF);
    equal("exceptions of a read", log::len() as u64, 0)?;
    core::hint::black_box(byte);
    Ok(())
}

fn on_read() -> Outcome {
    let word = 7u32;
    let at = &raw const word as u64;
    arm(at, ON | ACCESS_4);
    let (_, after) = watched(at, |at| run_at!(0u64, at; "5: mov eax, [rcx]", "6: nop"));
    one_at(after)
}

/// Keeps the compiler from touching a watched variable on its own.
#[inline(never)]
fn watched(at: u64, lines: impl FnOnce(u64) -> (u64, u64)) -> (u64, u64) {
    lines(core::hint::black_box(at))
}

fn aliases() -> Outcome {
    let (mut four, mut five) = (0u64, 0u64);
    // CR4.DE is off: the old names are other names.
    guest_common::ran("MOV from DR4", attempt!("mov rax, dr4"; inout("rax") four))?;
    guest_common::ran("MOV from DR5", attempt!("mov rax, dr5"; inout("rax") five))?;
    equal("DR4", four, registers::dr6())?;
    equal("DR5", five, registers::dr7())?;
    // SAFETY: the bit only takes the old names away.
    unsafe { registers::set_cr4(registers::cr4() | 1 << 3) };
    let word = attempt!("mov rax, dr4"; out("rax") _);
    // SAFETY: as before.
    unsafe { registers::set_cr4(registers::cr4() & !(1 << 3)) };
    undefined("MOV from DR4 with CR4.DE", word)
}

fn detected() -> Outcome {
    if is_old_emulator() {
        println!("left out on QEMU 7.2: detection of access to debug registers");
        return Ok(());
    }
    const DETECT: u64 = 1 << 13;
    log::clear();
    set(0, OFF | DETECT);
    let before = log::len();
    // The access is an exception, whose handler may touch them: the CPU clears the bit.
    let word = attempt!("mov rax, dr0"; out("rax") _);
    set(0, OFF);
    // Either the exception came through the table of instructions that may fault, or the handler
    // took it and the instruction was executed again.
    let seen = guest_common::faulted(
        "MOV from DR0",
        word,
        cloister_guest_rt::probe::Fault { vector: DB, error: 0 },
    );
    ensure("a debug exception", seen.is_ok() || log::len() > before, log::len() as u64)?;
    // SAFETY: only says what has happened so far.
    unsafe { registers::set_dr6(CLEAR) };
    Ok(())
}

fn held() -> Outcome {
    let word = 7u32;
    arm(&raw const word as u64, ON | WRITE_1);
    for _ in 0..5000 {
        cpu::cpuid(0, 0);
        port::read8(0x5000);
    }
    equal("DR7", registers::dr7(), ON | WRITE_1)?;
    equal("DR0", registers::dr0(), &raw const word as u64)?;
    let (_, after) = watched(
        &raw const word as u64,
        |at| run_at!(0u64, at; "5: mov byte ptr [rcx], 7", "6: nop"),
    );
    one_at(after)
}
