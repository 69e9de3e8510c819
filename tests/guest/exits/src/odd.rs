//! HLT, WBINVD, XSETBV, and instructions with prefixes that change nothing.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_rt::{apic, cpu, interrupts, println, timer};
use guest_common::{Cases, Outcome, attempt, ensure, equal, protected, ran, registers, undefined};

/// The vector of interrupts that this guest sends itself.
const VECTOR: u8 = 0x60;
static TAKEN: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    apic::start();
    interrupts::set(VECTOR, |_| {
        TAKEN.fetch_add(1, Ordering::AcqRel);
        apic::eoi();
    });
    cases.run("HLT ends with an interrupt that waits", halt_with_waiting);
    cases.run("HLT ends with an interrupt that comes", halt_with_timer);
    cases.run("WBINVD and INVD do nothing", caches);
    cases.run("XSETBV takes legal values only", xsetbv);
    cases.run("a prefixed CPUID harms this guest alone", prefixed_cpuid);
    cases.run("a prefixed HLT halts", prefixed_halt);
}

fn halt_with_waiting() -> Outcome {
    let before = TAKEN.load(Ordering::Acquire);
    cpu::disable_interrupts();
    apic::send_self(VECTOR);
    equal("interrupts taken while they are off", TAKEN.load(Ordering::Acquire), before)?;
    cpu::enable_interrupts_and_halt();
    cpu::disable_interrupts();
    equal("interrupts taken after HLT", TAKEN.load(Ordering::Acquire), before + 1)
}

fn halt_with_timer() -> Outcome {
    let before = timer::interrupts();
    let start = cloister_guest_rt::clock::now();
    timer::once(Duration::from_millis(2));
    interrupts::wait_until(|| timer::interrupts() > before);
    let slept = cloister_guest_rt::clock::now() - start;
    cpu::disable_interrupts();
    timer::stop();
    ensure("time asleep, in µs", slept >= Duration::from_millis(1), slept.as_micros() as u64)
}

fn caches() -> Outcome {
    let mut words = [0u64; 64];
    for (index, word) in words.iter_mut().enumerate() {
        *word = index as u64;
    }
    core::hint::black_box(&mut words);
    ran("WBINVD", attempt!("wbinvd"))?;
    ran("INVD", attempt!("invd"))?;
    let kept = words.iter().enumerate().all(|(index, &word)| word == index as u64);
    ensure("memory after INVD", kept, 0)
}

fn write_xcr(register: u32, value: u64) -> u64 {
    attempt!(
        "xsetbv";
        in("rcx") u64::from(register),
        in("rax") value & 0xffff_ffff,
        in("rdx") value >> 32
    )
}

/// Without XSAVE the instruction is undefined. Emulated SVM leaves the guest before it looks at
/// CR4, and the monitor refuses the value: a #GP, which is a refusal as well.
fn xsetbv_refused(word: u64) -> Outcome {
    undefined("XSETBV without XSAVE", word).or(protected("XSETBV without XSAVE", word))
}

fn xsetbv() -> Outcome {
    if !registers::enable_xsave() {
        println!("XSETBV: this CPU has no XSAVE");
        return xsetbv_refused(write_xcr(0, 1));
    }
    let offered = cpu::cpuid(0xd, 0);
    let all = u64::from(offered[3]) << 32 | u64::from(offered[0]);
    ran("XSETBV with x87 alone", write_xcr(0, 1))?;
    ran("XSETBV with all that is offered", write_xcr(0, all))?;
    let (low, high): (u32, u32);
    // SAFETY: reads a register that XSAVE brings.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
    equal("XCR0", u64::from(high) << 32 | u64::from(low), all)?;
    for (what, register, value) in [
        ("XCR0 without x87", 0, all & !1),
        ("XCR0 zero", 0, 0),
        ("XCR0 with AVX but not SSE", 0, 0b101),
        ("XCR0 with a bit that is not offered", 0, all | 1 << 62),
        ("XCR7", 7, 1),
    ] {
        protected(what, write_xcr(register, value))?;
    }
    let (low, high): (u32, u32);
    // SAFETY: as above.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
    equal("XCR0 after refusals", u64::from(high) << 32 | u64::from(low), all)
}

/// Bytes behind the prefixed CPUID that are an address as well as a jump over themselves.
const ADDRESS: u64 = 0x0000_0000_00f0_06eb;

/// Where the CPU does not tell the length of CPUID, two bytes are skipped, so that a prefixed one
/// goes on with its own last byte: `a2` and eight bytes are `mov [address], al`. Where the CPU
/// tells the length, the eight bytes are a jump behind them. Both are this guest's own business.
fn prefixed_cpuid() -> Outcome {
    const MARK: u8 = 0x55;
    let at = ADDRESS as *mut u8;
    ensure("memory up to 16 MiB", cloister_guest_rt::memory::size() > ADDRESS, ADDRESS)?;
    // SAFETY: the address lies in RAM near its end, where nothing of this program is.
    unsafe { at.write_volatile(MARK) };
    let (eax, ebx): (u32, u64);
    // SAFETY: either the byte at `ADDRESS` is written or a jump is taken; RBX is restored.
    unsafe {
        core::arch::asm!(
            "mov r9, rbx",
            ".byte 0x66, 0x0f, 0xa2",
            ".quad 0xf006eb",
            "xchg r9, rbx",
            inout("eax") 0 => eax, out("r9") ebx, inout("ecx") 0 => _, out("edx") _,
        );
    }
    let plain = cpu::cpuid(0, 0);
    equal("EAX", eax.into(), plain[0].into())?;
    equal("EBX", ebx & 0xffff_ffff, plain[1].into())?;
    // SAFETY: as above.
    let byte = unsafe { at.read_volatile() };
    let inside = byte == plain[0] as u8;
    println!("prefixed CPUID: {}", if inside { "went on inside itself" } else { "was whole" });
    ensure("the byte at the address", inside || byte == MARK, byte.into())
}

/// A prefixed HLT goes on with the plain one that it ends in, and halts twice.
fn prefixed_halt() -> Outcome {
    let before = timer::interrupts();
    timer::periodic(Duration::from_millis(1));
    // SAFETY: the timer wakes the vCPU again and again.
    unsafe { core::arch::asm!("sti", ".byte 0xf3, 0xf4", "cli") };
    timer::stop();
    ensure("timer interrupts", timer::interrupts() > before, timer::interrupts())
}
