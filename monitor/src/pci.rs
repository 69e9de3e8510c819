//! The PCI bus as its configuration space shows it: configuration mechanism #1, a host bridge and
//! one [`Function`] per virtio device.
//!
//! [`Pci`] answers the ports; what a register means beyond its bytes (the BARs' contents, MSI-X) is
//! `devices`' business. Specifications: PCI Local Bus Specification 3.0, "Configuration Space
//! Organization", and virtio 1.3, "Virtio Structure PCI Capabilities".
//!
//! Invariant: a register changes only in the bits of a function's table; BARs tell their size and never
//! move.

use crate::num::{low8, low16, low32};
use cloister_abi::vm::MAX_VM_DEVICES;
use cloister_guest_abi::{pci, platform};

/// Registers of a function: 256 bytes.
const REGISTERS: usize = 64;
/// Slots in use at most: the bridge and the devices.
const SLOTS: usize = 1 + MAX_VM_DEVICES;
/// The address latch: enable, extended register, bus, device, function, register.
const LATCH: u32 = 0x8fff_fffc;
const ENABLE: u32 = 1 << 31;

/// Command: the function answers at its I/O BAR.
const COMMAND_IO: u32 = 1;
/// Command: the function may write to memory, messages included.
const COMMAND_MASTER: u32 = 1 << 2;
/// Command: I/O, memory, master, interrupt pin off.
const COMMAND: u32 = COMMAND_IO | 1 << 1 | COMMAND_MASTER | 1 << 10;
/// Status: there is a list of capabilities.
const STATUS_LIST: u32 = 1 << 20;
const STATUS_INTERRUPT: u32 = 1 << 19;
const BAR_IO_SPACE: u32 = 1;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK: u32 = 1 << 30;

/// Registers that have a meaning here, by number.
const ID: u8 = 0;
const COMMAND_STATUS: u8 = 1;
const CLASS: u8 = 2;
const BAR0: u8 = 4;
const BAR1: u8 = 5;
const MSIX: u8 = 0x40 / 4;
const WINDOW_BAR: u8 = 0x98 / 4;
const WINDOW_OFFSET: u8 = 0x9c / 4;
const WINDOW_LENGTH: u8 = 0xa0 / 4;
/// The data register of the virtio window capability.
pub const WINDOW_DATA: u8 = 0xa4 / 4;

/// The bits of a virtio function that software can change, besides the BARs.
static WRITABLE: [(u8, u32); 6] = [
    (COMMAND_STATUS, COMMAND),
    (MSIX, MSIX_ENABLE | MSIX_MASK),
    (WINDOW_BAR, 0xff),
    (WINDOW_OFFSET, u32::MAX),
    (WINDOW_LENGTH, u32::MAX),
    (WINDOW_DATA, u32::MAX),
];

/// What every virtio function has; the rest depends on the device.
static VIRTIO: [(u8, u32); 20] = [
    (COMMAND_STATUS, STATUS_LIST),
    // Subsystem id 0x40: not a transitional device (virtio 1.3, "PCI Device Discovery").
    (0x2c / 4, 0x0040 << 16 | 0x1af4),
    (0x34 / 4, 0x40),
    // MSI-X: the table and the pending bits are both in its page. Masked functions send nothing.
    (MSIX, 0x11 | 0x50 << 8),
    (0x44 / 4, BAR_MSIX),
    (0x48 / 4, low32(platform::MSIX_PENDING) | BAR_MSIX),
    // Vendor capabilities: id, next, length, type; BAR; offset; length. The first: common.
    (0x50 / 4, 0x09 | 0x60 << 8 | 16 << 16 | 1 << 24),
    (0x58 / 4, offset(platform::VIRTIO_COMMON)),
    (0x5c / 4, 0x38),
    // Notification, with the distance between two queues' doorbells behind it.
    (0x60 / 4, 0x09 | 0x74 << 8 | 20 << 16 | 2 << 24),
    (0x68 / 4, offset(platform::VIRTIO_NOTIFY)),
    (0x6c / 4, 0x10),
    (0x70 / 4, 2),
    // Interrupt status.
    (0x74 / 4, 0x09 | 0x84 << 8 | 16 << 16 | 3 << 24),
    (0x7c / 4, offset(platform::VIRTIO_ISR)),
    (0x80 / 4, 1),
    // The device's own configuration.
    (0x84 / 4, 0x09 | 0x94 << 8 | 16 << 16 | 4 << 24),
    (0x8c / 4, offset(platform::VIRTIO_DEVICE)),
    (0x90 / 4, 0x40),
    // The window: access to the BAR through configuration space.
    (0x94 / 4, 0x09 | 20 << 16 | 5 << 24),
];

