//! The driver on top of the simulated device.

use cloister_block::{Busy, Disk, Operation, Segment, Tag};
pub use cloister_block_testing::{all, command, restart, tag};
use cloister_dma::{Memory, Region};
use cloister_virtio_blk_core::{Controller, Failure, LENGTHS_BYTES};

use super::{CLIENTS, Model, Sim};

pub type Driver = Controller<'static, Sim>;

/// Memory that is leaked: a test ends soon.
pub fn made(model: Model) -> (Sim, Result<Driver, Failure>, &'static Region) {
    let (sim, region) = Sim::new(model);
    let (rings, memory) = region.split(Driver::RINGS_BYTES).unwrap();
    let memory: &'static Region = Box::leak(Box::new(memory));
    let lengths = Box::leak(vec![0; LENGTHS_BYTES].into_boxed_slice());
    let driver = Controller::new(sim.clone(), rings, memory, lengths);
    (sim, driver, memory)
}

pub fn up(model: Model) -> (Sim, Driver) {
    let (sim, driver, _) = made(model);
    let mut driver = driver.unwrap();
    restart(&mut driver).unwrap();
    (sim, driver)
}

pub fn fails(model: Model) -> Failure {
    let (_, driver, _) = made(model);
    driver.and_then(|mut driver| restart(&mut driver)).unwrap_err()
}

/// A piece of clients' memory.
pub fn at(sim: &Sim, place: u64, len: u64) -> Segment {
    Segment { address: sim.0.borrow().memory.address(CLIENTS + place), len }
}

/// A read of one block for that tag.
pub fn read(sim: &Sim, driver: &mut Driver, tag: Tag) -> Result<(), Busy> {
    let block = u64::from(tag.slot);
    driver.submit(tag, &command(Operation::Read, block, 1, &[at(sim, block * 4096, 512)]))
}

pub fn client_bytes(sim: &Sim, place: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    sim.0.borrow().memory.read(CLIENTS + place, &mut bytes).unwrap();
    bytes
}
