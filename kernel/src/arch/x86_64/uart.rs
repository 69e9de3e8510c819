//! The kernel's own words on the debug port: start, power-off, refusals, panics.
//!
//! In normal life the UART belongs to a task; the kernel writes to it only when that task will not
//! write any more, or when somebody must see why the machine goes down.

use super::cpu;
use core::fmt;

const PATIENCE: u32 = 100_000;

/// The debug port; port 0 swallows everything.
pub struct Uart(pub u16);

impl Uart {
    /// Waits for a bit of the line status; false if it does not come or there is no port.
    fn wait(&self, bit: u8) -> bool {
        self.0 != 0 && (0..PATIENCE).any(|_| cpu::inb(self.0 + 5) & bit != 0)
    }

    fn put(&mut self, byte: u8) {
        if self.wait(0x20) {
            cpu::outb(self.0, byte);
        }
    }

    /// Waits until the last byte has left, so that a reset does not eat it.
    pub fn drain(&mut self) {
        self.wait(0x40);
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}
