//! A device's MSI-X table: a page of registers (PCI Local Bus Specification 3.0, "MSI-X
//! Capability and Table Structure").

use cloister_guest_abi::pci::BAR_MSIX;
use cloister_guest_abi::platform::{MSI, MSIX_PENDING};

use crate::pci::{self, BarInfo, Command, ConfigurationAccess, DeviceFunction};
use crate::virtio::Failure;

/// Capability identifier.
const CAPABILITY: u8 = 0x11;
/// Message control: MSI-X is on.
const ENABLE: u32 = 1 << 31;
/// Message control: all vectors are masked.
const MASK_ALL: u32 = 1 << 30;
/// Bytes of an entry.
const ENTRY: usize = 16;
/// Vector control: masked.
const MASKED: u32 = 1;

/// The table of one device.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    function: DeviceFunction,
    capability: u8,
    at: usize,
    entries: u16,
}

impl Table {
    /// The table of a function, which is allowed to use ports, memory and messages from now on.
    pub fn open(function: DeviceFunction) -> Result<Self, Failure> {
        let missing = Failure::Layout("MSI-X table");
        let mut root = pci::root();
        let found = root.capabilities(function).find(|capability| capability.id == CAPABILITY);
        let capability = found.ok_or(missing)?;
        let place = pci::read(function, capability.offset + 4);
        let bar = root.bar_info(function, (place & 7) as u8).ok().flatten();
        let Some(BarInfo::Memory { address, .. }) = bar else {
            return Err(missing);
        };
        if place & 7 != u32::from(BAR_MSIX) {
            return Err(missing);
        }
        let access = Command::IO_SPACE | Command::MEMORY_SPACE | Command::BUS_MASTER;
        root.set_command(function, access | Command::INTERRUPT_DISABLE);
        let at = (address + u64::from(place & !7)) as usize;
        let entries = (capability.private_header & 0x7ff) + 1;
        Ok(Self { function, capability: capability.offset, at, entries })
    }

    /// Number of entries.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Address of a word of an entry: 0 and 1 address, 2 data, 3 control.
    pub fn word(&self, entry: u16, word: usize) -> *mut u32 {
        (self.at + usize::from(entry) * ENTRY + word * 4) as *mut u32
    }

    fn write(&self, entry: u16, word: usize, value: u32) {
        if entry < self.entries {
            // SAFETY: the device's page is mapped, and no memory of the program. A message goes
            // to a vector, all of which have entry code.
            unsafe { self.word(entry, word).write_volatile(value) };
        }
    }

    /// Sends an entry's message to a vCPU as this vector, unmasked.
    pub fn route(&self, entry: u16, destination: u32, vector: u8) {
        self.write(entry, 0, MSI.start as u32 | (destination & 0xff) << 12);
        self.write(entry, 1, 0);
        self.write(entry, 2, u32::from(vector));
        self.write(entry, 3, 0);
    }

    /// Masks or unmasks an entry.
    pub fn mask(&self, entry: u16, masked: bool) {
        self.write(entry, 3, if masked { MASKED } else { 0 });
    }

    /// The entry's message waits behind its mask.
    pub fn is_pending(&self, entry: u16) -> bool {
        let at = self.at + MSIX_PENDING as usize + usize::from(entry / 32) * 4;
        // SAFETY: the device's page is mapped; reading its pending bits changes nothing.
        let bits = unsafe { (at as *const u32).read_volatile() };
        bits & 1 << (entry % 32) != 0
    }

    /// Turns MSI-X on, with all vectors masked at once or not.
    pub fn enable(&self, mask_all: bool) {
        let mask = if mask_all { MASK_ALL } else { 0 };
        let control = pci::read(self.function, self.capability) & !(ENABLE | MASK_ALL);
        let mut ports = pci::Ports::default();
        ports.write_word(self.function, self.capability, control | ENABLE | mask);
    }
}
