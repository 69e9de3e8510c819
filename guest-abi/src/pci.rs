//! The virtual PCI bus: one bus, a host bridge, virtio devices in the slots behind it.

/// Vendor of the host bridge and of virtio devices (virtio 1.3, "PCI Device Discovery").
pub const VENDOR: u16 = 0x1af4;
/// Device id of the host bridge at 00:00.0.
pub const HOST_BRIDGE: u16 = 0x10f0;
/// A virtio device of type `t` has the device id `VIRTIO_BASE + t`.
pub const VIRTIO_BASE: u16 = 0x1040;
/// Virtio device `n` is function 0 of slot `FIRST_SLOT + n`.
pub const FIRST_SLOT: u8 = 1;
/// The base address register of the I/O BAR.
pub const BAR_IO: u8 = 0;
/// The base address register of the MSI-X page (32-bit memory).
pub const BAR_MSIX: u8 = 1;
