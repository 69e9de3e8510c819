//! Addresses of registers in device pages, and single accesses to them.

use cloister_guest_rt::abi::platform;
use guest_common::attempt;

/// The APIC's version, read-only.
pub const VERSION: u64 = platform::APIC + 0x30;
/// Its task priority: a plain register with eight bits.
pub const PRIORITY: u64 = platform::APIC + 0x80;
/// Its end of interrupt, write-only.
pub const EOI: u64 = platform::APIC + 0xb0;
/// Its interrupt command.
pub const COMMAND: u64 = platform::APIC + 0x300;
/// The IOAPIC's index and data.
pub const INDEX: u64 = platform::IOAPIC;
pub const DATA: u64 = platform::IOAPIC + 0x10;

/// Reads a register with one plain instruction.
pub fn read(at: u64) -> u32 {
    let mut value = 0u32;
    attempt!("mov eax, [rcx]"; inout("eax") value, in("rcx") at);
    value
}

/// Writes a register with one plain instruction.
pub fn write(at: u64, value: u32) {
    attempt!("mov [rcx], eax"; in("eax") value, in("rcx") at);
}
