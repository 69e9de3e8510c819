//! Virtio devices behind the platform's transport: registers in an I/O BAR, MSI-X in a page.
//!
//! [`devices`] finds them, [`transport::IoTransport`] speaks to one, [`channel::Channel`],
//! [`disk::Disk`] and [`entropy::Entropy`] are drivers on top. A disk has rings of
//! `cloister-guest-disk`, the others those of the `virtio-drivers` crate.

pub mod channel;
pub mod disk;
pub mod entropy;
mod hal;
mod msix;
pub mod transport;

use core::fmt;

use cloister_guest_abi::pci::{VENDOR, VIRTIO_BASE};

use crate::pci::{self, DeviceFunction};

pub use hal::Memory;
pub use msix::Table;

/// Device type of a disk.
pub const BLOCK: u16 = cloister_guest_abi::disk::KIND;
/// Device type of a console, which is what a channel to another guest looks like.
pub const CONSOLE: u16 = 3;
/// Device type of an entropy source.
pub const ENTROPY: u16 = 4;

/// Types that a device id can say (virtio 1.3, "PCI Device Discovery"). The host bridge has the
/// same vendor and an id beyond them.
const KINDS: core::ops::RangeInclusive<u16> = 1..=0x3f;

/// A virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is.
    pub function: DeviceFunction,
    /// Its type (virtio 1.3, "Device Types").
    pub kind: u16,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A structure is missing, or not in an I/O BAR.
    Layout(&'static str),
    /// The device did not accept the features.
    Features,
    /// The device says that it needs a reset.
    NeedsReset,
    /// A vector was not accepted.
    Vector,
    /// The rings: `virtio-drivers`' own error.
    Queue(virtio_drivers::Error),
    /// The device breaks the rules of a ring or of its requests.
    Broken(cloister_guest_disk::Broken),
    /// No memory.
    NoMemory,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Layout(what) => write!(f, "the device has no {what} in an I/O BAR"),
            Self::Features => f.write_str("the device refused the features"),
            Self::NeedsReset => f.write_str("the device needs a reset"),
            Self::Vector => f.write_str("the device refused an interrupt vector"),
            Self::Queue(error) => write!(f, "a queue failed: {error}"),
            Self::Broken(why) => write!(f, "the device is broken: {why}"),
            Self::NoMemory => f.write_str("there is no memory for the device's buffers"),
        }
    }
}

impl From<virtio_drivers::Error> for Failure {
    fn from(error: virtio_drivers::Error) -> Self {
        Self::Queue(error)
    }
}

impl From<cloister_guest_disk::Broken> for Failure {
    fn from(why: cloister_guest_disk::Broken) -> Self {
        Self::Broken(why)
    }
}

/// The virtio devices on the bus, in the order of their slots.
pub fn devices() -> impl Iterator<Item = Device> {
    pci::functions().filter_map(|(function, info)| {
        let kind = info.device_id.checked_sub(VIRTIO_BASE)?;
        let is_virtio = info.vendor_id == VENDOR && KINDS.contains(&kind);
        is_virtio.then_some(Device { function, kind })
    })
}

/// The device of this type with this number among its like.
pub fn find(kind: u16, number: usize) -> Option<Device> {
    devices().filter(|device| device.kind == kind).nth(number)
}
