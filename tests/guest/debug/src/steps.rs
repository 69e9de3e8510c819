//! Single steps with RFLAGS.TF: one debug exception behind each instruction, also behind those
//! that leave the guest.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::interrupts::{self, Frame};
use cloister_guest_rt::{apic, cpu};
use guest_common::{Cases, Outcome, equal, log, registers};

const DB: u8 = 1;
const VECTOR: u8 = 0x60;
/// Trap flag.
const TRAP: u64 = 1 << 8;
/// DR6 with nothing in it; its bit for a single step.
const CLEAR: u64 = 0xffff_0ff0;
const STEP: u64 = 1 << 14;

/// All bits of DR6 that any step had besides [`STEP`].
static OTHER: AtomicU64 = AtomicU64::new(0);
/// The trap flag, as handlers of interrupts found it for themselves.
static INSIDE: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(DB, note);
    interrupts::set(VECTOR, |frame| {
        INSIDE.fetch_or(cpu::flags() & TRAP, Ordering::AcqRel);
        log::take(frame);
    });
    cases.run("a step behind each instruction", plain);
    cases.run("a step behind CPUID", behind_cpuid);
    cases.run("a step behind ports", behind_ports);
    cases.run("a step behind MSRs", behind_msrs);
    cases.run("a step behind WBINVD", behind_wbinvd);
    cases.run("no step behind MOV SS", behind_mov_ss);
    cases.run("an interrupt's handler is not stepped", interrupted);
    cases.run("the trap flag is the guest's own", own_flag);
}

fn note(frame: &mut Frame) {
    let dr6 = registers::dr6();
    OTHER.fetch_or(dr6 ^ (CLEAR | STEP), Ordering::AcqRel);
    // SAFETY: only says what has happened so far.
    unsafe { registers::set_dr6(CLEAR) };
    log::note(frame);
}

/// Steps through instructions; evaluates to the addresses of the labels `5:`, `6:` and `7:` in
/// them. The last step is that of the POPFQ behind them.
macro_rules! step {
    ($($line:literal),+) => {{
        let places: [u64; 3];
        let (a, b, c): (u64, u64, u64);
        log::clear();
        OTHER.store(0, Ordering::Release);
        // SAFETY: the lines change the listed registers; the flags are put back.
        unsafe {
            core::arch::asm!(
                "push rbx",
                "lea {a}, [rip + 5f]", "lea {b}, [rip + 6f]", "lea {c}, [rip + 7f]",
                "mov rdi, {c}",
                "pushfq", "pushfq", "or qword ptr [rsp], 0x100", "popfq",
                $($line,)+
                "popfq", "pop rbx",
                a = out(reg) a, b = out(reg) b, c = out(reg) c,
                inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0x5000u64 => _,
                out("rdi") _, out("r8") _,
            );
        }
        places = [a, b, c];
        places
    }};
}

/// The steps came before these instructions, and one behind the POPFQ.
fn stepped(places: &[u64]) -> Outcome {
    for (index, &place) in places.iter().enumerate() {
        equal("the vector", log::entry(index).0, DB.into())?;
        equal("the instruction behind a step", log::entry(index).1, place)?;
    }
    equal("the number of steps", log::len() as u64, places.len() as u64 + 1)?;
    equal("DR6 besides the step", OTHER.load(Ordering::Acquire), 0)
}

fn plain() -> Outcome {
    stepped(&step!("nop", "5: inc rax", "6: inc rax", "7:"))
}

fn behind_cpuid() -> Outcome {
    stepped(&step!("cpuid", "5: inc rax", "6: cpuid", "7:"))
}

fn behind_ports() -> Outcome {
    stepped(&step!("in al, dx", "5: out dx, al", "6: inc rax", "7:"))
}

fn behind_msrs() -> Outcome {
    stepped(&step!("mov ecx, 0x1b", "5: rdmsr", "6: inc rax", "7:"))
}

fn behind_wbinvd() -> Outcome {
    stepped(&step!("wbinvd", "5: inc rax", "6: inc rax", "7:"))
}

fn behind_mov_ss() -> Outcome {
    let [_, second, third] = step!("mov r8d, ss", "5: mov ss, r8d", "inc rax", "6: inc rax", "7:");
    // The first step is before MOV SS; the one behind it does not come.
    equal("the second step", log::entry(1).1, second)?;
    equal("the third step", log::entry(2).1, third)?;
    equal("the number of steps", log::len() as u64, 4)
}

fn interrupted() -> Outcome {
    cpu::disable_interrupts();
    apic::start();
    INSIDE.store(0, Ordering::Release);
    apic::send_self(VECTOR);
    let [_, second, third] = step!("sti", "5: nop", "6: cli", "7:");
    let interrupts = (0..log::len()).filter(|&n| log::entry(n).0 == u64::from(VECTOR)).count();
    equal("interrupts", interrupts as u64, 1)?;
    equal("the trap flag in the handler", INSIDE.load(Ordering::Acquire), 0)?;
    let steps = (0..log::len()).filter(|&n| log::entry(n).0 == u64::from(DB));
    let places = steps.filter(|&n| [second, third].contains(&log::entry(n).1)).count();
    equal("steps behind STI's shadow", places as u64, 2)
}

/// Exits with the flag off must not turn it on, and the flag read inside a step is set.
fn own_flag() -> Outcome {
    for _ in 0..1000 {
        cpu::cpuid(0, 0);
        equal("the trap flag", cpu::flags() & TRAP, 0)?;
    }
    log::clear();
    let flags: u64;
    // SAFETY: the flags are put back.
    unsafe {
        core::arch::asm!(
            "pushfq", "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "pushfq", "pop {}", "popfq",
            out(reg) flags,
        );
    }
    equal("the trap flag in a step", flags & TRAP, TRAP)?;
    equal("the number of steps", log::len() as u64, 3)
}
