//! The first serial port, polled: the only way to say why an image is refused.

use core::arch::asm;
use core::fmt;

const PORT: u16 = 0x3f8;
/// How often the line status is read before a missing UART is assumed.
const PATIENCE: u32 = 100_000;

/// A 16550 at I/O port 0x3f8, 115200 baud, 8 data bits, no parity.
pub struct Uart;

fn outb(port: u16, value: u8) {
    // SAFETY: the stub owns the machine; the ports are the UART's.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: reading the UART's status registers has no effect on memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

impl Uart {
    /// Programs the UART.
    pub fn start() -> Uart {
        for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7)] {
            outb(PORT + offset, value);
        }
        Uart
    }

    fn put(&mut self, byte: u8) {
        for _ in 0..PATIENCE {
            if inb(PORT + 5) & 0x20 != 0 {
                return outb(PORT, byte);
            }
        }
    }

    /// Waits until the last byte has left.
    pub fn drain(&mut self) {
        for _ in 0..PATIENCE {
            if inb(PORT + 5) & 0x40 != 0 {
                return;
            }
        }
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
