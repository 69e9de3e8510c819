//! A 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! [`Uart`] belongs to thread 0. The guest's bytes wait in the transmit queue until the run loop
//! takes them with [`Uart::transmitted`] and a console has room; until then the guest reads that
//! the transmitter is busy, so a slow console slows the guest and loses nothing. Bytes for the
//! guest come by [`Uart::received`]. There is no line: a byte takes no time, and the character
//! timeout is over at once.
//!
//! Invariant: the wire of [`Uart::line`] is a function of the registers alone.

/// Line control: the divisor latch takes the place of registers 0 and 1.
const DIVISOR: u8 = 1 << 7;
/// Modem control: the output that connects the interrupt to its pin.
const OUT2: u8 = 1 << 3;
/// Modem control: loop back.
const LOOP: u8 = 1 << 4;
/// Line status: a byte came when there was no room.
const OVERRUN: u8 = 1 << 1;
/// Line status: the transmit queue, and the transmitter behind it, are empty.
const EMPTY: u8 = 1 << 5 | 1 << 6;
/// Interrupt identification: none.
const NO_CAUSE: u8 = 0b0001;
/// Interrupt identification: the transmitter is empty.
const EMPTY_CAUSE: u8 = 0b0010;
/// Modem status of a console that is there: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0b1011_0000;

/// A queue of bytes, the oldest in the low end.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    bytes: u128,
    len: u8,
}

impl Queue {
    /// Whether there was room.
    fn push(&mut self, byte: u8, depth: u8) -> bool {
        let has_room = self.len < depth;
        if has_room {
            self.bytes |= u128::from(byte).unbounded_shl(u32::from(self.len).wrapping_mul(8));
            self.len = self.len.wrapping_add(1);
        }
        has_room
    }

    fn pop(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(1)?;
        let [byte, ..] = self.bytes.to_le_bytes();
        self.bytes >>= 8;
        Some(byte)
    }
}

/// The serial port.
#[derive(Clone, Copy, Debug, Default)]
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
    pub fn new() -> Uart {
        Uart::default()
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
            5 => {
                let empty = if self.transmit.len == 0 { EMPTY } else { 0 };
                u8::from(self.receive.len != 0) | empty | core::mem::take(&mut self.overrun)
            }
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
                self.announces_empty |= value & !self.enabled & 2 != 0 && self.transmit.len == 0;
                self.enabled = value & 0xf;
            }
            2 => self.control_fifo(value),
            3 => self.line = value,
            4 => {
                let before = self.wires();
                self.modem = value & 0x1f;
                // The ring indicator, bit 6, is noticed only when it ends.
                let after = self.wires();
                self.changes |= ((before ^ after) & !(after & 1 << 6)) >> 4;
            }
            // The status registers are for factory tests.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    /// Takes a byte that the guest has sent.
    pub fn transmitted(&mut self) -> Option<u8> {
        let byte = self.transmit.pop()?;
        self.announces_empty |= self.transmit.len == 0;
        Some(byte)
    }

    /// Whether there is room for a byte to the guest.
    pub fn can_take(&self) -> bool {
        // In loopback the wire from outside is cut.
        self.modem & LOOP == 0 && self.receive.len < self.depth()
    }

    /// A byte for the guest. Without room it is lost, and the guest will read of an overrun.
    pub fn received(&mut self, byte: u8) -> bool {
        self.modem & LOOP == 0 && self.take_in(byte)
    }

    /// Whether the interrupt's wire is active.
    pub fn line(&self) -> bool {
        self.modem & (OUT2 | LOOP) == OUT2 && self.cause() != NO_CAUSE
    }

    /// Bytes that a queue holds; one while the queues are off.
    fn depth(&self) -> u8 {
        if self.fifo & 1 != 0 { 16 } else { 1 }
    }

    /// How many bytes make an interrupt of their own; one without queues.
    fn trigger(&self) -> u8 {
        [1, 4, 8, 14].get(usize::from(self.fifo >> 6)).map_or(1, |bytes| *bytes)
    }

    /// The most urgent cause of an interrupt ("Interrupt Identification Register"): what enables
    /// it, whether it is there, and its code.
    fn cause(&self) -> u8 {
        let causes = [
            (4, self.overrun != 0, 0b0110),
            (1, self.receive.len >= self.trigger(), 0b0100),
            (1, self.receive.len != 0, 0b1100),
            (2, self.announces_empty, EMPTY_CAUSE),
            (8, self.changes != 0, 0b0000),
        ];
        let mut enabled = causes.into_iter().filter(|(enable, ..)| self.enabled & enable != 0);
        enabled.find(|(_, is_there, _)| *is_there).map_or(NO_CAUSE, |(.., code)| code)
    }

    /// The interrupt identification register; reading it takes note of an empty transmitter.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        self.announces_empty &= cause != EMPTY_CAUSE;
        if self.depth() > 1 { cause | 0xc0 } else { cause }
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
        let has_room = self.receive.push(byte, self.depth());
        self.overrun |= if has_room { 0 } else { OVERRUN };
        if self.depth() == 1 {
            // The newer byte takes the place of an older one.
            self.receive = Queue { bytes: u128::from(byte), len: 1 };
        }
        has_room
    }

    fn control_fifo(&mut self, value: u8) {
        let changes = (value ^ self.fifo) & 1 != 0;
        // The other bits count only where the queues are on.
        self.fifo = if value & 1 != 0 { value & 0xc9 } else { 0 };
        if changes || value & 2 != 0 {
            self.receive = Queue::default();
        }
        if (changes || value & 4 != 0) && self.transmit.len != 0 {
            self.transmit = Queue::default();
            self.announces_empty = true;
        }
    }
}
