//! Random bytes from a virtio entropy device.

use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::virtio::transport::IoTransport;
use crate::virtio::{Device, Failure, Memory};
use crate::{interrupts, memory};

/// The only queue (virtio 1.3, "Entropy Device", "Virtqueues").
const REQUESTS: u16 = 0;
/// Descriptors of the queue.
const SIZE: usize = 4;

/// The device.
pub struct Entropy {
    transport: IoTransport,
    queue: VirtQueue<Memory, SIZE>,
    buffer: &'static mut [u8],
}

impl Entropy {
    /// Takes the device over; it interrupts vCPU 0 from now on.
    pub fn open(device: Device) -> Result<Self, Failure> {
        let mut transport = IoTransport::open(device)?;
        transport.negotiate(0)?;
        transport.interrupt_first_vcpu()?;
        let queue = VirtQueue::new(&mut transport, REQUESTS, false, false)?;
        transport.finish_init();
        transport.check()?;
        let buffer = memory::leak_pages(1).ok_or(Failure::NoMemory)?;
        Ok(Self { transport, queue, buffer })
    }

    /// Fills the bytes; asleep while the device works. Interrupts are on afterwards.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        while filled < bytes.len() {
            let rest = &mut bytes[filled..];
            let wanted = rest.len().min(self.buffer.len());
            let got = self.request(wanted)?;
            rest[..got].copy_from_slice(&self.buffer[..got]);
            filled += got;
        }
        Ok(())
    }

    /// Has the device write at most so many bytes into the buffer, and tells how many it wrote.
    fn request(&mut self, wanted: usize) -> Result<usize, Failure> {
        // SAFETY: the buffer lives for ever and is not touched until `pop_used` below.
        let token = unsafe { self.queue.add(&[], &mut [&mut self.buffer[..wanted]]) }?;
        // As in `Channel::kick`.
        fence(Ordering::SeqCst);
        if self.queue.should_notify() {
            self.transport.notify(REQUESTS);
        }
        interrupts::wait_until(|| self.queue.can_pop());
        // SAFETY: this is what was added under this token.
        let len = unsafe { self.queue.pop_used(token, &[], &mut [&mut self.buffer[..wanted]]) }?;
        // "The device MUST place one or more random bytes into the buffer"; none would never end.
        usize::try_from(len)
            .ok()
            .filter(|len| (1..=wanted).contains(len))
            .ok_or(Failure::NeedsReset)
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        // As for a channel.
        self.transport.reset();
    }
}
