//! A device's registers ("Common configuration structure layout", "Notification structure layout"):
//! [`Device`], which is the `Transport` of its queue's rings.
//!
//! Registers have the width that the layout says and take no other. Every structure is mapped
//! (`structures`), so an access that misses is a bug; it reads as what is not there.
//! Invariant: after [`Device::reset`] the device touches no memory until it is told of a queue.

use cloister_block::{Pause, ms, wait_for};
use cloister_dma_queue::{DeviceStatus, DeviceType, Error, InterruptStatus, PhysAddr, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fault::Failure;
use crate::registers::Registers;
use crate::structures::{Place, Structures};

/// What registers of a device that is not there read as.
const GONE: u32 = u32::MAX;
/// How long a reset may take: the device ends what it is at before.
const RESET_NS: u64 = ms(10_000);
/// No vector ("MSI-X Vector Configuration").
const NO_VECTOR: u16 = 0xffff;
/// The vector of the queue.
const QUEUE_VECTOR: u16 = 0;

/// Features that every device needs ("Reserved Feature Bits"): the interface of virtio 1.0, and
/// addresses that the platform translates.
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;

/// Registers of the common structure.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u32 = 0x00;
    pub(super) const DEVICE_FEATURE: u32 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u32 = 0x08;
    pub(super) const DRIVER_FEATURE: u32 = 0x0c;
    pub(super) const CONFIG_VECTOR: u32 = 0x10;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const GENERATION: u32 = 0x15;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_VECTOR: u32 = 0x1a;
    pub(super) const QUEUE_ENABLE: u32 = 0x1c;
    pub(super) const QUEUE_NOTIFY: u32 = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: u32 = 0x20;
    pub(super) const QUEUE_DRIVER: u32 = 0x28;
    pub(super) const QUEUE_DEVICE: u32 = 0x30;
}

/// How a device that was started is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Fine,
    NeedsReset,
    Gone,
}

/// A device's registers.
pub(crate) struct Device<R> {
    registers: R,
    places: Structures,
    /// Where the doorbell of the queue is in its structure; known once it is set up.
    bell: Option<u32>,
    /// The device took the queue's vector.
    has_vector: bool,
}

impl<R: Registers> Device<R> {
    pub(crate) fn find(registers: R) -> Result<Device<R>, Failure> {
        let places = Structures::find(&registers)?;
        Ok(Device { registers, places, bell: None, has_vector: false })
    }

    /// A place in a structure.
    fn at(place: Place, register: u32) -> (u8, u64) {
        (place.bar, u64::from(place.offset).saturating_add(register.into()))
    }

    fn read8(&self, register: u32) -> u8 {
        let (bar, at) = Self::at(self.places.common, register);
        self.registers.read8(bar, at).unwrap_or(u8::MAX)
    }

    fn read16(&self, register: u32) -> u16 {
        let (bar, at) = Self::at(self.places.common, register);
        self.registers.read16(bar, at).unwrap_or(u16::MAX)
    }

    fn read32(&self, register: u32) -> u32 {
        let (bar, at) = Self::at(self.places.common, register);
        self.registers.read32(bar, at).unwrap_or(GONE)
    }

    fn write16(&self, register: u32, value: u16) {
        let (bar, at) = Self::at(self.places.common, register);
        let _ = self.registers.write16(bar, at, value);
    }

    fn write32(&self, register: u32, value: u32) {
        let (bar, at) = Self::at(self.places.common, register);
        let _ = self.registers.write32(bar, at, value);
    }

    fn write64(&self, register: u32, value: u64) {
        let [low, high] = halves(value);
        self.write32(register, low);
        self.write32(register.saturating_add(4), high);
    }

    fn status(&self) -> u8 {
        self.read8(common::STATUS)
    }

    fn is_gone(&self) -> bool {
        // Selecting is harmless, and no device has so many features that this is a selection.
        self.status() == u8::MAX && self.read32(common::DEVICE_FEATURE_SELECT) == GONE
    }

    /// How the device is that was started.
    pub(crate) fn condition(&self) -> Condition {
        let status = DeviceStatus::from_bits_retain(self.status().into());
        if self.is_gone() {
            Condition::Gone
        } else if status.contains(DeviceStatus::DEVICE_NEEDS_RESET)
            || !status.contains(DeviceStatus::DRIVER_OK)
        {
            Condition::NeedsReset
        } else {
            Condition::Fine
        }
    }

