//! What the simulated controllers of disk drivers share, for the host tests of these drivers.
//!
//! A [`Machine`] is a simulated controller that reaches two pieces of memory: the driver's
//! ([`DriverMemory`]) and its clients'. [`Clock`] is time that passes while somebody sleeps; the rest
//! is what a test says to a driver. Invariant: an access of the controller outside of both pieces
//! ends the test.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::as_conversions)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cloister_block::{Command, Controller, Disk, Operation, Outcome, Pause, Segment, Tag};
use cloister_dma::Memory;

/// Where the driver's memory is for the controller.
pub const OWN: u64 = 0x10_0000;
/// Where clients' memory is.
pub const CLIENTS: u64 = 0x100_0000;

/// A simulated controller.
pub trait Machine {
    /// The driver's memory.
    fn own(&mut self) -> &mut Vec<u8>;

    /// The clients' memory.
    fn clients(&mut self) -> &mut Vec<u8>;

    /// What the controller reaches at an address.
    ///
    /// # Panics
    /// If that is nobody's memory.
    fn memory(&mut self, address: u64, len: usize) -> &mut [u8] {
        let (memory, first) =
            if address >= CLIENTS { (self.clients(), CLIENTS) } else { (self.own(), OWN) };
        let at = address.checked_sub(first).expect("DMA below all memory");
        slice(memory, at, len).expect("DMA outside")
    }
}

fn slice(memory: &mut [u8], at: u64, len: usize) -> Option<&mut [u8]> {
    memory.get_mut(usize::try_from(at).ok()?..)?.get_mut(..len)
}

/// The driver's view of its memory.
pub struct DriverMemory<M>(Rc<RefCell<M>>);

impl<M: Machine> DriverMemory<M> {
    /// Of this machine.
    pub fn of(machine: &Rc<RefCell<M>>) -> DriverMemory<M> {
        DriverMemory(Rc::clone(machine))
    }

    fn with<T>(&self, at: u64, len: usize, work: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
        slice(self.0.borrow_mut().own(), at, len).map(work)
    }

    fn get<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.with(at, N, |bytes| <[u8; N]>::try_from(&*bytes).ok())?
    }
}

impl<M: Machine> Memory for DriverMemory<M> {
    fn len(&self) -> u64 {
        u64::try_from(self.0.borrow_mut().own().len()).unwrap_or(u64::MAX)
    }

    fn address(&self, at: u64) -> u64 {
        OWN.wrapping_add(at)
    }

    fn load_u32(&self, at: u64) -> Option<u32> {
        self.get(at).map(u32::from_le_bytes)
    }

    fn load_u64(&self, at: u64) -> Option<u64> {
        self.get(at).map(u64::from_le_bytes)
    }

    fn store_u32(&self, at: u64, value: u32) -> Option<()> {
        self.write(at, &value.to_le_bytes())
    }

    fn store_u64(&self, at: u64, value: u64) -> Option<()> {
        self.write(at, &value.to_le_bytes())
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Option<()> {
        self.with(at, to.len(), |bytes| to.copy_from_slice(bytes))
    }

    fn write(&self, at: u64, from: &[u8]) -> Option<()> {
        self.with(at, from.len(), |bytes| bytes.copy_from_slice(from))
    }
}

/// Time that passes when somebody sleeps.
#[derive(Default)]
pub struct Clock(Cell<u64>);

impl Pause for Clock {
    fn now(&self) -> u64 {
        self.0.get()
    }

    fn sleep(&self, ns: u64) {
        assert!(ns > 0, "a sleep that makes no progress");
        self.0.set(self.0.get().saturating_add(ns));
    }
}

/// Stops a controller and starts it, on a clock of its own.
pub fn restart<C: Controller>(driver: &mut C) -> Result<(), C::Failure> {
    driver.stop(&Clock::default())?;
    driver.start(&Clock::default())
}

/// The tag of a slot, whose client is one of four.
pub fn tag(slot: u8) -> Tag {
    Tag { slot, generation: 3, client: slot % 4 }
}

/// A command.
pub fn command(operation: Operation, block: u64, blocks: u32, segments: &[Segment]) -> Command<'_> {
    Command { operation, block, blocks, segments }
}

/// A piece of clients' memory.
pub fn at(place: u64, len: u64) -> Segment {
    Segment { address: CLIENTS.wrapping_add(place), len }
}

/// All commands that have ended.
pub fn all(driver: &mut impl Disk) -> Vec<(Tag, Outcome)> {
    std::iter::from_fn(|| driver.poll()).collect()
}
