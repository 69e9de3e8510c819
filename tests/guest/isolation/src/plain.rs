//! Debug registers, system-call registers, segment bases, CR2: filled from a seed, and compared.

use cloister_guest_rt::cpu;
use guest_common::rng::Rng;
use guest_common::{Failed, Outcome, equal, registers};

/// Registers that hold any canonical address: SYSENTER's stack and entry, SYSCALL's entries, the
/// bases of FS and GS and the one that SWAPGS brings.
const ADDRESSES: [u32; 7] =
    [0x175, 0x176, 0xc000_0082, 0xc000_0083, 0xc000_0100, 0xc000_0101, 0xc000_0102];
/// Registers that hold less, and which bits: SYSENTER's selector, SYSCALL's flag mask, TSC_AUX.
const WORDS: [(u32, u64); 3] =
    [(0x174, 0xffff), (0xc000_0084, 0xffff_ffff), (0xc000_0103, 0xffff_ffff)];
/// An address has no more than these bits here.
const ADDRESS: u64 = 0x7fff_ffff_ffff;
/// DR6 and DR7 after reset.
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;

/// Calls `each` with every register, its value and a name.
fn with_values(seed: u64, mut each: impl FnMut(u32, u64, &'static str) -> Outcome) -> Outcome {
    let mut rng = Rng::new(seed);
    for number in ADDRESSES {
        each(number, rng.number() & ADDRESS, "an address register")?;
    }
    for (number, bits) in WORDS {
        each(number, rng.number() & bits, "a smaller register")?;
    }
    Ok(())
}

/// DR0 to DR3 and CR2 for a seed.
fn addresses(seed: u64) -> [u64; 5] {
    let mut rng = Rng::new(!seed);
    core::array::from_fn(|_| rng.number() & ADDRESS)
}

/// Fills the registers.
pub fn fill(seed: u64) {
    // A register that refuses its value is seen when it is compared.
    let _ = with_values(seed, |number, value, _| {
        // SAFETY: the program uses none of these registers.
        let _ = unsafe { cpu::set_msr(number, value) };
        Ok(())
    });
    let [a, b, c, d, fault] = addresses(seed);
    // SAFETY: no breakpoint is on.
    unsafe { registers::set_dr0(a) };
    // SAFETY: no breakpoint is on.
    unsafe { registers::set_dr1(b) };
    // SAFETY: no breakpoint is on.
    unsafe { registers::set_dr2(c) };
    // SAFETY: no breakpoint is on.
    unsafe { registers::set_dr3(d) };
    // SAFETY: only page faults write it, and only their handler reads it.
    unsafe { registers::set_cr2(fault) };
}

/// The registers hold what [`fill`] put there.
pub fn check(seed: u64) -> Outcome {
    with_values(seed, |number, value, what| {
        let found = cpu::msr(number).map_err(|fault| Failed::Fault(what, Some(fault), None))?;
        equal(what, found, value)
    })?;
    let [a, b, c, d, fault] = addresses(seed);
    equal("DR0", registers::dr0(), a)?;
    equal("DR1", registers::dr1(), b)?;
    equal("DR2", registers::dr2(), c)?;
    equal("DR3", registers::dr3(), d)?;
    equal("CR2", registers::cr2(), fault)
}

/// Nothing of an earlier life or of another guest is in the debug registers.
pub fn are_initial() -> Outcome {
    equal("DR0", registers::dr0(), 0)?;
    equal("DR1", registers::dr1(), 0)?;
    equal("DR2", registers::dr2(), 0)?;
    equal("DR3", registers::dr3(), 0)?;
    equal("DR6", registers::dr6(), DR6)?;
    equal("DR7", registers::dr7(), DR7)
}

/// They survive exits of each kind.
pub fn over_exits(seed: u64) -> Outcome {
    for number in 0..1000 {
        fill(seed + number);
        crate::leave(number);
        check(seed + number)?;
    }
    Ok(())
}
