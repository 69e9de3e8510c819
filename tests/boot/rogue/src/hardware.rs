//! What the controller's logic needs of the machine: registers, time, and memory at the address that
//! the judge says.

use cloister_dma::{Memory, Region};
use cloister_nvme_core::Pause;
use cloister_rt::{Duration, Instant, clock, sleep_until};

/// The registers of the controller.
pub struct Registers(pub cloister_rt::Registers);

impl cloister_nvme_core::Registers for Registers {
    fn read(&self, offset: u64) -> Option<u32> {
        self.0.read(offset)
    }

    fn write(&self, offset: u64, value: u32) -> Option<()> {
        self.0.write(offset, value)
    }
}

/// Time.
pub struct Clock;

impl Pause for Clock {
    fn now(&self) -> u64 {
        clock().duration(Instant::now().tsc()).as_nanos()
    }

    fn sleep(&self, ns: u64) {
        sleep_until(Instant::now() + Duration::from_nanos(ns));
    }
}

/// The task's memory, which is elsewhere for its device where no IOMMU translates.
#[derive(Clone, Copy)]
pub struct Shifted<'m> {
    /// The memory.
    pub region: &'m Region,
    /// What is added to its addresses.
    pub shift: u64,
}

impl Memory for Shifted<'_> {
    fn len(&self) -> u64 {
        self.region.len()
    }

    fn address(&self, at: u64) -> u64 {
        self.region.address(at).wrapping_add(self.shift)
    }

    fn load_u32(&self, at: u64) -> Option<u32> {
        self.region.load_u32(at)
    }

    fn load_u64(&self, at: u64) -> Option<u64> {
        self.region.load_u64(at)
    }

    fn store_u32(&self, at: u64, value: u32) -> Option<()> {
        self.region.store_u32(at, value)
    }

    fn store_u64(&self, at: u64, value: u64) -> Option<()> {
        self.region.store_u64(at, value)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Option<()> {
        self.region.read(at, bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        self.region.write(at, bytes)
    }
}
