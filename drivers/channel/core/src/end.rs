//! One end of a pipe: [`End`], a virtio console with one port (virtio 1.3, "Console Device").
//!
//! An end holds at most one chain of each queue. A chain that is being sent has an offset: how much
//! of it has left. A chain that is being filled has a length: how much of it is full. Invariant: a
//! chain that is held is in flight in the queue's present life; [`End::settle`] sees to that.

use cloister_guestmem::Ram;
use cloister_virtio::{Chain, Change, Device, Head, Offer, Rule, features};

/// Descriptors of each queue.
pub const QUEUE_SIZE: u16 = 16;
const QUEUE_LEN: usize = 16;

/// What each end offers: one port, whose size nobody knows, and no configuration.
pub const OFFER: Offer<'static> =
    Offer { features: features::RINGS, queue_size: QUEUE_SIZE, config: &[] };

/// `receiveq(port0)`: buffers for what the guest receives.
pub(crate) const RECEIVE: usize = 0;
/// `transmitq(port0)`: buffers that the guest sends.
pub(crate) const TRANSMIT: usize = 1;

/// A chain that is held.
struct Held {
    head: Head,
    /// Bytes that were copied.
    done: u64,
}

/// One end of a pipe.
pub(crate) struct End<'a, M> {
    pub(crate) device: Device<'a, M, 2>,
    sending: Option<Held>,
    sending_chain: Chain<QUEUE_LEN>,
    filling: Option<Held>,
    filling_chain: Chain<QUEUE_LEN>,
}

impl<'a, M: Ram> End<'a, M> {
    pub(crate) fn new(device: Device<'a, M, 2>) -> Self {
        let (sending_chain, filling_chain) = (Chain::default(), Chain::default());
        End { device, sending: None, sending_chain, filling: None, filling_chain }
    }

    /// Follows the monitor's orders; whether what was held is gone.
    pub(crate) fn follow(&mut self) -> Change {
        let change = self.device.follow();
        if change != Change::None {
            (self.sending, self.filling) = (None, None);
        }
        change
    }

    /// Lets go of chains whose queue has died.
    fn settle(&mut self) {
        if !self.device.is_live(TRANSMIT) {
            self.sending = None;
        }
        if !self.device.is_live(RECEIVE) {
            self.filling = None;
        }
    }

    /// Whether there is a message to send, and how much of it is left.
    pub(crate) fn outgoing(&mut self) -> Option<u64> {
        self.settle();
        if self.sending.is_none() {
            let head = self.device.fetch(TRANSMIT, &mut self.sending_chain)?;
            if self.sending_chain.writable_len() != 0 {
                self.device.fail(Rule::Direction);
                return None;
            }
            self.sending = Some(Held { head, done: 0 });
        }
        let done = self.sending.as_ref()?.done;
        Some(self.sending_chain.readable_len().saturating_sub(done))
    }

    /// Whether the message that is being sent has not begun to leave.
    pub(crate) fn is_at_start(&self) -> bool {
        self.sending.as_ref().is_some_and(|held| held.done == 0)
    }

    /// Whether there is a buffer to fill, and how much room is left in it.
    pub(crate) fn room(&mut self) -> Option<u64> {
        self.settle();
        if self.filling.is_none() {
            let head = self.device.fetch(RECEIVE, &mut self.filling_chain)?;
            if self.filling_chain.readable_len() != 0 {
                self.device.fail(Rule::Direction);
                return None;
            }
            self.filling = Some(Held { head, done: 0 });
        }
        let done = self.filling.as_ref()?.done;
        Some(self.filling_chain.writable_len().saturating_sub(done))
    }

    /// Copies the next bytes of the message out. How many; `None` if the device failed.
    pub(crate) fn send(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let held = self.sending.as_mut()?;
        let read = self.sending_chain.read(self.device.ram(), held.done, bytes);
        self.count(read, true)
    }

    /// Copies bytes to the guest. How many; `None` if the device failed.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> Option<usize> {
        let held = self.filling.as_mut()?;
        let written = self.filling_chain.write(self.device.ram(), held.done, bytes);
        self.count(written, false)
    }

    fn count(&mut self, copied: Result<usize, Rule>, sent: bool) -> Option<usize> {
        match copied {
            Ok(bytes) => {
                let held = if sent { self.sending.as_mut()? } else { self.filling.as_mut()? };
                held.done = held.done.saturating_add(u64::try_from(bytes).ok()?);
                Some(bytes)
            }
            Err(rule) => {
                self.device.fail(rule);
                None
            }
        }
    }

    /// Gives the message that was sent back to the guest.
    pub(crate) fn sent(&mut self) {
        if let Some(held) = self.sending.take() {
            self.device.complete(TRANSMIT, held.head, 0);
        }
    }

    /// Gives the buffer to the guest with what is in it.
    pub(crate) fn filled(&mut self) {
        if let Some(held) = self.filling.take() {
            let written = u32::try_from(held.done).unwrap_or(u32::MAX);
            self.device.complete(RECEIVE, held.head, written);
        }
    }

    /// Begins to fill the buffer anew: the message in it will never be whole.
    pub(crate) fn empty(&mut self) {
        if let Some(held) = &mut self.filling {
            held.done = 0;
        }
    }

    /// Whether a message waits to be sent; if none does, asks for the doorbell.
    pub(crate) fn waits_to_send(&mut self) -> bool {
        self.settle();
        self.sending.is_some() || self.device.listen(TRANSMIT)
    }

    /// Whether a buffer waits to be filled; if none does, asks for the doorbell.
    pub(crate) fn has_room(&mut self) -> bool {
        self.settle();
        self.filling.is_some() || self.device.listen(RECEIVE)
    }
}
