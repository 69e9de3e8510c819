//! The PCI bus through ports 0xcf8 and 0xcfc ("PCI Local Bus Specification 3.0, Configuration
//! Mechanism #1").

use cloister_guest_abi::platform;
pub use virtio_drivers::transport::pci::bus::{
    BarInfo, CapabilityInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo,
    PciRoot,
};

use crate::{Lock, port};

/// Address register: the access is to configuration space.
const ENABLE: u32 = 1 << 31;

/// Address and data belong together, whoever uses them.
static PORTS: Lock<()> = Lock::new(());

/// Configuration space by ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports(());

fn select(function: DeviceFunction, offset: u8) {
    let address = ENABLE
        | u32::from(function.bus) << 16
        | u32::from(function.device) << 11
        | u32::from(function.function) << 8
        | u32::from(offset & 0xfc);
    // SAFETY: the address alone makes no device do anything.
    unsafe { port::write32(platform::PCI_ADDRESS, address) };
}

/// Reads four bytes of a function's configuration; all ones where there is none.
pub fn read(function: DeviceFunction, offset: u8) -> u32 {
    let _held = PORTS.lock();
    select(function, offset);
    port::read32(platform::PCI_DATA)
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        read(function, offset)
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        let _held = PORTS.lock();
        select(function, offset);
        // SAFETY: base addresses of this platform do not move (guest_abi::pci), and a device that
        // may use memory finds there only what its driver has told it.
        unsafe { port::write32(platform::PCI_DATA, data) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// The bus.
pub fn root() -> PciRoot<Ports> {
    PciRoot::new(Ports(()))
}

/// Every function on the bus.
pub fn functions() -> impl Iterator<Item = (DeviceFunction, DeviceFunctionInfo)> {
    root().enumerate_bus(0)
}