const BAR_MSIX: u32 = 1;
const _: () = assert!(pci::BAR_IO == 0 && pci::BAR_MSIX == 1);

const fn offset(port: u16) -> u32 {
    let [low, high] = port.to_le_bytes();
    u32::from_le_bytes([low, high, 0, 0])
}

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    registers: [u32; REGISTERS],
    /// What the BARs hold, and which of their bits are address.
    bars: [(u32, u32); 2],
    writable: &'static [(u8, u32)],
}

/// What an access through the window capability means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offset in the I/O BAR.
    pub offset: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
}

/// Which bytes of which function's register a port access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Slot on the bus; the bridge is in slot 0.
    pub slot: usize,
    /// Number of the register of 4 bytes.
    pub register: u8,
    /// First byte.
    pub lane: u8,
    /// Number of bytes.
    pub width: u8,
}

/// The bus.
#[derive(Clone, Debug)]
pub struct Pci {
    latch: u32,
    functions: [Option<Function>; SLOTS],
}

impl Pci {
    /// A bus with the host bridge alone.
    pub fn new() -> Pci {
        let mut functions = [const { None }; SLOTS];
        functions[0] = Some(Function::bridge());
        Pci { latch: 0, functions }
    }

    /// Puts virtio device `number` of this type on the bus, with so many MSI-X vectors.
    pub fn add(&mut self, number: usize, kind: u16, vectors: u16) {
        let slot = number.wrapping_add(usize::from(pci::FIRST_SLOT));
        if let (Some(place), Ok(number)) = (self.functions.get_mut(slot), u16::try_from(number)) {
            *place = Some(Function::virtio(number, kind, vectors));
        }
    }

    /// Virtio device `number`'s function.
    pub fn device(&self, number: usize) -> Option<&Function> {
        self.functions.get(number.wrapping_add(usize::from(pci::FIRST_SLOT)))?.as_ref()
    }

    /// Which virtio device is in a slot; `None` for the bridge.
    pub fn number(slot: usize) -> Option<usize> {
        slot.checked_sub(usize::from(pci::FIRST_SLOT))
    }

    /// The function in a slot.
    pub fn function(&mut self, slot: usize) -> Option<&mut Function> {
        self.functions.get_mut(slot)?.as_mut()
    }

    /// Reads the bytes of a place.
    pub fn read(&mut self, place: Place) -> u32 {
        self.function(place.slot).map_or(lanes::mask(place.width), |function| function.read(place))
    }

    /// The address latch, as a read of the address port shows it.
    pub fn latch(&self) -> u32 {
        self.latch
    }

    /// A write of four bytes to the address port. Narrower ones are not for this bus.
    pub fn set_latch(&mut self, value: u32) {
        self.latch = value & LATCH;
    }

    /// What an access to the data ports means; `None` where there is nothing: reads are all ones.
    pub fn place(&self, port: u16, width: u8) -> Option<Place> {
        let lane = low8(u64::from(port.checked_sub(platform::PCI_DATA)?));
        let fits = matches!(width, 1 | 2 | 4) && lane.checked_add(width)? <= 4;
        let [low, devfn, bus, high] = self.latch.to_le_bytes();
        // Extended registers, other buses and other functions do not exist.
        if !fits || self.latch & ENABLE == 0 || high & 0xf != 0 || bus != 0 || devfn & 7 != 0 {
            return None;
        }
        let slot = usize::from(devfn >> 3);
        self.functions.get(slot)?.as_ref()?;
        Some(Place { slot, register: low >> 2, lane, width })
    }
}

impl Default for Pci {
    fn default() -> Self {
        Pci::new()
    }
}

impl Function {
    fn bridge() -> Function {
        let id = u32::from(pci::VENDOR) | u32::from(pci::HOST_BRIDGE) << 16;
        let mut function = Function { registers: [0; REGISTERS], bars: [(0, 0); 2], writable: &[] };
        // Class: host bridge. Linux looks for one before it trusts the bus.
        function.set(ID, id);
        function.set(CLASS, 0x0600_0000);
        function
    }

