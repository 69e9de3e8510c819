//! CPUID: every leaf and subleaf that the processor says it has.

use cloister_guest_rt::abi::cpuid::{LEAF_MAX, SIGNATURE_LEAF, TIMING_LEAF};
use cloister_guest_rt::cpu::cpuid;

use crate::report::Report;

/// Leaves with subleaves, and how many are asked for (Intel SDM and AMD APM, "CPUID").
const SUBLEAVES: [(u32, u32); 9] = [
    (0x4, 8),
    (0x7, 3),
    (0xb, 4),
    (0xd, 64),
    (0xf, 2),
    (0x10, 4),
    (0x14, 2),
    (0x8000_001d, 8),
    (0x8000_0026, 4),
];
/// Most leaves of a range; more would be a processor that says nonsense.
const LEAVES: u32 = 64;
/// Bits with which a guest kernel protects itself, which follow the host (docs/guest-abi.md):
/// leaf, register, bits.
const PROTECTION: [(u32, usize, u32); 3] =
    [(0x7, 3, 1 << 10), (0x8000_0008, 1, 1 << 12), (0x8000_0021, 0, 1 << 2)];

/// Reports all leaves.
pub fn run(report: &mut Report) {
    for first in [0, SIGNATURE_LEAF, 0x8000_0000] {
        let said = cpuid(first, 0)[0];
        let last = if first == SIGNATURE_LEAF { said.min(LEAF_MAX) } else { said };
        for leaf in first..=last.min(first + LEAVES) {
            let count = SUBLEAVES.iter().find(|entry| entry.0 == leaf).map_or(1, |entry| entry.1);
            for sub in 0..count {
                subleaf(report, leaf, sub);
            }
        }
    }
}

fn subleaf(report: &mut Report, leaf: u32, sub: u32) {
    let mut registers = cpuid(leaf, sub);
    if leaf == TIMING_LEAF {
        report.host(format_args!("cpuid {leaf:#x} {sub} eax {:#x}", registers[0]));
        registers[0] = 0;
    }
    for (_, register, bits) in PROTECTION.into_iter().filter(|entry| entry.0 == leaf && sub == 0) {
        let set = registers[register] & bits != 0;
        report.host(format_args!("cpuid {leaf:#x} {sub} {bits:#x} {set}"));
        registers[register] &= !bits;
    }
    // Subleaves that hold nothing are most of them.
    if sub == 0 || registers != [0; 4] {
        let [a, b, c, d] = registers;
        report.line(format_args!("cpuid {leaf:#x} {sub} {a:08x} {b:08x} {c:08x} {d:08x}"));
    }
}
