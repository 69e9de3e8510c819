//! The virtio devices of a virtual machine on their bus: everything that ports, MSI-X pages and
//! workers' signals lead to.
//!
//! [`Devices`] belongs to thread 0 and joins what belongs together: a function's configuration
//! (`pci`), its vectors (`msix`) and its transport (`virtio`). What is to be done outside comes out
//! as [`Effect`]s. Neighbour: `bus` calls it and delivers.
//!
//! Invariant: a function that is switched off in its command register neither answers at its BAR
//! nor sends messages; what it has to say meanwhile is pending.

use crate::apic::Message;
use crate::msix::Msix;
use crate::num::{index, low16};
use crate::pci::{self, Function, WINDOW_DATA, mask};
use crate::sync::AtomicU64;
use crate::virtio::{Action, Virtio, VirtioError};
use cloister_guest_abi::pci::FIRST_SLOT;
use cloister_guest_abi::platform;
use cloister_proto::vm::{MAX_VM_DEVICES, VmDevice};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Deliver an interrupt.
    Interrupt(Message),
    /// Signal the worker of this device.
    Signal(usize),
}

/// Why a device cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// There is no place for another one.
    Full,
    /// Its transport cannot be.
    Virtio(VirtioError),
    /// Its MSI-X page has so many words, fewer than a page.
    Page(usize),
}

/// Where effects go.
pub type Out<'o> = &'o mut dyn FnMut(Effect);

#[derive(Debug)]
struct Device<'a> {
    function: Function,
    virtio: Virtio<'a>,
    msix: Msix<'a>,
}

/// The devices and their bus.
#[derive(Debug)]
pub struct Devices<'a> {
    /// The configuration address.
    latch: u32,
    bridge: Function,
    devices: [Option<Device<'a>>; MAX_VM_DEVICES],
}

