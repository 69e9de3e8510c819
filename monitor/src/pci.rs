//! PCI configuration space: which register a port means ([`place`], configuration mechanism #1),
//! and the registers of a [`Function`], a virtio device or the host bridge.
//!
//! What a register means beyond its bytes (the BARs' contents, MSI-X) is `devices`' business, which
//! also holds the functions. Specifications: PCI Local Bus Specification 3.0, "Configuration Space
//! Organization", and virtio 1.3, "Virtio Structure PCI Capabilities".
//!
//! Invariant: a register changes only in the bits that [`Function::write`] lists; BARs tell their
//! size and never move.

use crate::num::{low8, low16, low32};
use cloister_guest_abi::{pci, platform};

/// Registers of a function: 256 bytes.
const REGISTERS: usize = 64;
/// The address latch: enable, extended register, bus, device, function, register.
pub const LATCH: u32 = 0x8fff_fffc;
const ENABLE: u32 = 1 << 31;

/// Registers that have a meaning here, by number.
const COMMAND: usize = 1;
const BAR0: usize = 4;
const MSIX: usize = 0x40 / 4;
const WINDOW_BAR: usize = 0x98 / 4;
const WINDOW_OFFSET: usize = 0x9c / 4;
const WINDOW_LENGTH: usize = 0xa0 / 4;
/// The data register of the virtio window capability.
pub const WINDOW_DATA: usize = 0xa4 / 4;

/// Command: the function answers at its I/O BAR; it may write to memory, messages included.
const COMMAND_IO: u32 = 1;
const COMMAND_MASTER: u32 = 1 << 2;
/// Status: an interrupt waits.
const STATUS_INTERRUPT: u32 = 1 << 19;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK: u32 = 1 << 30;
const BAR_MSIX: u32 = 1;
const _: () = assert!(pci::BAR_IO == 0 && pci::BAR_MSIX == 1);

/// What every virtio function has from [`MSIX`] on: the capabilities.
#[rustfmt::skip]
static CAPABILITIES: [u32; 22] = [
    // MSI-X: the table and the pending bits are both in its page.
    0x11 | 0x50 << 8, BAR_MSIX, low32(platform::MSIX_PENDING) | BAR_MSIX, 0,
    // Vendor capabilities: id, next, length, type; BAR; offset; length. The first: common.
    0x09 | 0x60 << 8 | 16 << 16 | 1 << 24, 0, offset(platform::VIRTIO_COMMON), 0x38,
    // Notification, with the distance between two queues' doorbells behind it.
    0x09 | 0x74 << 8 | 20 << 16 | 2 << 24, 0, offset(platform::VIRTIO_NOTIFY), 0x10, 2,
    // Interrupt status.
    0x09 | 0x84 << 8 | 16 << 16 | 3 << 24, 0, offset(platform::VIRTIO_ISR), 1,
    // The device's own configuration.
    0x09 | 0x94 << 8 | 16 << 16 | 4 << 24, 0, offset(platform::VIRTIO_DEVICE), 0x40,
    // The window: access to the BAR through configuration space.
    0x09 | 20 << 16 | 5 << 24,
];
/// Network, storage, communication, by virtio's number; no class for others.
const CLASSES: [u32; 4] = [0xff_0000, 0x02_0000, 0x01_8000, 0x07_8000];

const fn offset(port: u16) -> u32 {
    let [low, high] = port.to_le_bytes();
    u32::from_le_bytes([low, high, 0, 0])
}

/// A function's configuration space.
#[derive(Debug)]
pub struct Function {
    registers: [u32; REGISTERS],
    /// What the BARs hold, and which of their bits are address.
    bars: [(u32, u32); 2],
}

/// Which bytes of which function's register a port access means.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Slot on the bus; the bridge is in slot 0.
    pub slot: usize,
    /// Number of the register of 4 bytes.
    pub register: usize,
    lane: u8,
    width: u8,
}

/// What an access to the data ports means under an address; `None` where there can be nothing.
pub fn place(latch: u32, port: u16, width: u8) -> Option<Place> {
    let lane = low8(u64::from(port.checked_sub(platform::PCI_DATA)?));
    let fits = matches!(width, 1 | 2 | 4) && lane.checked_add(width)? <= 4;
    let [low, devfn, bus, high] = latch.to_le_bytes();
    // Extended registers, other buses and other functions do not exist.
    if !fits || latch & ENABLE == 0 || high & 0xf != 0 || bus != 0 || devfn & 7 != 0 {
        return None;
    }
    Some(Place { slot: usize::from(devfn >> 3), register: usize::from(low >> 2), lane, width })
}

impl Function {
    /// The host bridge. Linux looks for one, by its class, before it trusts the bus.
    pub fn bridge() -> Function {
        let mut registers = [0; REGISTERS];
        registers[0] = u32::from(pci::VENDOR) | u32::from(pci::HOST_BRIDGE) << 16;
        registers[2] = 0x0600_0000;
        Function { registers, bars: [(0, 0); 2] }
    }

