//! A byte stream to another guest: a virtio console device with one port.
//!
//! Bytes leave through the transmit queue and come in through the receive queue, whose buffers the
//! device has all the time. Both queues interrupt vCPU 0, so waiting costs nothing. What comes
//! from the other guest is bytes and no more: their meaning is for the program to check.

use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::virtio::transport::IoTransport;
use crate::virtio::{Device, Failure, Memory};
use crate::{interrupts, memory, timer};

/// Buffers, and descriptors, of each queue.
const BUFFERS: usize = 16;
/// Bytes of a buffer.
const BUFFER: usize = memory::PAGE / BUFFERS;
/// The queue that the device fills (virtio 1.3, "Console Device", "Virtqueues").
const RECEIVE: u16 = 0;
/// The queue that the device empties.
const TRANSMIT: u16 = 1;

type Queue = VirtQueue<Memory, BUFFERS>;
type Buffer = &'static mut [u8];

/// The stream.
pub struct Channel {
    transport: IoTransport,
    receive: Queue,
    transmit: Queue,
    /// Buffers that the device may fill, by descriptor.
    incoming: [Option<Buffer>; BUFFERS],
    /// Buffers that the device may read, and how much of them, by descriptor.
    outgoing: [Option<(Buffer, usize)>; BUFFERS],
    /// Buffers that wait for something to send.
    free: [Option<Buffer>; BUFFERS],
    /// A buffer that the device has filled and that has not been read to its end.
    current: Option<(Buffer, Range<usize>)>,
}

impl Channel {
    /// Takes the device over; it interrupts vCPU 0 from now on.
    pub fn open(device: Device) -> Result<Self, Failure> {
        let mut transport = IoTransport::open(device)?;
        transport.negotiate(0)?;
        transport.interrupt_first_vcpu()?;
        let receive = Queue::new(&mut transport, RECEIVE, false, false)?;
        let transmit = Queue::new(&mut transport, TRANSMIT, false, false)?;
        transport.finish_init();
        transport.check()?;
        let mut channel = Self {
            transport,
            receive,
            transmit,
            incoming: [const { None }; BUFFERS],
            outgoing: [const { None }; BUFFERS],
            free: [const { None }; BUFFERS],
            current: None,
        };
        for buffer in memory::leak_pages(1).ok_or(Failure::NoMemory)?.chunks_exact_mut(BUFFER) {
            channel.give(buffer)?;
        }
        let buffers = memory::leak_pages(1).ok_or(Failure::NoMemory)?.chunks_exact_mut(BUFFER);
        for (slot, buffer) in channel.free.iter_mut().zip(buffers) {
            *slot = Some(buffer);
        }
        Ok(channel)
    }

    /// Gives the device a buffer to fill.
    fn give(&mut self, buffer: Buffer) -> Result<(), Failure> {
        // SAFETY: the buffer lives for ever and lies in `incoming` until `pop_used` returns it.
        let token = unsafe { self.receive.add(&[], &mut [&mut *buffer]) }?;
        if let Some(slot) = self.incoming.get_mut(usize::from(token)) {
            *slot = Some(buffer);
        }
        Self::kick(&self.receive, &mut self.transport, RECEIVE);
        Ok(())
    }

    /// Tells the device of new buffers, if it wants to be told.
    fn kick(queue: &Queue, transport: &mut IoTransport, number: u16) {
        // The device looks at the index again after it has allowed notifications; so must the
        // driver look at that after it has moved the index (virtio 1.3, "Available Buffer
        // Notification Suppression").
        fence(Ordering::SeqCst);
        if queue.should_notify() {
            transport.notify(number);
        }
    }

