//! The requests that a broker has in hand: [`Table`].
//!
//! [`Entry`] is a request of the guest until it ends in its ring, [`Part`] what one slot of the
//! window carries of it. Invariant: an entry is not free while it has parts in flight.

use cloister_guest_abi::disk::SEGMENTS;
use cloister_virtio::block::{Data, Kind, Request, Status};
use cloister_virtio::{Chain, Head};

use crate::ring::SLOTS;
use crate::units::Run;

/// Buffers of a chain: the data, a header and a status. `guest-abi` says so to the guest.
pub(crate) const CHAIN_MAX: usize = 34;
const _: () = assert!(SEGMENTS == 32);

/// A request of the guest.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) queue: usize,
    pub(crate) head: Option<Head>,
    pub(crate) chain: Chain<CHAIN_MAX>,
    pub(crate) wanted: Request,
    /// Bytes of the data that are in a part, or that were.
    pub(crate) sent: u64,
    /// Parts in flight.
    pub(crate) parts: u32,
    /// The worst end of a part.
    pub(crate) outcome: Status,
}

impl Entry {
    fn new() -> Entry {
        let data = Data { offset: 0, len: 0, is_written: false };
        Entry {
            queue: 0,
            head: None,
            chain: Chain::default(),
            wanted: Request { kind: Kind::Flush, block: 0, count: 0, data },
            sent: 0,
            parts: 0,
            outcome: Status::Ok,
        }
    }

    /// Whether no part is left to be made.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent >= self.wanted.data.len || self.outcome != Status::Ok
    }
}

/// What a slot of the window carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// The entry that it is of.
    pub(crate) entry: usize,
    pub(crate) run: Run,
    /// Which bytes of the data.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// All requests, as many as the window has slots.
#[derive(Debug)]
pub struct Table {
    pub(crate) entries: [Entry; SLOTS],
    pub(crate) parts: [Part; SLOTS],
    /// Entries that are free, a bit each.
    free: u64,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            entries: core::array::from_fn(|_| Entry::new()),
            parts: [Part { entry: 0, run: Run::NONE, offset: 0, len: 0 }; SLOTS],
            free: ALL,
        }
    }
}

/// All entries.
const ALL: u64 = (1 << SLOTS) - 1;

impl Table {
    /// An entry that is free.
    pub(crate) fn vacant(&self) -> Option<usize> {
        let entry = usize::try_from(self.free.trailing_zeros()).ok()?;
        (entry < SLOTS).then_some(entry)
    }

    pub(crate) fn claim(&mut self, entry: usize) {
        self.free &= !bit(entry);
    }

    pub(crate) fn release(&mut self, entry: usize) {
        self.free |= bit(entry);
    }

    /// Forgets all requests.
    pub(crate) fn clear(&mut self) {
        self.free = ALL;
        for entry in &mut self.entries {
            (entry.head, entry.parts) = (None, 0);
        }
    }
}

fn bit(entry: usize) -> u64 {
    u32::try_from(entry).ok().and_then(|entry| 1u64.checked_shl(entry)).unwrap_or(0)
}
