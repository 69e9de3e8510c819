//! Addresses and ports of the virtual platform.

/// Most RAM of a guest: guest-physical 0 up to the segments.
pub const MEMORY_MAX: u64 = 0xc000_0000;
/// Smallest RAM of a guest.
pub const MEMORY_MIN: u64 = 2 << 20;
/// RAM sizes are multiples of this.
pub const MEMORY_STEP: u64 = 2 << 20;
/// The guest's segments, read-only, from here up to [`SEGMENTS_END`].
pub const SEGMENTS: u64 = 0xc000_0000;
/// End of the segments.
pub const SEGMENTS_END: u64 = 0xfe00_0000;

/// IOAPIC registers, where the manifest gives the guest an IOAPIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Local APIC registers (xAPIC mode).
pub const APIC: u64 = 0xfee0_0000;
/// The MSI-X page of virtio device `n` is at `MSIX + n * 4096`.
pub const MSIX: u64 = 0xfed0_0000;
/// Offset of the pending bits in an MSI-X page.
pub const MSIX_PENDING: u64 = 0x800;
/// Messages with addresses in this range interrupt a vCPU.
pub const MSI: core::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// 16550 UART, eight ports; IOAPIC pin 4 where there is one.
pub const UART: u16 = 0x3f8;
/// Interrupt pin of the UART.
pub const UART_PIN: u8 = 4;
/// Real-time clock: index and data.
pub const RTC: u16 = 0x70;
/// PCI configuration: address.
pub const PCI_ADDRESS: u16 = 0xcf8;
/// PCI configuration: data, four ports.
pub const PCI_DATA: u16 = 0xcfc;
/// Reset: writing [`RESET_VALUE`] resets the virtual machine.
pub const RESET: u16 = 0xcf9;
/// The value for [`RESET`].
pub const RESET_VALUE: u8 = 6;
/// ACPI sleep control register (hardware-reduced).
pub const SLEEP_CONTROL: u16 = 0x501;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u16 = 0x502;
/// SLP_TYP of S5.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// The write to [`SLEEP_CONTROL`] that powers off: SLP_TYP << 2 | SLP_EN.
pub const SLEEP_OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;
/// A write of any byte says that the guest has panicked; the byte is reported.
pub const PANIC: u16 = 0x505;
/// ACPI PM timer, 32 bits, where the manifest says `legacy`.
pub const PM_TIMER: u16 = 0x508;
/// I/O BAR of virtio device `n`: `VIRTIO + n * VIRTIO_LEN`.
pub const VIRTIO: u16 = 0x1000;
/// Bytes of a virtio device's I/O BAR.
pub const VIRTIO_LEN: u16 = 0x100;
/// Offset of the common configuration in the I/O BAR.
pub const VIRTIO_COMMON: u16 = 0x00;
/// Offset of the interrupt status.
pub const VIRTIO_ISR: u16 = 0x40;
/// Offset of the device's own configuration, 64 bytes.
pub const VIRTIO_DEVICE: u16 = 0x80;
/// Offset of the doorbells: queue `q` is at `VIRTIO_NOTIFY + 2 * q`.
pub const VIRTIO_NOTIFY: u16 = 0xc0;