    /// Sends as many of the bytes as there is room for, and tells how many.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        self.reclaim()?;
        let mut sent = 0;
        for slot in &mut self.free {
            let rest = &bytes[sent..];
            let Some(buffer) = slot.take_if(|_| !rest.is_empty()) else {
                continue;
            };
            let len = rest.len().min(BUFFER);
            buffer[..len].copy_from_slice(&rest[..len]);
            // SAFETY: the buffer lives for ever and lies in `outgoing` until `pop_used` returns
            // it.
            let token = unsafe { self.transmit.add(&[&buffer[..len]], &mut []) }?;
            if let Some(slot) = self.outgoing.get_mut(usize::from(token)) {
                *slot = Some((buffer, len));
            }
            sent += len;
        }
        if sent > 0 {
            Self::kick(&self.transmit, &mut self.transport, TRANSMIT);
        }
        Ok(sent)
    }

    /// Takes back the buffers that the device has read; whether there was one.
    fn reclaim(&mut self) -> Result<bool, Failure> {
        let mut reclaimed = false;
        while let Some(token) = self.transmit.peek_used() {
            let place = self.outgoing.get_mut(usize::from(token)).and_then(Option::take);
            let (buffer, len) = place.ok_or(Failure::NeedsReset)?;
            // SAFETY: this is what was added under this token.
            unsafe { self.transmit.pop_used(token, &[&buffer[..len]], &mut []) }?;
            if let Some(slot) = self.free.iter_mut().find(|slot| slot.is_none()) {
                *slot = Some(buffer);
            }
            reclaimed = true;
        }
        Ok(reclaimed)
    }

    /// Takes bytes that have come in, and tells how many; 0 if there are none.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        if self.current.is_none() {
            self.current = self.next_filled()?;
        }
        let Some((buffer, rest)) = &mut self.current else {
            return Ok(0);
        };
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&buffer[rest.start..rest.start + len]);
        rest.start += len;
        if let Some((buffer, _)) = self.current.take_if(|(_, rest)| rest.start == rest.end) {
            self.give(buffer)?;
        }
        Ok(len)
    }

    fn next_filled(&mut self) -> Result<Option<(Buffer, Range<usize>)>, Failure> {
        let Some(token) = self.receive.peek_used() else {
            return Ok(None);
        };
        let place = self.incoming.get_mut(usize::from(token)).and_then(Option::take);
        let buffer = place.ok_or(Failure::NeedsReset)?;
        // SAFETY: this is what was added under this token.
        let len = unsafe { self.receive.pop_used(token, &[], &mut [&mut *buffer]) }?;
        // A device that claims to have written more than there is room for is broken.
        let len = usize::try_from(len).ok().filter(|&len| len <= BUFFER);
        Ok(Some((buffer, 0..len.ok_or(Failure::NeedsReset)?)))
    }

    /// Waits, asleep, until something has come in or something has been sent, which makes room.
    /// Interrupts are on afterwards.
    pub fn wait(&mut self) -> Result<(), Failure> {
        if !self.moves()? {
            interrupts::wait_until(|| self.receive.can_pop() || self.transmit.can_pop());
        }
        Ok(())
    }

    /// The same, but no longer than until the TSC has reached `end`; false if that came first.
    pub fn wait_until(&mut self, end: u64) -> Result<bool, Failure> {
        if self.moves()? {
            return Ok(true);
        }
        Ok(timer::wait_until(end, || self.receive.can_pop() || self.transmit.can_pop()))
    }

    /// Waits, asleep, until the device has taken everything that was sent, or the TSC has reached
    /// `end`: then false.
    pub fn flush_until(&mut self, end: u64) -> Result<bool, Failure> {
        loop {
            self.reclaim()?;
            if self.outgoing.iter().all(Option::is_none) {
                return Ok(true);
            }
            if !timer::wait_until(end, || self.transmit.can_pop()) {
                return Ok(false);
            }
        }
    }

    /// Something has come in, or something that was sent has not been noticed yet.
    fn moves(&mut self) -> Result<bool, Failure> {
        let reclaimed = self.reclaim()?;
        Ok(reclaimed || self.current.is_some() || self.receive.can_pop())
    }

    /// Nothing, or why the device cannot go on.
    pub fn check(&self) -> Result<(), Failure> {
        self.transport.check()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The rings' memory is given back after this; the device must have let go of it.
        self.transport.reset();
    }
}
