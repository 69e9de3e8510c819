//! Faults while an instruction runs alone, interrupt shadows before it, the guest's own single
//! steps and watchpoints on it.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_rt::interrupts::{self, Frame};
use cloister_guest_rt::probe::Fault;
use cloister_guest_rt::{apic, cpu, println, timer};
use guest_common::{Cases, Outcome, attempt, equal, faulted, log, protected, registers};

use crate::page::{EOI, PRIORITY, VERSION, read, write};

const DB: u8 = 1;
const VECTOR: u8 = 0x70;
/// An address that is not mapped, one that is not canonical.
const UNMAPPED: u64 = 1 << 40;
const STRANGE: u64 = 1 << 63;
/// Trap flag, resume flag.
const RESUME: u64 = 1 << 16;
/// DR6 with nothing in it; its bits for a single step and for breakpoint 0.
const CLEAR: u64 = 0xffff_0ff0;
const STEP: u64 = 1 << 14;
const HIT_0: u64 = 1;
/// DR7 with nothing on; with a four-byte access watched.
const OFF: u64 = 0x400;
const WATCH: u64 = 0xf_0702;
/// Timer interrupts while it runs, and bytes of MOV SS, R8D and `mov [rcx], edx`.
const TICKS: u64 = 300;
const MOV_SS: u64 = 3;
const STORE: u64 = 2;

static DR6: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);
static TORN: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(DB, |frame| {
        DR6.fetch_or(registers::dr6() & !CLEAR, Ordering::AcqRel);
        // SAFETY: only says what has happened so far.
        unsafe { registers::set_dr6(CLEAR) };
        log::note(frame);
        frame.rflags |= RESUME;
    });
    interrupts::set(VECTOR, log::take);
    cases.run("a page fault at the other operand", page_fault);
    cases.run("a general protection fault at the other operand", strange);
    cases.run("an exception of the instruction itself", own_exception);
    cases.run("an interrupt waits until the instruction is done", shadow_of_sti);
    cases.run("nothing comes between MOV SS and the instruction", shadow_of_mov_ss);
    cases.run("the guest's single steps go on", own_steps);
    cases.run("the guest's watchpoints see the access", own_watchpoint);
    cases.run("no trap flag is left behind", no_trap_flag);
}

fn page_fault() -> Outcome {
    write(PRIORITY, 0x40);
    let (mut rsi, mut rdi) = (PRIORITY, UNMAPPED);
    let to = attempt!("movsd"; inout("rsi") rsi, inout("rdi") rdi);
    faulted("MOVSD to an unmapped page", to, Fault { vector: 14, error: 2 })?;
    equal("CR2", registers::cr2(), UNMAPPED)?;
    equal("RSI", rsi, PRIORITY)?;
    equal("RDI", rdi, UNMAPPED)?;
    let (mut rsi, mut rdi) = (UNMAPPED + 0x10, PRIORITY);
    let from = attempt!("movsd"; inout("rsi") rsi, inout("rdi") rdi);
    faulted("MOVSD from an unmapped page", from, Fault { vector: 14, error: 0 })?;
    equal("CR2", registers::cr2(), UNMAPPED + 0x10)?;
    equal("RSI", rsi, UNMAPPED + 0x10)?;
    equal("RDI", rdi, PRIORITY)?;
    equal("the task priority", read(PRIORITY).into(), 0x40)?;
    write(PRIORITY, 0);
    Ok(())
}

fn strange() -> Outcome {
    let to = attempt!("movsd"; inout("rsi") PRIORITY => _, inout("rdi") STRANGE => _);
    protected("MOVSD to a non-canonical address", to)?;
    let from = attempt!("movsd"; inout("rsi") STRANGE => _, inout("rdi") PRIORITY => _);
    protected("MOVSD from a non-canonical address", from)?;
    equal("the task priority", read(PRIORITY).into(), 0)
}

fn own_exception() -> Outcome {
    write(PRIORITY, 0);
    let divided = attempt!(
        "div dword ptr [rcx]";
        inout("eax") 1 => _, inout("edx") 0 => _, in("rcx") PRIORITY
    );
    faulted("DIV by a register that is 0", divided, Fault { vector: 0, error: 0 })?;
    let mut eax = 100u32;
    write(PRIORITY, 0x10);
    let divided = attempt!(
        "div dword ptr [rcx]";
        inout("eax") eax, inout("edx") 0 => _, in("rcx") PRIORITY
    );
    guest_common::ran("DIV by a register that is 16", divided)?;
    equal("the quotient", eax.into(), 6)?;
    write(PRIORITY, 0);
    Ok(())
}

fn shadow_of_sti() -> Outcome {
    for _ in 0..100 {
        cpu::disable_interrupts();
        log::clear();
        apic::send_self(VECTOR);
        let label: u64;
        // SAFETY: the store is to the task priority; CLI ends what STI began.
        unsafe {
            core::arch::asm!(
                "lea {label}, [rip + 5f]", "sti", "mov [rcx], edx", "5: nop", "nop", "cli",
                label = out(reg) label, in("rcx") PRIORITY, in("edx") 0,
            );
        }
        equal("the number of interrupts", log::len() as u64, 1)?;
        equal("the interrupted instruction", log::entry(0).1, label)?;
    }
    Ok(())
}

