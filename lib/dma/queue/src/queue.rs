//! A queue with its chains in flight: [`Queue`].
//!
//! Terms are those of virtio 1.3, "Split Virtqueues". What the device writes is the used ring; each
//! of its fields is looked at here before the crate looks at it. Invariant: see the crate.

use core::sync::atomic::{Ordering, fence};

use cloister_dma::{Memory, Region, observe};
use virtio_drivers::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::hand::{ANSWERS_MAX, Hand, Task};
use crate::lengths::{Lengths, Slices};

/// Entries of a queue; a buffer takes one.
pub const ENTRIES: usize = 128;
/// Most buffers of a chain.
pub const SEGMENTS_MAX: usize = ANSWERS_MAX;
/// Bits of a count of elements that say its place.
const PLACES: u16 = 127;
const _: () = assert!(ENTRIES == 128);
/// Bytes of a page.
const PAGE: u64 = 4096;
/// Pages of the rings: what the driver writes, and what the device writes.
const RINGS_PAGES: usize = 2;
/// Bytes of the rings.
pub const RINGS_BYTES: usize = RINGS_PAGES * 4096;
/// Where the used ring is, its elements in it, and bytes of an element.
const USED: u64 = PAGE;
const ELEMENTS: u64 = USED + 4;
const ELEMENT: u64 = 8;
/// Where the rings end.
const END: u64 = 2 * PAGE;

/// A buffer, at the address that the device uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its first byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// What a device did to its used ring that makes no sense. The queue is dead until it is opened
/// anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It used more chains than are in flight.
    TooMany {
        /// How many.
        count: u16,
    },
    /// It used a chain that is not in flight.
    NoSuchChain {
        /// What it said.
        id: u32,
    },
    /// It changed an element that it had given.
    Changed,
}

/// Why a chain was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too few entries now.
    Full,
    /// Its buffers are none, empty, too many or too long; or the queue is not open.
    Unfit,
}

/// A queue; its numbers of chains are good until they are taken.
pub struct Queue<'m> {
    memory: Region,
    lengths: Lengths<'m>,
    rings: Option<VirtQueue<Task, ENTRIES>>,
    /// Buffers of the chain that begins with each entry: read, and written.
    chains: [Option<(u8, u8)>; ENTRIES],
    in_flight: u16,
    /// Elements of the used ring that were taken; wraps.
    taken: u16,
}

impl<'m> Queue<'m> {
    /// A queue that is not open. `None` if the memory is too little or not aligned to a page.
    pub fn new(memory: Region, lengths: Lengths<'m>) -> Option<Queue<'m>> {
        let is_enough = usize::try_from(memory.len()).is_ok_and(|len| len >= RINGS_BYTES);
        let is_aligned = memory.address(0).is_multiple_of(PAGE);
        (is_enough && is_aligned).then_some(Queue {
            memory,
            lengths,
            rings: None,
            chains: [None; ENTRIES],
            in_flight: 0,
            taken: 0,
        })
    }

    /// Tells a device of the rings, which has to be reset: chains in flight are forgotten.
    pub fn open(&mut self, transport: &mut impl Transport, index: u16) -> Result<(), Error> {
        self.close();
        self.memory.clear(0, END).ok_or(Error::DmaError)?;
        let hand = Hand::take();
        // SAFETY: `new` saw that they are there and aligned, they were just cleared, and the rings
        // before these are gone. The region is this queue's, which looks at the used ring by
        // volatile loads in between and does nothing else with it.
        unsafe { hand.pages(self.memory.base(), RINGS_PAGES) };
        self.rings = Some(VirtQueue::new(transport, index, false, false)?);
        Ok(())
    }

    /// Forgets the rings and all chains.
    pub fn close(&mut self) {
        self.rings = None;
        (self.chains, self.in_flight, self.taken) = ([None; ENTRIES], 0, 0);
    }

    /// Adds a chain: buffers that the device reads, and those that it writes. Its number.
    pub fn add(&mut self, read: &[Segment], written: &[Segment]) -> Result<u16, Refused> {
        let rings = self.rings.as_mut().ok_or(Refused::Unfit)?;
        let mut slices = self.lengths.slices(read, written).ok_or(Refused::Unfit)?;
        let hand = Hand::take();
        let addresses = read.iter().chain(written).map(|segment| segment.address);
        hand.addresses(addresses).ok_or(Refused::Unfit)?;
        let (inputs, outputs) = slices.both();
        // SAFETY: the slices are of memory that lives as long as the queue, and that nobody reads
        // or writes; see `Lengths`.
        let added = unsafe { rings.add(inputs, outputs) };
        let head = added.map_err(|_| Refused::Full)?;
        let small = |count: usize| u8::try_from(count).map_err(|_| Refused::Unfit);
        let counts = (small(read.len())?, small(written.len())?);
        *self.chains.get_mut(usize::from(head)).ok_or(Refused::Unfit)? = Some(counts);
        self.in_flight = self.in_flight.wrapping_add(1);
        Ok(head)
    }

    /// Whether the device wants to be told of what was added.
    pub fn wants_notice(&self) -> bool {
        // The crate stores the ring's index and loads the device's wish with nothing between. A CPU
        // may load first, and a device that falls asleep meanwhile would never hear of the chain
        // ("Available Buffer Notification Suppression": a barrier before the flags are read).
        fence(Ordering::SeqCst);
        self.rings.as_ref().is_some_and(VirtQueue::should_notify)
    }

    /// The next chain that the device used, and how many bytes it says that it wrote.
    pub fn take(&mut self) -> Option<Result<(u16, u32), Fault>> {
        self.rings.as_ref()?;
        let count = self.count()?;
        if count == 0 {
            return None;
        }
        let found = self.take_one(count);
        if found.is_err() {
            self.rings = None;
        }
        Some(found)
    }

    /// Elements of the used ring that were not taken, as the device says.
    fn count(&self) -> Option<u16> {
        let [_, _, low, high] = self.memory.load_u32(USED)?.to_le_bytes();
        Some(u16::from_le_bytes([low, high]).wrapping_sub(self.taken))
    }

    fn take_one(&mut self, count: u16) -> Result<(u16, u32), Fault> {
        if count > self.in_flight {
            return Err(Fault::TooMany { count });
        }
        observe();
        let place = u64::from(self.taken & PLACES);
        let at = ELEMENTS.saturating_add(place.saturating_mul(ELEMENT));
        let id = self.memory.load_u32(at).ok_or(Fault::Changed)?;
        let unknown = Fault::NoSuchChain { id };
        let head = u16::try_from(id).map_err(|_| unknown)?;
        let chain = self.chains.get_mut(usize::from(head)).ok_or(unknown)?;
        let (read, written) = chain.take().ok_or(unknown)?;
        let counts = (usize::from(read), usize::from(written));
        let slices = self.lengths.returned(counts).ok_or(Fault::Changed)?;
        let Slices { read, mut written, counts } = slices;
        let inputs = read.get(..counts.0).unwrap_or_default();
        let outputs = written.get_mut(..counts.1).unwrap_or_default();
        let rings = self.rings.as_mut().ok_or(Fault::Changed)?;
        // SAFETY: the chain was added with so many buffers of either kind. Their bytes matter to
        // `Hal::unshare` alone, which does nothing with them. The crate reads the element again and
        // refuses if it is not the same chain.
        let popped = unsafe { rings.pop_used(head, inputs, outputs) };
        let len = popped.map_err(|_| Fault::Changed)?;
        self.in_flight = self.in_flight.wrapping_sub(1);
        self.taken = self.taken.wrapping_add(1);
        Ok((head, len))
    }
}
