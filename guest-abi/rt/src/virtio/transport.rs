//! The virtio transport over registers in an I/O BAR, for the rings of `virtio-drivers`.
//!
//! The crate's own PCI transport reaches registers in memory only, and accepts neither
//! VIRTIO_F_VERSION_1 for drivers that do not name it nor VIRTIO_F_ACCESS_PLATFORM; here both are
//! accepted always, because every device of the platform offers them (docs/guest-abi.md).

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::pci::{self, BarInfo};
use crate::virtio::{Device, Failure, Table};
use crate::{apic, interrupts, port};

/// Capability identifier of a virtio structure.
const CAPABILITY: u8 = 9;
/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM.
const ALWAYS: u64 = 1 << 32 | 1 << 33;
/// Vector of the device in slot 0; that of slot n is n higher.
const FIRST_VECTOR: u8 = 0x50;
/// No MSI-X vector (virtio 1.3, "MSI-X Vector Configuration").
const NO_VECTOR: u16 = 0xffff;

/// Registers of the common configuration (virtio 1.3, "Common configuration structure layout").
mod common {
    pub const DEVICE_FEATURE_SELECT: u16 = 0x00;
    pub const DEVICE_FEATURE: u16 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u16 = 0x08;
    pub const DRIVER_FEATURE: u16 = 0x0c;
    pub const CONFIG_VECTOR: u16 = 0x10;
    pub const STATUS: u16 = 0x14;
    pub const GENERATION: u16 = 0x15;
    pub const QUEUE_SELECT: u16 = 0x16;
    pub const QUEUE_SIZE: u16 = 0x18;
    pub const QUEUE_VECTOR: u16 = 0x1a;
    pub const QUEUE_ENABLE: u16 = 0x1c;
    pub const QUEUE_NOTIFY: u16 = 0x1e;
    pub const QUEUE_DESCRIPTORS: u16 = 0x20;
    pub const QUEUE_DRIVER: u16 = 0x28;
    pub const QUEUE_DEVICE: u16 = 0x30;
}

/// Kinds of structures (virtio 1.3, "Virtio Structure PCI Capabilities").
mod structure {
    pub const COMMON: u32 = 1;
    pub const NOTIFY: u32 = 2;
    pub const ISR: u32 = 3;
    pub const DEVICE: u32 = 4;
}

/// A structure's ports.
#[derive(Clone, Copy, Debug)]
struct Ports {
    at: u16,
    len: u16,
}

/// A virtio device's registers and its MSI-X table.
#[derive(Debug)]
pub struct IoTransport {
    device: Device,
    common: Ports,
    notify: Ports,
    multiplier: u32,
    isr: Ports,
    config: Option<Ports>,
    table: Table,
    vector: Option<u16>,
}

impl IoTransport {
    /// The registers of a device, found through its capabilities.
    pub fn open(device: Device) -> Result<Self, Failure> {
        let table = Table::open(device.function)?;
        let (mut found, mut multiplier) = ([None; 5], 0);
        let mut root = pci::root();
        let offsets = Offsets::of(device);
        for offset in offsets.iter() {
            let head = pci::read(device.function, offset);
            let kind = head >> 24;
            let bar = pci::read(device.function, offset + 4) & 0xff;
            let at = pci::read(device.function, offset + 8);
            let len = pci::read(device.function, offset + 12);
            let info = if bar < 6 { root.bar_info(device.function, bar as u8) } else { Ok(None) };
            let Ok(Some(BarInfo::IO { address, size })) = info else {
                continue;
            };
            let inside = at.checked_add(len).is_some_and(|end| end <= size);
            let ports = (u16::try_from(address.saturating_add(at)), u16::try_from(len));
            let (true, (Ok(at), Ok(len)), Some(slot)) =
                (inside, ports, found.get_mut(kind as usize))
            else {
                continue;
            };
            // "The driver SHOULD use the first instance of each virtio structure type".
            if slot.is_none() {
                *slot = Some(Ports { at, len });
                if kind == structure::NOTIFY {
                    multiplier = pci::read(device.function, offset + 16);
                }
            }
        }
        let get = |kind: u32, name| found[kind as usize].ok_or(Failure::Layout(name));
        Ok(Self {
            device,
            common: get(structure::COMMON, "common configuration")?,
            notify: get(structure::NOTIFY, "notification structure")?,
            multiplier,
            isr: get(structure::ISR, "interrupt status")?,
            config: found[structure::DEVICE as usize],
            table,
            vector: None,
        })
    }

