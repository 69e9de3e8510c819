//! The console: the 16550 UART, polled.
//!
//! The holding register is empty again when the platform has taken all 16 bytes of the FIFO
//! (PC16550D, "Line Status Register", bit 5), so one read of the status covers 16 bytes.

use core::fmt::{self, Write};

use cloister_guest_abi::platform;

use crate::lock::Lock;
use crate::port;

/// Interrupt enable register.
const INTERRUPTS: u16 = platform::UART + 1;
/// FIFO control register.
const FIFO: u16 = platform::UART + 2;
/// Line status register.
const STATUS: u16 = platform::UART + 5;
/// Status: there is a received byte.
const RECEIVED: u8 = 1;
/// Status: the transmitter's FIFO is empty.
const EMPTY: u8 = 1 << 5;
/// FIFO control: on, both emptied.
const FIFO_ON: u8 = 7;
/// Bytes of the FIFO.
const DEPTH: u8 = 16;

/// The transmitter: how many bytes still fit, and whether the FIFO has been turned on.
struct Uart {
    room: u8,
    started: bool,
}

static UART: Lock<Uart> = Lock::new(Uart { room: 0, started: false });

impl Uart {
    fn start(&mut self) {
        if !self.started {
            self.started = true;
            // SAFETY: the UART uses no memory.
            unsafe { port::write8(INTERRUPTS, 0) };
            // SAFETY: as above.
            unsafe { port::write8(FIFO, FIFO_ON) };
        }
    }

    fn send(&mut self, byte: u8) {
        if self.room == 0 {
            while port::read8(STATUS) & EMPTY == 0 {
                core::hint::spin_loop();
            }
            self.room = DEPTH;
        }
        self.room -= 1;
        // SAFETY: the UART uses no memory.
        unsafe { port::write8(platform::UART, byte) };
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.start();
        for byte in text.bytes() {
            self.send(byte);
        }
        Ok(())
    }
}

/// Writes formatted text; [`crate::print!`] is the way to call it. No other vCPU's text comes in
/// between.
pub fn write(text: fmt::Arguments) {
    // The UART takes every byte; an error can only come from a value's own formatter.
    let _ = UART.lock().write_fmt(text);
}

/// The next byte that came in, if there is one.
pub fn read() -> Option<u8> {
    let mut uart = UART.lock();
    uart.start();
    (port::read8(STATUS) & RECEIVED != 0).then(|| port::read8(platform::UART))
}

/// Writes text without waiting for the lock: the panicking code may hold it itself. The FIFO's
/// room is counted anew, so no byte is lost; another vCPU's text may come in between.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn last_words(text: fmt::Arguments) {
    let _ = Uart { room: 0, started: true }.write_fmt(text);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::write(format_args!($($text)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($text:tt)*) => { $crate::console::write(format_args!("{}\n", format_args!($($text)*))) };
}