fn torn(frame: &mut Frame) {
    let offset = frame.rip.wrapping_sub(START.load(Ordering::Acquire));
    TORN.fetch_add(u64::from(offset == MOV_SS), Ordering::AcqRel);
    TAKEN.fetch_add(1, Ordering::AcqRel);
    log::clear();
    log::take(frame);
}

/// How many of [`TICKS`] interrupts came between MOV SS and a store of 0 to this address.
fn interrupts_before(address: u64) -> u64 {
    const _: () = assert!(STORE == 2);
    cpu::disable_interrupts();
    TORN.store(0, Ordering::Release);
    TAKEN.store(0, Ordering::Release);
    interrupts::set(VECTOR, torn);
    timer::periodic(Duration::from_micros(100));
    // SAFETY: the vector has a handler.
    unsafe { apic::write(apic::TIMER, timer::PERIODIC | u32::from(VECTOR)) };
    cpu::enable_interrupts();
    while TAKEN.load(Ordering::Acquire) < TICKS {
        // SAFETY: SS gets the selector that it has; the caller's address may be written.
        unsafe {
            core::arch::asm!(
                "lea rax, [rip + 6f]", "mov [{start}], rax", "mov r8d, ss", "jmp 6f",
                "6:", "mov ss, r8d", "mov [rcx], edx", "jmp 7f", "7:",
                start = in(reg) START.as_ptr(), in("rcx") address, in("edx") 0,
                out("rax") _, out("r8") _,
            );
        }
    }
    cpu::disable_interrupts();
    timer::stop();
    interrupts::set(VECTOR, log::take);
    log::clear();
    TORN.load(Ordering::Acquire)
}

/// The shadow of MOV SS holds also where the store is stepped. A CPU that forgets the shadow at an
/// exit, as QEMU's did before version 9, shows that with memory, where nothing is stepped.
fn shadow_of_mov_ss() -> Outcome {
    let word = AtomicU64::new(0);
    let elsewhere = interrupts_before(word.as_ptr() as u64);
    let here = interrupts_before(PRIORITY);
    if elsewhere != 0 {
        println!("this CPU forgets shadows at exits: {elsewhere} of {TICKS} interrupts came early");
        return Ok(());
    }
    equal("interrupts between the two", here, 0)
}

fn own_steps() -> Outcome {
    for _ in 0..20 {
        log::clear();
        DR6.store(0, Ordering::Release);
        let word = 0u32;
        let [a, b, c]: [u64; 3];
        let (first, second, third): (u64, u64, u64);
        // SAFETY: the accesses are to the APIC's version, its task priority and the variable.
        unsafe {
            core::arch::asm!(
                "lea {first}, [rip + 5f]", "lea {second}, [rip + 6f]", "lea {third}, [rip + 7f]",
                "pushfq", "pushfq", "or qword ptr [rsp], 0x100", "popfq",
                "mov eax, [rcx]",
                "5: mov [rdx], r8d",
                "6: movsd",
                "7: popfq",
                first = out(reg) first, second = out(reg) second, third = out(reg) third,
                in("rcx") VERSION, in("rdx") PRIORITY, in("r8") 0u64, out("rax") _,
                inout("rsi") VERSION => _, inout("rdi") &raw const word as u64 => _,
            );
        }
        [a, b, c] = [first, second, third];
        for (index, place) in [a, b, c].into_iter().enumerate() {
            equal("the instruction behind a step", log::entry(index).1, place)?;
        }
        equal("the number of steps", log::len() as u64, 4)?;
        equal("DR6", DR6.load(Ordering::Acquire), STEP)?;
    }
    Ok(())
}

fn watch(at: u64, control: u64) {
    // SAFETY: the handler of debug exceptions is set.
    unsafe { registers::set_dr7(OFF) };
    // SAFETY: as above.
    unsafe { registers::set_dr0(at) };
    // SAFETY: as above.
    unsafe { registers::set_dr7(control) };
}

fn own_watchpoint() -> Outcome {
    log::clear();
    DR6.store(0, Ordering::Release);
    watch(PRIORITY, WATCH);
    let value = read(PRIORITY);
    let after_read = log::len() as u64;
    write(PRIORITY, value);
    watch(0, OFF);
    equal("exceptions of a read", after_read, 1)?;
    equal("exceptions of both", log::len() as u64, 2)?;
    equal("DR6", DR6.load(Ordering::Acquire), HIT_0)
}

fn no_trap_flag() -> Outcome {
    log::clear();
    for _ in 0..1000 {
        read(PRIORITY);
        let flags = cpu::flags();
        equal("the trap flag", flags & 1 << 8, 0)?;
        write(PRIORITY, 0);
        // With nothing in service it ends nothing.
        write(EOI, 0);
    }
    equal("debug exceptions", log::len() as u64, 0)
}