impl<'a> Devices<'a> {
    /// A bus without devices.
    #[expect(clippy::new_without_default, reason = "nobody needs one by default")]
    pub fn new() -> Devices<'a> {
        let devices = [const { None }; MAX_VM_DEVICES];
        Devices { latch: 0, bridge: Function::bridge(), devices }
    }

    /// Adds device `number`: `words` are shared with its worker, `page` is its MSI-X page, `memory`
    /// the guest's RAM. Its worker is to be signalled.
    pub fn add(
        &mut self,
        number: usize,
        device: &VmDevice,
        words: &'a [AtomicU64],
        page: &'a [AtomicU64],
        memory: u64,
    ) -> Result<(), DeviceError> {
        let place = self.devices.get_mut(number).ok_or(DeviceError::Full)?;
        let virtio = Virtio::new(words, device.queues, memory).map_err(DeviceError::Virtio)?;
        let msix = Msix::new(page, virtio.vectors()).ok_or(DeviceError::Page(page.len()))?;
        let slot = u16::try_from(number).map_err(|_| DeviceError::Full)?;
        let function = Function::virtio(slot, device.kind, virtio.vectors());
        *place = Some(Device { function, virtio, msix });
        Ok(())
    }

    /// The first device whose worker has not answered the newest reset.
    pub fn unready(&mut self) -> Option<usize> {
        let mut places = self.devices.iter_mut();
        places.position(|place| place.as_mut().is_some_and(|device| !device.virtio.is_ready()))
    }

    /// The worker of a device has signalled.
    pub fn poll(&mut self, number: usize, out: Out) {
        if let Some(device) = self.device(number) {
            let action = device.virtio.poll(device.msix.is_enabled());
            device.apply(number, action, out);
        }
    }

    /// The same if all that it tells is a completion, and all that comes of that an interrupt of
    /// virtual CPU 0: its vector. Otherwise nothing has happened.
    #[inline(always)]
    pub fn completion(&mut self, number: usize) -> Option<u8> {
        let Device { virtio, msix, .. } = self.device(number)?;
        let pending = virtio.take_completions()?;
        let own = virtio.completion(pending).and_then(|vector| msix.own(vector));
        if own.is_none() {
            virtio.put_back(pending);
        }
        own
    }

    /// Reads the port of a BAR or of the configuration; `None` if the port is neither.
    pub fn read(&mut self, port: u16, width: u8) -> Option<u32> {
        match port & !3 {
            platform::PCI_ADDRESS if port & 3 == 0 && width == 4 => Some(self.latch),
            platform::PCI_ADDRESS => Some(mask(width)),
            platform::PCI_DATA => Some(self.read_configuration(port, width).unwrap_or(mask(width))),
            _ => self.at_bar(port).map(|(_, offset, device)| device.virtio.read(offset, width)),
        }
    }

    /// Writes the port of a BAR or of the configuration. Whether the port is one of them.
    pub fn write(&mut self, port: u16, width: u8, value: u32, out: Out) -> bool {
        match port & !3 {
            // The address takes whole writes only.
            platform::PCI_ADDRESS if port & 3 == 0 && width == 4 => self.latch = value & pci::LATCH,
            platform::PCI_ADDRESS => {}
            platform::PCI_DATA => self.write_configuration(port, width, value, out),
            _ => {
                let Some((number, offset, device)) = self.at_bar(port) else { return false };
                let action = device.virtio.write(offset, width, value);
                device.apply(number, action, out);
            }
        }
        true
    }

    /// The 16 bytes of an MSI-X page that a guest-physical address lies in; `None` if there is no
    /// such page.
    pub fn read_page(&self, address: u64) -> Option<[u64; 2]> {
        let (number, offset) = page(address)?;
        Some(self.devices.get(number)?.as_ref()?.msix.read(offset))
    }

    /// The guest has stored into the 16 bytes of an MSI-X page. Whether there is such a page.
    pub fn write_page(&mut self, address: u64, values: [u64; 2], out: Out) -> bool {
        let Some((number, offset)) = page(address) else { return false };
        let Some(device) = self.device(number) else { return false };
        device.msix.write(offset, values, &mut |message| out(Effect::Interrupt(message)));
        true
    }

    #[inline(always)]
    fn device(&mut self, number: usize) -> Option<&mut Device<'a>> {
        self.devices.get_mut(number)?.as_mut()
    }

    /// Which device answers at a port, and where in its I/O BAR the port is.
    fn at_bar(&mut self, port: u16) -> Option<(usize, u16, &mut Device<'a>)> {
        let at = port.checked_sub(platform::VIRTIO)?;
        let number = usize::from(at / platform::VIRTIO_LEN);
        let device = self.device(number).filter(|device| device.function.is_io_enabled())?;
        Some((number, at % platform::VIRTIO_LEN, device))
    }

    fn read_configuration(&mut self, port: u16, width: u8) -> Option<u32> {
        let place = pci::place(self.latch, port, width)?;
        let Some(number) = place.slot.checked_sub(usize::from(FIRST_SLOT)) else {
            return Some(self.bridge.read(place));
        };
        let Device { function, virtio, .. } = self.device(number)?;
        if let Some((offset, width)) = function.window().filter(|_| place.register == WINDOW_DATA) {
            // Looking at the data register reads through the window.
            *function.window_data() = virtio.read(offset, width);
        }
        function.show_interrupt(virtio.has_interrupt());
        Some(function.read(place))
    }

    fn write_configuration(&mut self, port: u16, width: u8, value: u32, out: Out) {
        let Some(place) = pci::place(self.latch, port, width) else { return };
        // Nothing of the bridge, which has a lower slot, can be written.
        let number = place.slot.wrapping_sub(usize::from(FIRST_SLOT));
        let Some(device) = self.device(number) else { return };
        device.function.write(place, value);
        let (enabled, masked) = device.function.msix();
        device.msix.set_control(enabled, masked, &mut |message| out(Effect::Interrupt(message)));
        let window = device.function.window().filter(|_| place.register == WINDOW_DATA);
        if let Some((offset, width)) = window {
            let data = *device.function.window_data();
            let action = device.virtio.write(offset, width, data);
            device.apply(number, action, out);
        }
    }
}

impl Device<'_> {
    fn apply(&mut self, number: usize, action: Action, out: Out) {
        if action.forget {
            self.msix.forget();
        }
        self.msix.raise(action.vectors, &mut |message| out(Effect::Interrupt(message)));
        if action.signal {
            out(Effect::Signal(number));
        }
    }
}

/// Which device's MSI-X page an address is in, and where.
fn page(address: u64) -> Option<(usize, u16)> {
    let at = address.checked_sub(platform::MSIX)?;
    Some((index(at >> 12), low16(at & 0xfff)))
}
