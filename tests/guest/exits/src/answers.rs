//! Exits that the monitor answers: CPUID, MSRs, ports.

use cloister_guest_rt::abi::{self, cpuid, platform};
use cloister_guest_rt::{cpu, port};
use guest_common::{Cases, Outcome, attempt, ensure, equal, ran};

/// A port that no device has, also not where the guest file asks for legacy devices.
const ABSENT: u16 = 0x5000;
/// The scratch register of the UART, which keeps what is written.
const SCRATCH: u16 = platform::UART + 7;
/// What the upper bits of RAX hold before an instruction that must keep them.
const PATTERN: u64 = 0x1234_5678_9abc_def0;

pub fn run(cases: &mut Cases) {
    cases.run("CPUID names the platform", cpuid_names_the_platform);
    cases.run("CPUID beyond the last leaf", cpuid_beyond);
    cases.run("an exit keeps all other registers", registers_are_kept);
    cases.run("an absent port reads as ones in each width", absent_ports);
    cases.run("a port keeps the bits of RAX that it does not write", upper_bits);
    cases.run("a port's immediate form", immediate_ports);
    cases.run("a device register keeps its value", scratch);
    cases.run("PCI configuration in each width", pci_widths);
    cases.run("MSRs that the platform has", present_msrs);
    cases.run("the TSC starts near zero and goes on", tsc);
}

fn word(registers: [u32; 4]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (chunk, register) in bytes.chunks_exact_mut(4).zip(&registers[1..]) {
        chunk.copy_from_slice(&register.to_le_bytes());
    }
    bytes
}

fn cpuid_names_the_platform() -> Outcome {
    let signature = cpu::cpuid(cpuid::SIGNATURE_LEAF, 0);
    ensure("the signature", word(signature) == cpuid::SIGNATURE, signature[1].into())?;
    equal("the highest hypervisor leaf", signature[0].into(), cpuid::LEAF_MAX.into())?;
    let features = cpu::cpuid(cpuid::FEATURES_LEAF, 0);
    equal("paravirtual features", features[0].into(), cpuid::NO_IO_DELAY.into())?;
    equal("paravirtual hints", features[3].into(), 0)?;
    let ours = cpu::cpuid(cpuid::CLOISTER_LEAF, 0);
    equal("the platform's version", ours[0].into(), abi::VERSION.into())?;
    ensure("the platform's name", word(ours) == cpuid::CLOISTER, ours[1].into())?;
    let timing = cpu::cpuid(cpuid::TIMING_LEAF, 0);
    let khz = cloister_guest_rt::clock::tsc_khz();
    equal("the TSC frequency at the start", khz, timing[0].into())?;
    equal("the timer's frequency", u64::from(timing[1]) * 1000, cpuid::APIC_TIMER_HZ)?;
    let features = cpu::cpuid(1, 0)[2];
    ensure("the hypervisor bit", features & 1 << 31 != 0, features.into())
}

fn cpuid_beyond() -> Outcome {
    for leaf in [0x4000_0100, 0x4fff_ffff, 0x8fff_ffff, 0xc000_0000] {
        // What stands there is the vendor's business; it must be an answer, and always the same.
        let first = cpu::cpuid(leaf, 0);
        ensure("a second answer of the same leaf", cpu::cpuid(leaf, 0) == first, leaf.into())?;
    }
    let scan = (0x4000_0100u32..0x4001_0000).step_by(0x100);
    for leaf in scan {
        let found = cpu::cpuid(leaf, 0);
        ensure("another signature", word(found) != cpuid::SIGNATURE, leaf.into())?;
    }
    Ok(())
}