    /// The MSI-X table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Queues that are set from now on interrupt through this entry of the table.
    pub fn set_vector(&mut self, entry: Option<u16>) {
        self.vector = entry;
    }

    /// Changes of the configuration interrupt through this entry of the table.
    pub fn set_config_vector(&mut self, entry: Option<u16>) -> Result<(), Failure> {
        let entry = entry.unwrap_or(NO_VECTOR);
        self.write16(common::CONFIG_VECTOR, entry);
        let accepted = port::read16(self.common.at + common::CONFIG_VECTOR);
        if accepted == entry { Ok(()) } else { Err(Failure::Vector) }
    }

    /// Resets the device: it uses no memory any more when this returns.
    pub fn reset(&mut self) {
        self.set_status(DeviceStatus::empty());
    }

    /// Resets the device and agrees on the features of `wanted` that it offers, besides those
    /// that are always there (virtio 1.3, "Driver Requirements: Device Initialization").
    pub fn negotiate(&mut self, wanted: u64) -> Result<u64, Failure> {
        let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        self.reset();
        self.set_status(known);
        let features = self.read_device_features() & (wanted | ALWAYS);
        self.write_driver_features(features);
        self.set_status(known | DeviceStatus::FEATURES_OK);
        self.check()?;
        Ok(features)
    }

    /// Gives the device a vector on vCPU 0 for whatever it has to say. The handler does nothing:
    /// it is there to wake who waits.
    pub fn interrupt_first_vcpu(&mut self) -> Result<(), Failure> {
        let vector = self.vector();
        interrupts::set(vector, |_| apic::eoi());
        apic::start();
        self.table.enable(false);
        self.table.route(0, 0, vector);
        self.set_config_vector(Some(0))?;
        self.set_vector(Some(0));
        Ok(())
    }

    /// The vector of [`IoTransport::interrupt_first_vcpu`].
    pub fn vector(&self) -> u8 {
        FIRST_VECTOR + (self.device.function.device & 0x1f)
    }

    /// The doorbell of a queue; it does not move.
    pub fn doorbell(&self, queue: u16) -> Option<Doorbell> {
        self.select(queue);
        let offset = u32::from(port::read16(self.common.at + common::QUEUE_NOTIFY));
        let offset = u16::try_from(offset.saturating_mul(self.multiplier)).ok();
        let offset = offset.filter(|at| at.checked_add(2).is_some_and(|e| e <= self.notify.len))?;
        Some(Doorbell { port: self.notify.at.checked_add(offset)?, queue })
    }

    /// Nothing, or why the device cannot go on.
    pub fn check(&self) -> Result<(), Failure> {
        let status = self.get_status();
        if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(Failure::NeedsReset);
        }
        if status.contains(DeviceStatus::FEATURES_OK) { Ok(()) } else { Err(Failure::Features) }
    }

    fn write16(&self, register: u16, value: u16) {
        // SAFETY: no 16-bit register of the common configuration is an address.
        unsafe { port::write16(self.common.at + register, value) };
    }

    fn write32(&self, register: u16, value: u32) {
        // SAFETY: the device uses addresses of queues alone; `queue_set` has them from the rings,
        // which own that memory.
        unsafe { port::write32(self.common.at + register, value) };
    }

    fn write64(&self, register: u16, value: u64) {
        self.write32(register, value as u32);
        self.write32(register + 4, (value >> 32) as u32);
    }

    fn select(&self, queue: u16) {
        self.write16(common::QUEUE_SELECT, queue);
    }
}

