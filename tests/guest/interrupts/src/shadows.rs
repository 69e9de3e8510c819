//! Interrupt shadows: STI and MOV SS hold interrupts until the next instruction is done (Intel
//! SDM, "Masking Exceptions and Interrupts When Switching Stacks"), also if that instruction
//! leaves the guest.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_rt::{apic, cpu, interrupts, println, timer};
use guest_common::{Cases, Outcome, equal, is_old_emulator, let_in, log};

const VECTOR: u8 = 0x70;
/// Runs of MOV SS while a timer interrupts.
const ROUNDS: u32 = 3000;
/// Pairs of MOV SS and another instruction in each run.
const PAIRS: u64 = 8;
/// Bytes of MOV SS, R8D and of the jump behind each pair.
const MOV_SS: u64 = 3;
const JUMP: u64 = 2;

/// Start of the pairs and number of interrupts that came inside one.
static PAIRS_START: AtomicU64 = AtomicU64::new(0);
static TORN: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(VECTOR, log::take);
    cases.run("STI holds interrupts for one instruction", sti);
    cases.run("STI before CPUID holds them until it is done", sti_cpuid);
    cases.run("STI before a port holds them until it is done", sti_port);
    cases.run("STI before HLT does not sleep through them", sti_halt);
    cases.run("STI and CLI let nothing in", sti_cli);
    cases.run("POPF lets them in at once", popf);
    if is_old_emulator() {
        // An interrupt of the host's between the two ends the guest's turn, and the shadow is
        // gone when it goes on.
        println!("left out on QEMU 7.2: the shadow of MOV SS");
        return;
    }
    cases.run("nothing comes between MOV SS and the next instruction", mov_ss);
    cases.run("nothing comes between MOV SS and an exit", mov_ss_cpuid);
}

/// Runs instructions with an interrupt waiting; evaluates to the address of the label `5:` in
/// them.
macro_rules! with_waiting {
    ($($line:literal),+) => {{
        cpu::disable_interrupts();
        log::clear();
        apic::send_self(VECTOR);
        let label: u64;
        // SAFETY: the instructions change the listed registers, RBX is restored, and CLI ends
        // what STI began.
        unsafe {
            core::arch::asm!(
                "push rbx", "lea {label}, [rip + 5f]", $($line,)+ "cli", "pop rbx",
                label = out(reg) label,
                inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0x80u64 => _,
            );
        }
        label
    }};
}

fn came_at(label: u64) -> Outcome {
    equal("the number of interrupts", log::len() as u64, 1)?;
    equal("the interrupted instruction", log::entry(0).1, label)
}

fn sti() -> Outcome {
    came_at(with_waiting!("sti", "inc rax", "5: inc rax", "inc rax"))
}

fn sti_cpuid() -> Outcome {
    came_at(with_waiting!("sti", "cpuid", "5: inc rax", "inc rax"))
}

fn sti_port() -> Outcome {
    came_at(with_waiting!("sti", "out dx, al", "5: inc rax", "inc rax"))?;
    came_at(with_waiting!("sti", "in al, dx", "5: inc rax", "inc rax"))
}

fn sti_halt() -> Outcome {
    came_at(with_waiting!("sti", "hlt", "5: inc rax", "inc rax"))
}

fn sti_cli() -> Outcome {
    with_waiting!("sti", "cli", "5: inc rax", "inc rax");
    equal("the number of interrupts", log::len() as u64, 0)?;
    let_in();
    equal("the number of interrupts", log::len() as u64, 1)
}

fn popf() -> Outcome {
    came_at(with_waiting!("pushfq", "or qword ptr [rsp], 0x200", "popfq", "5: inc rax", "inc rax"))
}

/// Pairs of MOV SS and an instruction of `$len` bytes, over and over, while the timer interrupts;
/// the handler looks where it came. Each pair ends with a jump to the next: the emulator looks at
/// shadows once per stretch of code without a jump.
macro_rules! pairs {
    ($instruction:literal, $len:literal) => {{
        TORN.store(0, Ordering::Release);
        interrupts::set(VECTOR, |frame| {
            let start = PAIRS_START.load(Ordering::Acquire);
            let offset = frame.rip.wrapping_sub(start);
            let inside = offset < PAIRS * (MOV_SS + $len + JUMP) && offset % (MOV_SS + $len + JUMP) == MOV_SS;
            TORN.fetch_add(u64::from(inside), Ordering::AcqRel);
            log::take(frame);
            if log::len() > 400 {
                log::clear();
            }
        });
        for _ in 0..ROUNDS {
            // SAFETY: SS gets the selector that it has; RBX is restored.
            unsafe {
                core::arch::asm!(
                    "push rbx", "mov r8d, ss", "lea rax, [rip + 6f]",
                    "mov [{start}], rax", "xor eax, eax",
                    "6:", ".rept 8", "mov ss, r8d", $instruction, ".byte 0xeb, 0", ".endr",
                    "pop rbx",
                    start = in(reg) PAIRS_START.as_ptr(),
                    out("r8") _, out("rax") _, inout("rcx") 0u64 => _, out("rdx") _,
                );
            }
        }
    }};
}

fn with_timer(run: impl FnOnce()) -> Outcome {
    cpu::disable_interrupts();
    log::clear();
    timer::periodic(Duration::from_micros(100));
    // The handler of these cases, not the one that only counts.
    // SAFETY: the vector has a handler.
    unsafe { apic::write(apic::TIMER, timer::PERIODIC | u32::from(VECTOR)) };
    cpu::enable_interrupts();
    run();
    interrupts::wait_until(|| log::len() > 0);
    cpu::disable_interrupts();
    timer::stop();
    interrupts::set(VECTOR, log::take);
    // One may still wait.
    let_in();
    equal("interrupts between the two", TORN.load(Ordering::Acquire), 0)
}

fn mov_ss() -> Outcome {
    with_timer(|| pairs!("nop", 1))
}

fn mov_ss_cpuid() -> Outcome {
    with_timer(|| pairs!("cpuid", 2))
}
