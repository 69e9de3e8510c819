//! Micro-guest: every instruction that leaves the guest, and those that the platform lacks.
//!
//! [`answers`]: CPUID, MSRs, ports of all widths. [`refusals`]: what ends in #UD or #GP.
//! [`odd`]: HLT, WBINVD, XSETBV, instructions with prefixes. After each exit the guest's other
//! registers must be what they were ([`answers::registers_are_kept`]).

#![no_std]
#![no_main]

mod answers;
mod odd;
mod refusals;

use guest_common::Cases;

cloister_guest_rt::entry!(main);

fn main() {
    let mut cases = Cases::default();
    answers::run(&mut cases);
    refusals::run(&mut cases);
    odd::run(&mut cases);
    cases.finish()
}