/// The port that tells a device of new buffers in one queue.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    port: u16,
    queue: u16,
}

impl Doorbell {
    /// Tells the device.
    pub fn ring(self) {
        // SAFETY: the device looks at the ring, which owns its memory.
        unsafe { port::write16(self.port, self.queue) };
    }
}

/// Where the virtio capabilities of a function are; copied, because reading them needs the bus.
struct Offsets {
    offsets: [u8; 16],
    len: usize,
}

impl Offsets {
    fn of(device: Device) -> Self {
        let mut all = Self { offsets: [0; 16], len: 0 };
        let root = pci::root();
        let capabilities = root.capabilities(device.function);
        for capability in capabilities.filter(|capability| capability.id == CAPABILITY).take(16) {
            all.offsets[all.len] = capability.offset;
            all.len += 1;
        }
        all
    }

    fn iter(&self) -> impl Iterator<Item = u8> {
        self.offsets.iter().take(self.len).copied()
    }
}

impl Transport for IoTransport {
    fn device_type(&self) -> DeviceType {
        // Types that the crate does not know have no driver there either.
        u32::from(self.device.kind).try_into().unwrap_or(DeviceType::Console)
    }

    fn read_device_features(&mut self) -> u64 {
        self.write32(common::DEVICE_FEATURE_SELECT, 0);
        let low = port::read32(self.common.at + common::DEVICE_FEATURE);
        self.write32(common::DEVICE_FEATURE_SELECT, 1);
        let high = port::read32(self.common.at + common::DEVICE_FEATURE);
        u64::from(high) << 32 | u64::from(low)
    }

    fn write_driver_features(&mut self, features: u64) {
        let features = features | self.read_device_features() & ALWAYS;
        self.write32(common::DRIVER_FEATURE_SELECT, 0);
        self.write32(common::DRIVER_FEATURE, features as u32);
        self.write32(common::DRIVER_FEATURE_SELECT, 1);
        self.write32(common::DRIVER_FEATURE, (features >> 32) as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        port::read16(self.common.at + common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Some(bell) = self.doorbell(queue) {
            bell.ring();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(port::read8(self.common.at + common::STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        // SAFETY: the device uses queues alone, which own their memory.
        unsafe { port::write8(self.common.at + common::STATUS, status.bits() as u8) };
        if status.is_empty() {
            // "The driver SHOULD consider a driver-initiated reset complete when it reads device
            // status as 0" (virtio 1.3, "Device Reset"); no interrupt tells of it.
            while !self.get_status().is_empty() {
                core::hint::spin_loop();
            }
        }
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        self.select(queue);
        self.write16(common::QUEUE_SIZE, size as u16);
        self.write64(common::QUEUE_DESCRIPTORS, descriptors);
        self.write64(common::QUEUE_DRIVER, driver);
        self.write64(common::QUEUE_DEVICE, device);
        self.write16(common::QUEUE_VECTOR, self.vector.unwrap_or(NO_VECTOR));
        self.write16(common::QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _: u16) {
        // A queue of this platform cannot be taken away alone; a reset takes all of them.
        self.reset();
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        port::read16(self.common.at + common::QUEUE_ENABLE) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(port::read8(self.isr.at).into())
    }

    fn read_config_generation(&self) -> u32 {
        port::read8(self.common.at + common::GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let config = self.config.ok_or(Error::ConfigSpaceMissing)?;
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        if offset.checked_add(bytes.len()).is_none_or(|end| end > config.len.into()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = port::read8(config.at + (offset + index) as u16);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        let config = self.config.ok_or(Error::ConfigSpaceMissing)?;
        let bytes = value.as_bytes();
        if offset.checked_add(bytes.len()).is_none_or(|end| end > config.len.into()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the device's own configuration holds no addresses.
            unsafe { port::write8(config.at + (offset + index) as u16, *byte) };
        }
        Ok(())
    }
}
