//! A 16550 UART by I/O ports: 115200 baud, 8 bits, no parity, FIFOs of 16 bytes.
//!
//! Register names and bits: National Semiconductor PC16550D data sheet, "Registers". Invariant:
//! only this file touches the device; every loop over it is bounded.

use cloister_rt::{Bits, Grants, Irq, Missing, OutOfRange, Port};

/// The device's name in the board file.
const NAME: &str = "uart0";
/// Bytes that the transmitter takes at once when its holding register is empty.
pub const FIFO: usize = 16;
/// Most received bytes that one call takes.
pub const RECEIVE_MAX: usize = 64;
/// How often [`Uart::open`] looks whether the kernel's last byte has left.
const DRAIN_LOOKS: u32 = 100_000;

/// IER: interrupt on received data.
const IER_RECEIVED: u8 = 1;
/// IER: interrupt on an empty holding register.
const IER_EMPTY: u8 = 2;
/// FCR: FIFOs on, both cleared, received data announced at the first byte: somebody types.
const FCR_ON: u8 = 0x07;
/// LCR: 8 bits, one stop bit.
const LCR_8N1: u8 = 3;
/// LCR: the first two registers are the divisor.
const LCR_DIVISOR: u8 = 0x80;
/// MCR: ready to send, data terminal ready, and the output that lets the interrupt through.
const MCR_ON: u8 = 0x0b;
/// LSR: a byte was received.
const LSR_RECEIVED: u8 = 1;
/// LSR: the holding register (with FIFOs: the FIFO) is empty.
const LSR_EMPTY: u8 = 0x20;
/// LSR: so is the shift register.
const LSR_IDLE: u8 = 0x40;

/// Why the device cannot be used.
#[derive(Clone, Copy, Debug, defmt::Format)]
pub enum Unusable {
    /// The manifest does not grant it.
    Missing(Missing),
    /// The granted ports are too few.
    Range(OutOfRange),
    /// Nothing answers at its ports.
    Absent,
}

impl From<Missing> for Unusable {
    fn from(missing: Missing) -> Self {
        Unusable::Missing(missing)
    }
}

impl From<OutOfRange> for Unusable {
    fn from(range: OutOfRange) -> Self {
        Unusable::Range(range)
    }
}

/// The device.
pub struct Uart {
    data: Port<u8>,
    interrupts: Port<u8>,
    identity: Port<u8>,
    line: Port<u8>,
    irq: Irq,
}

impl Uart {
    /// Takes the device over from whoever used it before.
    pub fn open(grants: Grants) -> Result<Uart, Unusable> {
        let (ports, irq) = (grants.ports(NAME)?, grants.irq(NAME)?);
        let control: Port<u8> = ports.port(3)?;
        let modem: Port<u8> = ports.port(4)?;
        let uart = Uart {
            data: ports.port(0)?,
            interrupts: ports.port(1)?,
            identity: ports.port(2)?,
            line: ports.port(5)?,
            irq,
        };
        // Nothing on the bus reads as ones, and a UART never sets all of these at once.
        if uart.line.read() == 0xff {
            return Err(Unusable::Absent);
        }
        // The kernel may have written last; clearing the FIFO would cut its words.
        let _ = (0..DRAIN_LOOKS).any(|_| uart.is_idle());
        uart.interrupts.write(0);
        control.write(LCR_DIVISOR);
        uart.data.write(1);
        uart.interrupts.write(0);
        control.write(LCR_8N1);
        uart.identity.write(FCR_ON);
        modem.write(MCR_ON);
        uart.interrupts.write(IER_RECEIVED);
        // The pin is masked until its owner says that it is ready.
        uart.acknowledge();
        Ok(uart)
    }

    /// What the device's interrupt sets in the signal word.
    pub fn bits(&self) -> Bits {
        self.irq.bits()
    }

    /// Whether a byte was received that nobody has taken.
    pub fn has_received(&self) -> bool {
        self.line.read() & LSR_RECEIVED != 0
    }

    /// Whether the transmitter takes [`FIFO`] bytes now.
    pub fn is_ready(&self) -> bool {
        self.line.read() & LSR_EMPTY != 0
    }

    /// Whether the last bit has left.
    pub fn is_idle(&self) -> bool {
        self.line.read() & LSR_IDLE != 0
    }

    /// Hands over bytes, at most [`FIFO`] of them, after [`Uart::is_ready`] said so.
    pub fn send(&self, bytes: &[u8]) {
        for byte in bytes.iter().take(FIFO) {
            self.data.write(*byte);
        }
    }

    /// Asks for an interrupt when the transmitter is ready, or stops asking.
    pub fn notify_when_ready(&self, wanted: bool) {
        self.interrupts.write(if wanted { IER_RECEIVED | IER_EMPTY } else { IER_RECEIVED });
    }

    /// Lets the next interrupt come, and takes what was received, as far as there is place for it.
    /// How many bytes that were.
    pub fn attend(&self, to: &mut [u8; RECEIVE_MAX]) -> usize {
        // First of all: the pin knows edges alone, and one that comes while it is masked is lost.
        self.acknowledge();
        let mut count = 0;
        for place in to {
            // Reading the identity ends the "empty" interrupt, or the line would stay up.
            self.identity.read();
            if self.line.read() & LSR_RECEIVED == 0 {
                break;
            }
            *place = self.data.read();
            count += 1;
        }
        count
    }

    fn acknowledge(&self) {
        if let Err(refused) = self.irq.ack() {
            defmt::error!("the kernel refuses to unmask the interrupt of uart0: {}", refused);
        }
    }
}
