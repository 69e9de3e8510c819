//! The real-time clock's registers (MC146818, index and data port).

use cloister_guest_abi::platform;

use crate::{Lock, port};

/// Index and data belong together, whoever uses them.
static PORTS: Lock<()> = Lock::new(());

/// Reads a register.
pub fn read(register: u8) -> u8 {
    let _held = PORTS.lock();
    // SAFETY: the index alone makes no device do anything.
    unsafe { port::write8(platform::RTC, register) };
    port::read8(platform::RTC + 1)
}
