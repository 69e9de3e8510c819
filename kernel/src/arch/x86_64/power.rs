//! The ways out: ACPI S5 and reset.

use super::cpu;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// PM1a and PM1b control ports, as `init` read them from the FADT.
static SLEEP_PORTS: AtomicU32 = AtomicU32::new(0);
/// The reset register: port, value and a bit that says that they are valid.
static RESET: AtomicU64 = AtomicU64::new(0);

/// Remembers the sleep control ports.
pub fn set_sleep_ports(pm1a: u16, pm1b: u16) {
    SLEEP_PORTS.store(u32::from(pm1b) << 16 | u32::from(pm1a), Ordering::Relaxed);
}

/// Remembers the reset register.
pub fn set_reset(port: u16, value: u8) {
    let word = 1 << 32 | u64::from(value) << 16 | u64::from(port);
    RESET.store(word, Ordering::Relaxed);
}

/// Enters S5 (ACPI, "Sleeping/Wake Control": SLP_TYP in bits 10..13, SLP_EN bit 13). Returns if
/// the machine has no such register or does not obey.
pub fn off(sleep_type: [u8; 2]) {
    let ports = SLEEP_PORTS.load(Ordering::Relaxed);
    for (port, kind) in [(ports as u16, sleep_type[0]), ((ports >> 16) as u16, sleep_type[1])] {
        if port != 0 {
            cpu::outw(port, u16::from(kind & 7) << 10 | 1 << 13);
        }
    }
}

/// Resets the machine: the FADT's register, the chipset's, the keyboard controller's, and last a
/// triple fault.
pub fn reset() -> ! {
    let word = RESET.load(Ordering::Relaxed);
    if word >> 32 != 0 {
        cpu::outb(word as u16, (word >> 16) as u8);
    }
    cpu::outb(0xcf9, 0x02);
    cpu::outb(0xcf9, 0x06);
    cpu::outb(0x64, 0xfe);
    super::descriptors::triple_fault()
}
