//! How a guest ends: power-off, reset, or a panic that the platform reports.

use cloister_guest_abi::platform;

use crate::{cpu, port};

/// Powers the virtual machine off (ACPI 6.5, "Sleep Control and Status Registers").
pub fn off() -> ! {
    // SAFETY: the port ends the virtual machine; it makes no device touch memory.
    unsafe { port::write8(platform::SLEEP_CONTROL, platform::SLEEP_OFF) };
    stop()
}

/// Resets the virtual machine: it starts anew with memory zeroed.
pub fn reset() -> ! {
    // SAFETY: as for `off`.
    unsafe { port::write8(platform::RESET, platform::RESET_VALUE) };
    stop()
}

/// Says that the guest cannot go on; the platform reports `code`.
pub fn panic(code: u8) -> ! {
    // SAFETY: as for `off`.
    unsafe { port::write8(platform::PANIC, code) };
    stop()
}

/// Other vCPUs may run for a moment longer, and a platform may not have the port.
fn stop() -> ! {
    cpu::disable_interrupts();
    loop {
        cpu::halt();
    }
}
