//! Unprivileged instructions: the time stamp counter, the random number generators, CPUID, copies.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc};

use cloister_abi::info::{ENTROPY_RDRAND, ENTROPY_RDSEED};

use crate::memory::system;

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: RDTSC changes two registers and no memory; the kernel leaves CR4.TSD clear.
    #[allow(unused_unsafe)]
    unsafe {
        _rdtsc()
    }
}

/// Copies words by one instruction, each once: a loop would be two and more for each.
///
/// # Safety
/// (1) `words` words are mapped readable at `from` and writable at `to`. (2) What is written is no
/// memory that the compiler knows of but by this pointer.
pub(crate) unsafe fn copy_words(from: *const u64, to: *mut u64, words: usize) {
    // SAFETY: (1) and (2) are the caller's. (3) The direction flag is clear, as everywhere in Rust,
    // and the instruction changes no flag and no other register. (4) An asm block that is not
    // `pure` is neither repeated nor left out, as little as a volatile access.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") words => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// What CPUID says in EAX, EBX, ECX and EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: every x86-64 CPU has CPUID; an unknown leaf returns other numbers and no fault.
    #[allow(unused_unsafe)]
    let r = unsafe { __cpuid_count(leaf, subleaf) };
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The APIC id of the core that asks: from the x2APIC leaf where there is one, else 8 bits of it.
pub fn bsp_apic_id() -> u32 {
    let [highest, ..] = cpuid(0, 0);
    if highest >= 0xb {
        let [_, threads, _, id] = cpuid(0xb, 0);
        if threads != 0 {
            return id;
        }
    }
    let [_, id_and_more, ..] = cpuid(1, 0);
    id_and_more >> 24
}

/// A source of random numbers in the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, defmt::Format)]
pub enum Entropy {
    /// RDRAND: output of a generator that the CPU reseeds.
    Rdrand,
    /// RDSEED: the conditioned noise itself.
    Rdseed,
}

impl Entropy {
    /// Whether the CPU says that it has the instruction. Whether it works is another question,
    /// which `init` answers once for the whole system.
    pub fn is_offered(self) -> bool {
        match self {
            Entropy::Rdrand => cpuid(1, 0)[2] & (1 << 30) != 0,
            Entropy::Rdseed => cpuid(0, 0)[0] >= 7 && cpuid(7, 0)[1] & (1 << 18) != 0,
        }
    }

    /// One try; `None` if the CPU had no number ready, or has no such instruction.
    pub fn sample(self) -> Option<u64> {
        if !self.is_offered() {
            return None;
        }
        let (value, ready) = match self {
            Entropy::Rdrand => rdrand(),
            Entropy::Rdseed => rdseed(),
        };
        (ready != 0).then_some(value)
    }
}

/// A random number from the better of the sources that `init` found to work; `None` if the
/// machine has none, or if none had a number ready in ten tries.
pub fn random() -> Option<u64> {
    let working = system().entropy;
    let rdseed = (working & ENTROPY_RDSEED != 0).then_some(Entropy::Rdseed);
    let rdrand = (working & ENTROPY_RDRAND != 0).then_some(Entropy::Rdrand);
    let mut tries = rdseed.into_iter().chain(rdrand).flat_map(|source| [source; 10]);
    tries.find_map(Entropy::sample)
}

fn rdrand() -> (u64, u8) {
    let (value, ready): (u64, u8);
    // SAFETY: the CPU has the instruction ([`Entropy::is_offered`]); it changes the two named
    // registers and the flags.
    unsafe {
        asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ready, options(nomem, nostack));
    }
    (value, ready)
}

fn rdseed() -> (u64, u8) {
    let (value, ready): (u64, u8);
    // SAFETY: the CPU has the instruction ([`Entropy::is_offered`]); it changes the two named
    // registers and the flags.
    unsafe {
        asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ready, options(nomem, nostack));
    }
    (value, ready)
}