/// Fills registers, leaves the guest, and counts those that changed.
macro_rules! changed_by {
    ($($line:literal),+) => {{
        let changed: u64;
        // SAFETY: saves and restores what it uses beyond its operands.
        unsafe {
            core::arch::asm!(
                "push rbx", "push rbp",
                "mov r8, 0x0808080808080808", "mov r9, 0x0909090909090909",
                "mov r10, 0x1010101010101010", "mov r12, 0x1212121212121212",
                "mov r13, 0x1313131313131313", "mov r14, 0x1414141414141414",
                "mov r15, 0x1515151515151515", "mov rsi, 0x0606060606060606",
                "mov rdi, 0x0707070707070707", "mov rbp, 0x0505050505050505",
                $($line,)+
                "xor r11d, r11d", "mov rax, 0x0101010101010101",
                "imul rcx, rax, 8", "xor r8, rcx", "or r11, r8",
                "imul rcx, rax, 9", "xor r9, rcx", "or r11, r9",
                "imul rcx, rax, 16", "xor r10, rcx", "or r11, r10",
                "imul rcx, rax, 18", "xor r12, rcx", "or r11, r12",
                "imul rcx, rax, 19", "xor r13, rcx", "or r11, r13",
                "imul rcx, rax, 20", "xor r14, rcx", "or r11, r14",
                "imul rcx, rax, 21", "xor r15, rcx", "or r11, r15",
                "imul rcx, rax, 6", "xor rsi, rcx", "or r11, rsi",
                "imul rcx, rax, 7", "xor rdi, rcx", "or r11, rdi",
                "imul rcx, rax, 5", "xor rbp, rcx", "or r11, rbp",
                "pop rbp", "pop rbx",
                out("r11") changed,
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
                out("r8") _, out("r9") _, out("r10") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        changed
    }};
}

fn registers_are_kept() -> Outcome {
    for _ in 0..100 {
        equal("what CPUID changed", changed_by!("mov eax, 1", "xor ecx, ecx", "cpuid"), 0)?;
        equal("what IN changed", changed_by!("mov edx, 0x5000", "in eax, dx"), 0)?;
        equal("what OUT changed", changed_by!("mov edx, 0x5000", "out dx, eax"), 0)?;
        equal("what RDMSR changed", changed_by!("mov ecx, 0x277", "rdmsr"), 0)?;
        equal("what WBINVD changed", changed_by!("wbinvd"), 0)?;
    }
    Ok(())
}

fn absent_ports() -> Outcome {
    for at in [ABSENT, ABSENT + 1, ABSENT + 3, 0xfffc] {
        equal("one byte", port::read8(at).into(), 0xff)?;
        equal("two bytes", port::read16(at).into(), 0xffff)?;
        equal("four bytes", port::read32(at).into(), 0xffff_ffff)?;
        // SAFETY: no device is there.
        unsafe { port::write8(at, 0x5a) };
        // SAFETY: no device is there.
        unsafe { port::write16(at, 0x5a5a) };
        // SAFETY: no device is there.
        unsafe { port::write32(at, 0x5a5a_5a5a) };
        equal("after a write", port::read32(at).into(), 0xffff_ffff)?;
    }
    Ok(())
}

fn upper_bits() -> Outcome {
    let mut rax = PATTERN;
    ran("IN AL", attempt!("in al, dx"; inout("rax") rax, in("rdx") u64::from(ABSENT)))?;
    equal("RAX after one byte", rax, PATTERN | 0xff)?;
    rax = PATTERN;
    ran("IN AX", attempt!("in ax, dx"; inout("rax") rax, in("rdx") u64::from(ABSENT)))?;
    equal("RAX after two bytes", rax, PATTERN | 0xffff)?;
    rax = PATTERN;
    ran("IN EAX", attempt!("in eax, dx"; inout("rax") rax, in("rdx") u64::from(ABSENT)))?;
    equal("RAX after four bytes", rax, 0xffff_ffff)
}

fn immediate_ports() -> Outcome {
    let mut rax = 0u64;
    ran("OUT 0x80", attempt!("out 0x80, al"; in("rax") 0))?;
    ran("IN 0xed", attempt!("in al, 0xed"; inout("rax") rax))?;
    equal("an absent port", rax, 0xff)
}

fn scratch() -> Outcome {
    for value in [0x00, 0x5a, 0xa5, 0xff] {
        // SAFETY: the register only keeps the value.
        unsafe { port::write8(SCRATCH, value) };
        equal("the scratch register", port::read8(SCRATCH).into(), value.into())?;
    }
    Ok(())
}

fn pci_widths() -> Outcome {
    // SAFETY: selects the identity of the host bridge.
    unsafe { port::write32(platform::PCI_ADDRESS, 1 << 31) };
    let whole = port::read32(platform::PCI_DATA);
    equal("the address", port::read32(platform::PCI_ADDRESS).into(), 1 << 31)?;
    equal("the vendor", u64::from(whole) & 0xffff, abi::pci::VENDOR.into())?;
    equal("the device", u64::from(whole) >> 16, abi::pci::HOST_BRIDGE.into())?;
    for offset in 0..4u16 {
        let byte = port::read8(platform::PCI_DATA + offset);
        equal("a byte", byte.into(), u64::from(whole) >> (8 * offset) & 0xff)?;
    }
    for offset in [0, 2] {
        let half = port::read16(platform::PCI_DATA + offset);
        equal("a half", half.into(), u64::from(whole) >> (8 * offset) & 0xffff)?;
    }
    // SAFETY: selects a function that is not there.
    unsafe { port::write32(platform::PCI_ADDRESS, 1 << 31 | 31 << 11) };
    equal("an absent function", port::read32(platform::PCI_DATA).into(), 0xffff_ffff)
}

fn present_msrs() -> Outcome {
    let read = |number: u32| {
        cpu::msr(number).map_err(|_| guest_common::Failed::Other("RDMSR faults", number.into()))
    };
    equal("the APIC's address", read(0x1b)? & 0xf_ffff_f000, platform::APIC)?;
    ensure("this is the boot processor", read(0x1b)? & 1 << 8 != 0, read(0x1b)?)?;
    // Long mode active and enabled; what else EFER holds the guest has not asked for.
    equal("EFER", read(0xc000_0080)? & 0xd01, 0x500)?;
    let before = read(0x10)?;
    ensure("the TSC by its MSR", read(0x10)? >= before, before)?;
    let pat = read(0x277)?;
    equal("PAT after reset", pat, 0x0007_0406_0007_0406)?;
    // SAFETY: memory types of the attribute table matter to nobody in a guest without devices
    // in memory.
    ran("WRMSR to PAT", unsafe { write(0x277, 0x0007_0106_0007_0106) })?;
    equal("PAT after a write", read(0x277)?, 0x0007_0106_0007_0106)?;
    // SAFETY: as above.
    ran("WRMSR to PAT", unsafe { write(0x277, pat) })
}

/// WRMSR, and the word that tells of its fault.
///
/// # Safety
///
/// As for [`cpu::set_msr`].
pub unsafe fn write(number: u32, value: u64) -> u64 {
    attempt!(
        "wrmsr";
        in("rcx") u64::from(number),
        in("rax") value & 0xffff_ffff,
        in("rdx") value >> 32
    )
}

fn tsc() -> Outcome {
    let first = cpu::tsc();
    let limit = cloister_guest_rt::clock::tsc_khz() * 60_000;
    ensure("the first value", first < limit, first)?;
    let mut before = first;
    for _ in 0..1000 {
        let now = cpu::tsc();
        ensure("a later value", now > before, now)?;
        before = now;
    }
    Ok(())
}