    fn virtio(number: u16, kind: u16, vectors: u16) -> Function {
        let port = platform::VIRTIO.wrapping_add(number.wrapping_mul(platform::VIRTIO_LEN));
        let io = (u32::from(port) | BAR_IO_SPACE, !u32::from(platform::VIRTIO_LEN.wrapping_sub(1)));
        let page = (low32(platform::MSIX.wrapping_add(u64::from(number) << 12)), !0xfff);
        let mut function =
            Function { registers: [0; REGISTERS], bars: [io, page], writable: &WRITABLE };
        for (register, value) in VIRTIO {
            function.set(register, value);
        }
        let id = u32::from(pci::VIRTIO_BASE.wrapping_add(kind));
        function.set(ID, u32::from(pci::VENDOR) | id << 16);
        // Network, storage, communication, or no class; revision 1: not a transitional device.
        let class = match kind {
            1 => 0x02_0000,
            2 => 0x01_8000,
            3 => 0x07_8000,
            _ => 0xff_0000,
        };
        function.set(CLASS, class << 8 | 1);
        function.set(BAR0, io.0);
        function.set(BAR1, page.0);
        let last_vector = u32::from(vectors.saturating_sub(1));
        function.set(MSIX, function.get(MSIX) | last_vector << 16);
        function
    }

    /// Reads the bytes of a place.
    pub fn read(&self, place: Place) -> u32 {
        lanes::extract(self.get(place.register), place.lane, place.width)
    }

    /// Writes the bytes of a place, as far as they can be written.
    pub fn write(&mut self, place: Place, value: u32) {
        let old = self.get(place.register);
        let new = lanes::merge(old, place.lane, place.width, value);
        let [bar0, bar1] = self.bars;
        let value =
            match (place.register, bar0, bar1) {
                // A BAR of ones shows its size until something else is written to it.
                (BAR0, (base, address), _) | (BAR1, _, (base, address)) => {
                    if new & address == address { base | address } else { base }
                }
                _ => {
                    let is_it = |(register, _): &&(u8, u32)| *register == place.register;
                    let writable = self.writable.iter().find(is_it).map_or(0, |(_, mask)| *mask);
                    new & writable | old & !writable
                }
            };
        self.set(place.register, value);
    }

    /// Shows the interrupt status of the device in the status register.
    pub fn show_interrupt(&mut self, waits: bool) {
        let status = self.get(COMMAND_STATUS) & !STATUS_INTERRUPT;
        self.set(COMMAND_STATUS, if waits { status | STATUS_INTERRUPT } else { status });
    }

    /// Puts what was read through the window into its data register.
    pub fn show_window(&mut self, value: u32) {
        self.set(WINDOW_DATA, value);
    }

    /// What the data register's value is.
    pub fn window_data(&self) -> u32 {
        self.get(WINDOW_DATA)
    }

    /// Where the window leads; `None` if not to properly aligned bytes of the I/O BAR.
    pub fn window(&self) -> Option<Window> {
        let (offset, width) = (self.get(WINDOW_OFFSET), self.get(WINDOW_LENGTH));
        let aligned = matches!(width, 1 | 2 | 4) && offset & width.wrapping_sub(1) == 0;
        let inside = offset < u32::from(platform::VIRTIO_LEN);
        let is_usable = self.get(WINDOW_BAR) & 0xff == u32::from(pci::BAR_IO);
        (aligned && inside && is_usable)
            .then(|| Window { offset: low16(u64::from(offset)), width: low8(u64::from(width)) })
    }

    /// Whether the function answers at its I/O BAR.
    pub fn is_io_enabled(&self) -> bool {
        self.get(COMMAND_STATUS) & COMMAND_IO != 0
    }

    /// MSI-X: whether it is on, and whether nothing may be sent for now. A function that may not
    /// write to memory sends no messages either.
    pub fn msix(&self) -> (bool, bool) {
        let control = self.get(MSIX);
        let is_master = self.get(COMMAND_STATUS) & COMMAND_MASTER != 0;
        (control & MSIX_ENABLE != 0, control & MSIX_MASK != 0 || !is_master)
    }

    fn get(&self, register: u8) -> u32 {
        self.registers.get(usize::from(register)).copied().unwrap_or(u32::MAX)
    }

    fn set(&mut self, register: u8, value: u32) {
        if let Some(place) = self.registers.get_mut(usize::from(register)) {
            *place = value;
        }
    }
}

/// Bytes within a register.
pub mod lanes {
    /// All bits of the first `width` bytes.
    pub fn mask(width: u8) -> u32 {
        !u32::MAX.unbounded_shl(u32::from(width).wrapping_mul(8))
    }

    /// `width` bytes from byte `lane` on.
    pub fn extract(value: u32, lane: u8, width: u8) -> u32 {
        value.unbounded_shr(u32::from(lane).wrapping_mul(8)) & mask(width)
    }

    /// The value with those bytes replaced.
    pub fn merge(old: u32, lane: u8, width: u8, value: u32) -> u32 {
        let shift = u32::from(lane).wrapping_mul(8);
        let mask = mask(width).unbounded_shl(shift);
        old & !mask | value.unbounded_shl(shift) & mask
    }
}