    /// Resets the device ("Device Reset").
    pub(crate) fn reset(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.set_status(DeviceStatus::empty());
        (self.bell, self.has_vector) = (None, false);
        let done = wait_for(pause, RESET_NS, || {
            if self.is_gone() {
                return Some(Err(Failure::Gone));
            }
            (self.status() == 0).then_some(Ok(()))
        });
        done.unwrap_or(Err(Failure::NotReady))
    }

    /// Agrees with a device that was reset on those of some features that it offers ("Device
    /// Initialization").
    pub(crate) fn negotiate(&mut self, wanted: u64) -> Result<u64, Failure> {
        let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        self.set_status(known);
        let offered = self.read_device_features();
        if offered & VERSION_1 == 0 {
            return Err(Failure::Old);
        }
        // Without it the device uses addresses past the IOMMU, which are not the driver's.
        if offered & ACCESS_PLATFORM == 0 {
            return Err(Failure::Unconfined);
        }
        let agreed = offered & (wanted | VERSION_1 | ACCESS_PLATFORM);
        self.write_driver_features(agreed);
        self.set_status(known | DeviceStatus::FEATURES_OK);
        let status = DeviceStatus::from_bits_retain(self.status().into());
        if self.is_gone() {
            Err(Failure::Gone)
        } else if status.contains(DeviceStatus::FEATURES_OK) {
            Ok(agreed)
        } else {
            Err(Failure::Features)
        }
    }

    /// Lets the device begin, whose queue was set up.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        if self.bell.is_none() {
            return Err(Failure::Queue);
        }
        if !self.has_vector {
            return Err(Failure::Vector);
        }
        self.finish_init();
        Ok(())
    }

    /// A field of 32 bits of the device's own configuration; 0 if it does not reach that far.
    pub(crate) fn field(&self, offset: u32) -> u32 {
        let end = offset.saturating_add(4);
        let (bar, at) = Self::at(self.places.device, offset);
        let value = (end <= self.places.device.len).then(|| self.registers.read32(bar, at));
        value.flatten().unwrap_or(0)
    }
}

/// The halves of a word, the lower first.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

impl<R: Registers> Transport for Device<R> {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |number: u32| {
            self.write32(common::DEVICE_FEATURE_SELECT, number);
            u64::from(self.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (number, half) in (0..).zip(halves(features)) {
            self.write32(common::DRIVER_FEATURE_SELECT, number);
            self.write32(common::DRIVER_FEATURE, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write16(common::QUEUE_SELECT, queue);
        self.read16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Some(bell) = self.bell {
            let (bar, at) = Self::at(self.places.notify, bell);
            let _ = self.registers.write16(bar, at, queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.status().into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let (bar, at) = Self::at(self.places.common, common::STATUS);
        let status = u8::try_from(status.bits()).unwrap_or(0);
        let _ = self.registers.write8(bar, at, status);
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
        self.write16(common::CONFIG_VECTOR, NO_VECTOR);
        self.write16(common::QUEUE_SELECT, queue);
        self.write16(common::QUEUE_SIZE, u16::try_from(size).unwrap_or(0));
        self.write64(common::QUEUE_DESCRIPTORS, descriptors);
        self.write64(common::QUEUE_DRIVER, driver);
        self.write64(common::QUEUE_DEVICE, device);
        self.write16(common::QUEUE_VECTOR, QUEUE_VECTOR);
        self.has_vector = self.read16(common::QUEUE_VECTOR) == QUEUE_VECTOR;
        let bell = u32::from(self.read16(common::QUEUE_NOTIFY));
        let bell = bell.checked_mul(self.places.multiplier);
        let has_room = |bell: &u32| {
            bell.is_multiple_of(2)
                && bell.checked_add(2).is_some_and(|end| end <= self.places.notify.len)
        };
        self.bell = bell.filter(has_room);
        self.write16(common::QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _: u16) {
        // A queue cannot be taken away alone (VIRTIO_F_RING_RESET is not asked for).
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write16(common::QUEUE_SELECT, queue);
        self.read16(common::QUEUE_ENABLE) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Messages have nothing to acknowledge ("ISR status capability").
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        self.read8(common::GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        let offset = u32::try_from(offset).map_err(|_| Error::ConfigSpaceTooSmall)?;
        let len = u32::try_from(bytes.len()).map_err(|_| Error::ConfigSpaceTooSmall)?;
        if offset.checked_add(len).is_none_or(|end| end > self.places.device.len) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (at, byte) in (offset..).zip(bytes) {
            let (bar, at) = Self::at(self.places.device, at);
            *byte = self.registers.read8(bar, at).unwrap_or(u8::MAX);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> Result<(), Error> {
        // The driver has nothing to write there.
        Err(Error::Unsupported)
    }
}