    /// Virtio device `number`, of this type, with so many MSI-X vectors.
    pub fn virtio(number: u16, kind: u16, vectors: u16) -> Function {
        let mut registers = [0; REGISTERS];
        for (register, value) in registers.iter_mut().skip(MSIX).zip(CAPABILITIES) {
            *register = value;
        }
        let id = u32::from(pci::VIRTIO_BASE.wrapping_add(kind));
        registers[0] = u32::from(pci::VENDOR) | id << 16;
        // Status: there is a list of capabilities.
        registers[COMMAND] = 1 << 20;
        // Revision 1 and subsystem id 0x40: not a transitional device (virtio 1.3, "PCI Device
        // Discovery").
        registers[2] = CLASSES.get(usize::from(kind)).unwrap_or(&CLASSES[0]) << 8 | 1;
        registers[0x2c / 4] = 0x0040 << 16 | 0x1af4;
        registers[0x34 / 4] = 0x40;
        registers[MSIX] |= u32::from(vectors.saturating_sub(1)) << 16;
        let port = platform::VIRTIO.wrapping_add(number.wrapping_mul(platform::VIRTIO_LEN));
        let page = low32(platform::MSIX.wrapping_add(u64::from(number) << 12));
        let io_size = !u32::from(platform::VIRTIO_LEN.wrapping_sub(1));
        // An I/O BAR says so in its lowest bit.
        let bars = [(u32::from(port) | 1, io_size), (page, !0xfff)];
        [registers[BAR0], registers[BAR0 + 1]] = bars.map(|(base, _)| base);
        Function { registers, bars }
    }

    /// Reads the bytes of a place.
    pub fn read(&self, place: Place) -> u32 {
        let value = self.registers.get(place.register).copied().unwrap_or(0);
        value.unbounded_shr(u32::from(place.lane).wrapping_mul(8)) & mask(place.width)
    }

    /// Writes the bytes of a place of a virtio function, as far as they can be written.
    pub fn write(&mut self, place: Place, value: u32) {
        let Some(register) = self.registers.get_mut(place.register) else { return };
        let shift = u32::from(place.lane).wrapping_mul(8);
        let touched = mask(place.width).unbounded_shl(shift);
        let new = *register & !touched | value.unbounded_shl(shift) & touched;
        let bar = place.register.checked_sub(BAR0).and_then(|number| self.bars.get(number));
        if let Some((base, address)) = bar {
            // A BAR of ones shows its size until something else is written to it.
            *register = if new & address == *address { base | address } else { *base };
            return;
        }
        let writable = match place.register {
            // I/O, memory, bus master, interrupt pin off.
            COMMAND => COMMAND_IO | 1 << 1 | COMMAND_MASTER | 1 << 10,
            MSIX => MSIX_ENABLE | MSIX_MASK,
            WINDOW_BAR => 0xff,
            WINDOW_OFFSET..=WINDOW_DATA => u32::MAX,
            _ => 0,
        };
        *register = new & writable | *register & !writable;
    }

    /// Shows the interrupt status of the device in the status register.
    pub fn show_interrupt(&mut self, waits: bool) {
        self.registers[COMMAND] &= !STATUS_INTERRUPT;
        self.registers[COMMAND] |= if waits { STATUS_INTERRUPT } else { 0 };
    }

    /// The data register of the window: what was written to it, or read through it.
    pub fn window_data(&mut self) -> &mut u32 {
        &mut self.registers[WINDOW_DATA]
    }

    /// Where the window leads: offset and width; `None` if not to aligned bytes of the I/O BAR.
    pub fn window(&self) -> Option<(u16, u8)> {
        let (offset, width) = (self.registers[WINDOW_OFFSET], self.registers[WINDOW_LENGTH]);
        let is_aligned = matches!(width, 1 | 2 | 4) && offset & width.wrapping_sub(1) == 0;
        let is_inside = offset < u32::from(platform::VIRTIO_LEN);
        let is_io = self.registers[WINDOW_BAR] == u32::from(pci::BAR_IO);
        let window = (low16(u64::from(offset)), low8(u64::from(width)));
        (is_aligned && is_inside && is_io).then_some(window)
    }

    /// Whether the function answers at its I/O BAR.
    pub fn is_io_enabled(&self) -> bool {
        self.registers[COMMAND] & COMMAND_IO != 0
    }

    /// MSI-X: whether it is on, and whether nothing may be sent for now. A function that may not
    /// write to memory sends no messages either.
    pub fn msix(&self) -> (bool, bool) {
        let (control, command) = (self.registers[MSIX], self.registers[COMMAND]);
        (control & MSIX_ENABLE != 0, control & MSIX_MASK != 0 || command & COMMAND_MASTER == 0)
    }
}

/// All bits of the first `width` bytes: what a read shows where there is nothing.
pub fn mask(width: u8) -> u32 {
    !u32::MAX.unbounded_shl(u32::from(width).wrapping_mul(8))
}
