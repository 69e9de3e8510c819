//! Memory that a task and its devices share: the trait [`Memory`], and [`Region`], which is a piece
//! of it; and [`View`], which is a block of it that was looked up once.
//!
//! A device address is the task's own address (the region is mapped with `MAP_DMA`), so
//! [`Memory::address`] is all that a driver puts into a descriptor. The device writes whenever it
//! likes: there are copies only, by volatile accesses, and never a reference. What orders them is
//! [`publish`] before a doorbell and [`observe`] after a flag that the device set. Drivers' cores
//! take the trait, so that simulated devices drive them on the host; `lib/rt` makes the regions.
//!
//! Invariant: an access touches exactly the bytes it names, each once, or none at all.

#![cfg_attr(not(test), no_std)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod region;
mod view;
mod word;

use core::sync::atomic::{Ordering, fence};

pub use region::Region;
pub use view::{Group, LANE, LANES, Shelf, Spot, View};

/// What may be done with memory that a device reaches. Places are offsets in bytes. `None` is an
/// access that is not wholly inside, or not aligned to its size; nothing was touched then.
pub trait Memory {
    /// Bytes.
    fn len(&self) -> u64;

    /// The address of a place, for the device.
    fn address(&self, at: u64) -> u64;

    /// Loads an aligned value.
    fn load_u32(&self, at: u64) -> Option<u32>;

    /// Loads an aligned value.
    fn load_u64(&self, at: u64) -> Option<u64>;

    /// Stores an aligned value.
    fn store_u32(&self, at: u64, value: u32) -> Option<()>;

    /// Stores an aligned value.
    fn store_u64(&self, at: u64, value: u64) -> Option<()>;

    /// Copies bytes out.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Option<()>;

    /// Copies bytes in.
    fn write(&self, at: u64, bytes: &[u8]) -> Option<()>;

    /// So many groups from a place on, to be loaded and stored group by group. `None` if they are
    /// not wholly inside, if the place's address is no multiple of [`LANE`], or if the memory has no
    /// views: there are copies then.
    fn view<const GROUPS: usize>(&self, _: u64) -> Option<View<'_, GROUPS>> {
        None
    }

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills bytes with zeros; places and length are multiples of 8.
    fn clear(&self, at: u64, len: u64) -> Option<()> {
        let mut done = 0u64;
        while done < len {
            self.store_u64(at.checked_add(done)?, 0)?;
            done = done.checked_add(8)?;
        }
        Some(())
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn address(&self, at: u64) -> u64 {
        (**self).address(at)
    }

    fn load_u32(&self, at: u64) -> Option<u32> {
        (**self).load_u32(at)
    }

    fn load_u64(&self, at: u64) -> Option<u64> {
        (**self).load_u64(at)
    }

    fn store_u32(&self, at: u64, value: u32) -> Option<()> {
        (**self).store_u32(at, value)
    }

    fn store_u64(&self, at: u64, value: u64) -> Option<()> {
        (**self).store_u64(at, value)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Option<()> {
        (**self).read(at, bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        (**self).write(at, bytes)
    }

    fn view<const GROUPS: usize>(&self, at: u64) -> Option<View<'_, GROUPS>> {
        (**self).view(at)
    }
}

/// What was stored before is there for the device that is told of it afterwards.
pub fn publish() {
    fence(Ordering::Release);
}

/// What the device stored before the flag that was just loaded is there for the loads afterwards.
pub fn observe() {
    fence(Ordering::Acquire);
}
