//! A 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! [`Uart`] belongs to thread 0. The guest's bytes wait in the transmit queue until the run loop
//! takes them with [`Uart::transmitted`] and a console has room; until then the guest reads that
//! the transmitter is busy, so a slow console slows the guest and loses nothing. Bytes for the
//! guest come by [`Uart::received`]. There is no line: a byte takes no time, and the character
//! timeout is over at once.
//!
//! Invariant: the wire of [`Uart::line`] is a function of the registers alone.

/// Bytes in each queue.
const DEPTH: u8 = 16;

/// Line control: the divisor latch takes the place of registers 0 and 1.
const DIVISOR: u8 = 1 << 7;
/// Modem control: the output that connects the interrupt to its pin.
const OUT2: u8 = 1 << 3;
/// Modem control: loop back.
const LOOP: u8 = 1 << 4;
/// Line status: a byte is there.
const READY: u8 = 1;
/// Line status: a byte came when there was no room.
const OVERRUN: u8 = 1 << 1;
/// Line status: the transmit queue, and the transmitter behind it, are empty.
const EMPTY: u8 = 1 << 5 | 1 << 6;
/// Modem status of a console that is there: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0b1011_0000;

/// A queue of bytes.
#[derive(Clone, Copy, Debug)]
struct Queue {
    bytes: [u8; 16],
    first: u8,
    len: u8,
}

impl Queue {
    const fn new() -> Queue {
        Queue { bytes: [0; 16], first: 0, len: 0 }
    }

    /// Whether there was room.
    fn push(&mut self, byte: u8, depth: u8) -> bool {
        let place = usize::from(self.first.wrapping_add(self.len) & 15);
        if self.len >= depth {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut(place) {
            *slot = byte;
        }
        self.len = self.len.wrapping_add(1);
        true
    }

    fn pop(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(1)?;
        let byte = self.bytes.get(usize::from(self.first & 15)).copied();
        self.first = self.first.wrapping_add(1) & 15;
        byte
    }
}

/// The serial port.
#[derive(Clone, Copy, Debug)]
pub struct Uart {
    receive: Queue,
    transmit: Queue,
    enabled: u8,
    fifo: u8,
    line: u8,
    modem: u8,
    overrun: u8,
    /// Changes of the modem's wires since the status was read.
    changes: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// The transmitter has become empty since anybody was told.
    announces_empty: bool,
}

impl Uart {
    /// As after reset.
    pub const fn new() -> Uart {
        Uart {
            receive: Queue::new(),
            transmit: Queue::new(),
            enabled: 0,
            fifo: 0,
            line: 0,
            modem: 0,
            overrun: 0,
            changes: 0,
            scratch: 0,
            divisor: [1, 0],
            announces_empty: false,
        }
    }

    /// Reads register 0 to 7.
    pub fn read(&mut self, register: u16) -> u8 {
        let [low, high] = self.divisor;
        match register & 7 {
            0 if self.line & DIVISOR != 0 => low,
            1 if self.line & DIVISOR != 0 => high,
            0 => self.receive.pop().unwrap_or(0),
            1 => self.enabled,
            2 => self.identify(),
            3 => self.line,
            4 => self.modem,
            5 => self.line_status(),
            6 => self.wires() | core::mem::take(&mut self.changes),
            _ => self.scratch,
        }
    }

