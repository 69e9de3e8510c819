//! A ring of either layout: [`Ring`], and what both have in common.

use cloister_guest_abi::disk::features;

use crate::area::Area;
use crate::packed::Packed;
use crate::queue::Broken;
use crate::request::Piece;
use crate::split::Split;

/// Most descriptors.
pub(crate) const SIZE_MAX: usize = 128;

/// Flags of a descriptor (virtio 1.3, "The Virtqueue Descriptor Table").
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// How a ring lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Descriptors, available ring, used ring (virtio 1.3, "Split Virtqueues").
    Split,
    /// One ring of descriptors (virtio 1.3, "Packed Virtqueues").
    Packed,
}

/// How a queue is worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the ring lies in memory.
    pub layout: Layout,
    /// Each request has a table of its own and takes one descriptor.
    pub is_indirect: bool,
    /// Doorbells and interrupts are asked for by index.
    pub has_event_idx: bool,
    /// Most bytes of a buffer of data.
    pub cut: u32,
}

impl Options {
    /// The options that fit the features which were agreed on.
    pub fn of(accepted: u64, cut: u32) -> Self {
        let is_packed = accepted & features::RING_PACKED != 0;
        Self {
            layout: if is_packed { Layout::Packed } else { Layout::Split },
            is_indirect: accepted & features::INDIRECT != 0,
            has_event_idx: accepted & features::EVENT_IDX != 0,
            cut,
        }
    }
}

/// How many descriptors a request in flight has; 0 if it is not in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight {
    pub count: u16,
}

/// A ring.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once, where it stays; there is no heap")]
pub(crate) enum Ring<'m> {
    Split(Split<'m>),
    Packed(Packed<'m>),
}

impl<'m> Ring<'m> {
    pub fn new(area: Area<'m>, size: u16, options: &Options) -> Self {
        match options.layout {
            Layout::Split => Self::Split(Split::new(area, size, options.has_event_idx)),
            Layout::Packed => Self::Packed(Packed::new(area, size, options.has_event_idx)),
        }
    }

    /// Where descriptors, driver area and device area are.
    pub fn areas(&self) -> [u64; 3] {
        match self {
            Self::Split(ring) => ring.areas(),
            Self::Packed(ring) => ring.areas(),
        }
    }

    /// Makes a chain available under a number; false if there are too few descriptors.
    pub fn put(&mut self, id: u16, pieces: &[Piece], table: Option<Area<'m>>) -> bool {
        match self {
            Self::Split(ring) => ring.put(id, pieces, table),
            Self::Packed(ring) => ring.put(id, pieces, table),
        }
    }

    /// Whether the device wants the doorbell for what was made available since the last call.
    pub fn must_ring(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.must_ring(),
            Self::Packed(ring) => ring.must_ring(),
        }
    }

    /// The next chain that was used: its number, and bytes written.
    pub fn take(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        match self {
            Self::Split(ring) => ring.take(),
            Self::Packed(ring) => ring.take(),
        }
    }

    /// Whether there is one.
    pub fn has_used(&self) -> bool {
        match self {
            Self::Split(ring) => ring.has_used(),
            Self::Packed(ring) => ring.has_used(),
        }
    }

    /// Asks for an interrupt for the next chain that is used; whether there is one already.
    pub fn listen(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.listen(),
            Self::Packed(ring) => ring.listen(),
        }
    }

    /// Asks for no interrupts.
    pub fn hush(&mut self) {
        match self {
            Self::Split(ring) => ring.hush(),
            Self::Packed(ring) => ring.hush(),
        }
    }
}

/// Whether an index that counts up to `new`, from `old` on, has passed the one that the other side
/// wants to hear of (virtio 1.3, "Available Buffer Notification Suppression").
pub(crate) fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
