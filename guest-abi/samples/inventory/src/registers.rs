//! Model-specific registers: the ranges in which any guest kernel looks, each read or refused.

use cloister_guest_rt::cpu;

use crate::report::Report;

/// What is looked at: first and last.
const RANGES: [(u32, u32); 10] = [
    (0x0, 0x100),
    (0x174, 0x1ff),
    (0x200, 0x2ff),
    (0x345, 0x3ff),
    (0x400, 0x48f),
    (0x6e0, 0x6e0),
    (0x800, 0x83f),
    (0xc000_0080, 0xc000_0103),
    (0xc001_0000, 0xc001_0140),
    (0xc001_1020, 0xc001_102f),
];
/// Registers whose value is the moment's or the start code's, not the machine's: TSC, APIC timer.
const MOVING: [u32; 3] = [0x10, 0x6e0, 0x839];

/// Reports each register that can be read, and the number of those that cannot.
pub fn run(report: &mut Report) {
    let mut refused = 0;
    for (first, last) in RANGES {
        for number in first..=last {
            match cpu::msr(number) {
                Ok(_) if MOVING.contains(&number) => {
                    report.line(format_args!("msr {number:#x} moves"));
                }
                Ok(value) => report.line(format_args!("msr {number:#x} {value:016x}")),
                Err(_) => refused += 1,
            }
        }
    }
    report.line(format_args!("msrs refused {refused}"));
}