    /// Writes register 0 to 7.
    pub fn write(&mut self, register: u16, value: u8) {
        let [low, high] = &mut self.divisor;
        match register & 7 {
            0 if self.line & DIVISOR != 0 => *low = value,
            1 if self.line & DIVISOR != 0 => *high = value,
            0 => self.send(value),
            1 => {
                // Whoever begins to listen is told that the transmitter is empty.
                if value & 2 != 0 && self.enabled & 2 == 0 && self.transmit.len == 0 {
                    self.announces_empty = true;
                }
                self.enabled = value & 0xf;
            }
            2 => self.control_fifo(value),
            3 => self.line = value,
            4 => self.control_modem(value),
            // The status registers are for factory tests.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    /// Takes a byte that the guest has sent.
    pub fn transmitted(&mut self) -> Option<u8> {
        let byte = self.transmit.pop()?;
        if self.transmit.len == 0 {
            self.announces_empty = true;
        }
        Some(byte)
    }

    /// Whether there is room for a byte to the guest.
    pub fn can_take(&self) -> bool {
        // In loopback the wire from outside is cut.
        self.modem & LOOP == 0 && self.receive.len < self.depth()
    }

    /// A byte for the guest. Without room it is lost, and the guest will read of an overrun.
    pub fn received(&mut self, byte: u8) -> bool {
        if self.modem & LOOP != 0 {
            return false;
        }
        self.take_in(byte)
    }

    /// Whether the interrupt's wire is active.
    pub fn line(&self) -> bool {
        self.modem & (OUT2 | LOOP) == OUT2 && self.cause() != Cause::None
    }

    fn is_queued(&self) -> bool {
        self.fifo & 1 != 0
    }

    fn depth(&self) -> u8 {
        if self.is_queued() { DEPTH } else { 1 }
    }

    /// How many bytes make an interrupt of their own.
    fn trigger(&self) -> u8 {
        match (self.is_queued(), self.fifo >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    /// The most urgent cause of an interrupt ("Interrupt Identification Register").
    fn cause(&self) -> Cause {
        if self.enabled & 4 != 0 && self.overrun != 0 {
            Cause::LineStatus
        } else if self.enabled & 1 != 0 && self.receive.len >= self.trigger() {
            Cause::Data
        } else if self.enabled & 1 != 0 && self.receive.len != 0 {
            Cause::Timeout
        } else if self.enabled & 2 != 0 && self.announces_empty {
            Cause::Empty
        } else if self.enabled & 8 != 0 && self.changes != 0 {
            Cause::Modem
        } else {
            Cause::None
        }
    }

    /// The interrupt identification register; reading it takes note of an empty transmitter.
    fn identify(&mut self) -> u8 {
        let id = match self.cause() {
            Cause::None => 0b0001,
            Cause::Modem => 0b0000,
            Cause::Empty => {
                self.announces_empty = false;
                0b0010
            }
            Cause::Data => 0b0100,
            Cause::Timeout => 0b1100,
            Cause::LineStatus => 0b0110,
        };
        if self.is_queued() { id | 0xc0 } else { id }
    }

    fn line_status(&mut self) -> u8 {
        let ready = if self.receive.len != 0 { READY } else { 0 };
        let empty = if self.transmit.len == 0 { EMPTY } else { 0 };
        ready | empty | core::mem::take(&mut self.overrun)
    }

    /// The modem's wires; in loopback they come from the modem control register.
    fn wires(&self) -> u8 {
        if self.modem & LOOP == 0 {
            return CONNECTED;
        }
        // Data terminal ready and request to send change places on their way.
        (self.modem & 1) << 5 | (self.modem & 2) << 3 | (self.modem & 0b1100) << 4
    }

    fn send(&mut self, byte: u8) {
        self.announces_empty = false;
        if self.modem & LOOP != 0 {
            self.take_in(byte);
            self.announces_empty = true;
        } else {
            // A guest that does not look whether there is room loses the byte, as on hardware.
            self.transmit.push(byte, self.depth());
        }
    }

    /// A byte reaches the receiver.
    fn take_in(&mut self, byte: u8) -> bool {
        if self.receive.push(byte, self.depth()) {
            return true;
        }
        self.overrun = OVERRUN;
        if !self.is_queued() {
            // Without a queue the newer byte takes the place of the older.
            self.receive = Queue::new();
            self.receive.push(byte, 1);
        }
        false
    }

    fn control_fifo(&mut self, value: u8) {
        let changes = (value ^ self.fifo) & 1 != 0;
        // The other bits count only where the queues are on.
        self.fifo = if value & 1 != 0 { value & 0xc9 } else { 0 };
        if changes || value & 2 != 0 {
            self.receive = Queue::new();
        }
        if (changes || value & 4 != 0) && self.transmit.len != 0 {
            self.transmit = Queue::new();
            self.announces_empty = true;
        }
    }

    fn control_modem(&mut self, value: u8) {
        let before = self.wires();
        self.modem = value & 0x1f;
        let after = self.wires();
        // The ring indicator is noticed only when it ends.
        let changed = (before ^ after) & !(after & 1 << 6);
        self.changes |= changed >> 4;
    }
}

impl Default for Uart {
    fn default() -> Self {
        Uart::new()
    }
}

/// Causes of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    None,
    Modem,
    Empty,
    Data,
    Timeout,
    LineStatus,
}
