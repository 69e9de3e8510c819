//! A unikernel guest that prints what machine it sees, as text that is the same on every host.
//!
//! Each line of the inventory goes to the console and into a hash (`report`). What may differ from
//! host to host (the frequency and value of the TSC, the wall clock, random numbers, CPUID bits
//! with which a guest kernel protects itself) is printed in lines that begin with `host` and stand
//! outside the hash. docs/guest-abi.md says what a guest may rely on; a boot test pins the hash.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod acpi;
mod bus;
mod processor;
mod registers;
mod report;

use cloister_guest_rt::{clock, memory, port, smp};
use report::Report;

cloister_guest_rt::entry!(main);

/// Index and data port of the real-time clock.
const CLOCK_REGISTERS: [(&str, u8); 7] = [
    ("second", 0x00),
    ("minute", 0x02),
    ("hour", 0x04),
    ("day", 0x07),
    ("month", 0x08),
    ("year", 0x09),
    ("status B", 0x0b),
];

fn main() {
    let mut report = Report::default();
    report.line(format_args!("inventory 1"));
    report.line(format_args!("memory 0..{:#x}", memory::size()));
    report.line(format_args!("vcpus {}", smp::vcpus()));
    processor::run(&mut report);
    registers::run(&mut report);
    acpi::run(&mut report);
    bus::run(&mut report);
    ports(&mut report);
    report.host(format_args!("tsc {} kHz", clock::tsc_khz()));
    report.finish();
}

/// Ports that are not behind PCI: what the first read of each gives.
fn ports(report: &mut Report) {
    use cloister_guest_rt::abi::platform;
    for at in [0x40, 0x42, 0x60, 0x61, 0x64, 0x80, 0x87, 0x2f8, 0x4d0, platform::SLEEP_STATUS] {
        report.line(format_args!("port {at:#x} {:#04x}", port::read8(at)));
    }
    for offset in 0..8 {
        let at = platform::UART + offset;
        // The first register is data: reading it takes a byte.
        if offset != 0 {
            report.line(format_args!("uart {offset} {:#04x}", port::read8(at)));
        }
    }
    for (name, register) in CLOCK_REGISTERS {
        let value = cloister_guest_rt::cmos::read(register);
        if name == "status B" {
            report.line(format_args!("rtc {name} {value:#04x}"));
        } else {
            report.host(format_args!("rtc {name} {value:#04x}"));
        }
    }
}
