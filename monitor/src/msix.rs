//! The MSI-X table of one device, in a page that the guest reads by itself.
//!
//! [`Msix`] is the only writer of the page. The guest's own stores are stepped and arrive here one
//! by one, on thread 0, which is also where workers' signals arrive; so mask, pending and
//! delivery never race (docs/notes/0007-msix.md). Neighbours: `pci` holds the capability's two
//! control bits, `devices` passes them on, `bus` delivers the [`Message`]s.
//!
//! Invariant (PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures"): a vector
//! that is raised while it may not send is pending, and is sent exactly once when it may.

use crate::apic::{Destination, Kind, Message};
use crate::num::{index, low8, low32};
use crate::sync::{AtomicU64, Ordering};
use cloister_guest_abi::platform;

/// Words of the page.
pub const PAGE_WORDS: usize = 512;
/// Most vectors of a device: one word of pending bits.
pub const VECTORS_MAX: u16 = 64;
/// The word of pending bits.
const PENDING: usize = index(platform::MSIX_PENDING / 8);
/// The mask bit in the second word of an entry: vector control is its upper half.
const MASKED: u64 = 1 << 32;
/// What software can change in the two words: an address of a DWORD, data and the mask bit.
const WRITABLE: [u64; 2] = [!3, 0xffff_ffff | MASKED];

/// The table and the state of its capability.
#[derive(Debug)]
pub struct Msix<'a> {
    page: &'a [AtomicU64; PAGE_WORDS],
    vectors: u16,
    /// Message control: vectors send messages; the device's own interrupt pin is off.
    enabled: bool,
    /// They may: there is no function mask, and the function may write to memory.
    sends: bool,
}

impl<'a> Msix<'a> {
    /// Takes the page over and puts it into the state after reset: every vector masked.
    /// `None` if there is less than a page, or there are more vectors than [`VECTORS_MAX`].
    pub fn new(page: &'a [AtomicU64], vectors: u16) -> Option<Msix<'a>> {
        let page = page.first_chunk::<PAGE_WORDS>()?;
        if vectors > VECTORS_MAX {
            return None;
        }
        // The second word of each vector's entry, and of none behind the table.
        for (at, word) in page.iter().enumerate() {
            let is_control = at & 1 != 0 && at >> 1 < usize::from(vectors);
            word.store(if is_control { MASKED } else { 0 }, Ordering::Relaxed);
        }
        Some(Msix { page, vectors, enabled: false, sends: false })
    }

    /// Whether vectors send messages at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The 16 bytes of the page that an offset lies in.
    pub fn read(&self, offset: u16) -> [u64; 2] {
        let first = usize::from(offset >> 4).wrapping_mul(2);
        let word = |at: usize| self.page.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
        [word(first), word(first | 1)]
    }

    /// The guest has changed the 16 bytes that an offset lies in. What it may not change stays.
    pub fn write(&mut self, offset: u16, values: [u64; 2], send: &mut dyn FnMut(Message)) {
        let vector = offset >> 4;
        let Some(entry) = self.entry(vector) else { return };
        for ((word, value), writable) in entry.iter().zip(values).zip(WRITABLE) {
            word.store(value & writable, Ordering::Relaxed);
        }
        self.send_pending(1u64.unbounded_shl(u32::from(vector)), send);
    }

    /// The guest has changed the capability's control bits.
    pub fn set_control(&mut self, enabled: bool, masked: bool, send: &mut dyn FnMut(Message)) {
        (self.enabled, self.sends) = (enabled, enabled && !masked);
        self.send_pending(u64::MAX, send);
    }

    /// The interrupt vector, if this one may send at once and its message is a fixed, edge-triggered
    /// interrupt of the local APIC with the id 0: the address then has no other bit. That is what a
    /// completion mostly is; for everything else there is [`Msix::raise`].
    #[inline(always)]
    pub fn own(&self, vector: u16) -> Option<u8> {
        let [address, data] = self.entry(vector).filter(|_| self.sends)?;
        let is_own = address.load(Ordering::Relaxed) == platform::MSI.start;
        u8::try_from(data.load(Ordering::Relaxed)).ok().filter(|_| is_own)
    }

    /// The device has something to say by these vectors.
    pub fn raise(&mut self, vectors: u64, send: &mut dyn FnMut(Message)) {
        if !self.enabled || vectors == 0 {
            return;
        }
        let known = 1u64.unbounded_shl(u32::from(self.vectors)).wrapping_sub(1);
        let pending = self.pending() | vectors & known;
        self.set_pending(pending);
        self.send_pending(vectors, send);
    }

    /// The device was reset: what it had to say concerns nobody any more.
    pub fn forget(&mut self) {
        self.set_pending(0);
    }

    /// Sends those of `vectors` that are pending and may send.
    fn send_pending(&mut self, vectors: u64, send: &mut dyn FnMut(Message)) {
        if !self.sends {
            return;
        }
        let mut left = self.pending() & vectors;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left &= !bit;
            let vector = u16::try_from(bit.trailing_zeros()).unwrap_or(u16::MAX);
            let Some(entry) = self.entry(vector) else { continue };
            let [address, data] = entry.each_ref().map(|word| word.load(Ordering::Relaxed));
            if data & MASKED == 0 {
                self.set_pending(self.pending() & !bit);
                decode(address, low32(data)).into_iter().for_each(&mut *send);
            }
        }
    }

    #[inline(always)]
    fn entry(&self, vector: u16) -> Option<&'a [AtomicU64; 2]> {
        let (entries, _) = self.page.as_chunks::<2>();
        entries.get(usize::from(vector)).filter(|_| vector < self.vectors)
    }

    fn pending(&self) -> u64 {
        self.page[PENDING].load(Ordering::Relaxed)
    }

    /// A guest that sees a bit here may look at what the worker wrote before it raised the vector.
    fn set_pending(&self, bits: u64) {
        self.page[PENDING].store(bits, Ordering::Release);
    }
}

/// The interrupt message that a write of `data` to `address` is (Intel SDM, "Message Address
/// Register Format" and "Message Data Register Format"). `None` for other addresses and reserved
/// delivery modes: such a write goes nowhere.
pub fn decode(address: u64, data: u32) -> Option<Message> {
    if !platform::MSI.contains(&address) {
        return None;
    }
    let is_logical = address & 1 << 2 != 0;
    let kind = Kind::from_mode(data >> 8, low8(u64::from(data)))?;
    let destination = Destination::from_byte(low8(address >> 12), is_logical);
    Some(Message { destination, kind, is_level: data & 1 << 15 != 0 })
}
