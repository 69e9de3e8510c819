//! What is accessed: one port, MSR, unmapped address or CPUID leaf at a time, and what is spared.

use core::fmt;

use cloister_guest_rt::abi::platform;
use cloister_guest_rt::probe::Fault;
use cloister_guest_rt::{apic, cpu};
use guest_common::attempt;
use guest_common::rng::Rng;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Port accesses.
    pub ports: u64,
    /// MSR accesses that were answered.
    pub answered: u64,
    /// MSR accesses that were refused.
    pub refused: u64,
    /// Accesses to addresses where no memory is, and those that faulted.
    pub addresses: u64,
    pub faulted: u64,
    /// CPUID leaves.
    pub leaves: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { ports, answered, refused, addresses, faulted, leaves } = self;
        write!(
            f,
            "{ports} ports, {answered} MSRs answered, {refused} refused, {addresses} addresses, \
             {faulted} of them faulted, {leaves} leaves"
        )
    }
}

/// One access.
pub fn access(rng: &mut Rng, counts: &mut Counts) {
    match rng.below(16) {
        0..=6 => port(rng, counts),
        7..=11 => msr(rng, counts),
        12 | 13 => address(rng, counts),
        _ => {
            cpu::cpuid(interesting(rng) as u32, rng.below(8) as u32);
            counts.leaves += 1;
        }
    }
}

/// A number that is small, or beside a power of two, or anything.
fn interesting(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.below(64),
        1 => (1u64 << rng.below(64)).wrapping_add(rng.below(16)).wrapping_sub(8),
        2 => (0x4000_0000 + rng.below(64)) | (rng.below(4) << 30),
        _ => rng.number(),
    }
}

/// Writes that end or reset this guest, or change how its console speaks.
fn is_spared(port: u16, width: u16) -> bool {
    let uart = platform::UART..platform::UART + 8;
    let ends = [platform::SLEEP_CONTROL, platform::RESET, platform::PANIC];
    // The reset port lies inside the address register of PCI, which is written whole.
    let is_pci = port == platform::PCI_ADDRESS && width == 4;
    let mut reached = port..=port.saturating_add(width - 1);
    !is_pci && reached.any(|port| uart.contains(&port) || ends.contains(&port))
}

fn port(rng: &mut Rng, counts: &mut Counts) {
    // Half of them where devices are.
    const KNOWN: [u16; 12] =
        [0x20, 0x21, 0x40, 0x43, 0x60, 0x64, 0x70, 0xa0, 0x2f8, 0x4d0, 0xcf8, 0xcfc];
    let at = match rng.below(4) {
        0 => KNOWN[rng.below(12) as usize] + rng.below(4) as u16,
        1 => platform::VIRTIO + rng.below(0x800) as u16,
        _ => rng.number() as u16,
    };
    counts.ports += 1;
    let (value, at_dx) = (rng.number(), u64::from(at));
    let width = 1 << rng.below(3);
    match (rng.below(2), width) {
        (0, 1) => attempt!("in al, dx"; in("rdx") at_dx, out("rax") _),
        (0, 2) => attempt!("in ax, dx"; in("rdx") at_dx, out("rax") _),
        (0, _) => attempt!("in eax, dx"; in("rdx") at_dx, out("rax") _),
        _ if is_spared(at, width) => 0,
        (_, 1) => attempt!("out dx, al"; in("rdx") at_dx, in("rax") value),
        (_, 2) => attempt!("out dx, ax"; in("rdx") at_dx, in("rax") value),
        _ => attempt!("out dx, eax"; in("rdx") at_dx, in("rax") value),
    };
}

/// Registers whose writes take away what this guest stands on: EFER, segment bases of the stack
/// protector's kind are not used; commands to other vCPUs or INIT to itself; interrupts with the
/// vectors of exceptions.
fn is_spared_msr(number: u32, value: u64) -> bool {
    const EFER: u32 = 0xc000_0080;
    let command = number == apic::X2APIC + apic::COMMAND;
    let local = (apic::X2APIC + 0x2f..=apic::X2APIC + 0x3f).contains(&number);
    let low_vector = local && value & 0xff < 0x20;
    number == EFER || command || low_vector
}

fn msr(rng: &mut Rng, counts: &mut Counts) {
    const BASES: [u32; 6] = [0, 0x170, 0x1d0, 0x800, 0xc000_0080, 0xc001_0000];
    let number = match rng.below(4) {
        0 => interesting(rng) as u32,
        _ => BASES[rng.below(6) as usize] + rng.below(64) as u32,
    };
    let value = interesting(rng);
    let word = if rng.below(2) == 0 {
        attempt!("rdmsr"; in("rcx") u64::from(number), out("rax") _, out("rdx") _)
    } else if is_spared_msr(number, value) {
        return;
    } else {
        attempt!(
            "wrmsr";
            in("rcx") u64::from(number), in("rax") value & 0xffff_ffff, in("rdx") value >> 32
        )
    };
    match Fault::from_word(word) {
        None => counts.answered += 1,
        Some(_) => counts.refused += 1,
    }
}

/// Addresses that the page tables map and nothing is behind, or the image is, which is read-only.
fn address(rng: &mut Rng, counts: &mut Counts) {
    let memory = cloister_guest_rt::memory::size();
    let at = match rng.below(3) {
        0 => memory + rng.below(platform::SEGMENTS - memory - 8),
        1 => platform::SEGMENTS + rng.below(0x1000),
        _ => platform::IOAPIC + rng.below(0x140_0000 - 8),
    };
    // The page of the APIC in xAPIC mode is a device of this guest's own.
    if (platform::APIC..platform::APIC + 0x1000).contains(&(at & !7)) {
        return;
    }
    counts.addresses += 1;
    let value = rng.number();
    let word = match rng.below(4) {
        0 => attempt!("mov al, [rcx]"; in("rcx") at, out("rax") _),
        1 => attempt!("mov rax, [rcx]"; in("rcx") at, out("rax") _),
        2 => attempt!("mov [rcx], eax"; in("rcx") at, in("rax") value),
        _ => attempt!("mov [rcx], rax"; in("rcx") at, in("rax") value),
    };
    counts.faulted += u64::from(Fault::from_word(word).is_some());
}
