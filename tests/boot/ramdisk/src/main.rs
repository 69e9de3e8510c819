//! Test task: a disk in the task's own memory, behind one virtio block device.
//!
//! It is what the guest's side of a disk is tested with where no controller is: monitor, rings and
//! requests are those of every disk ([`cloister_virtio`]), only the blocks are bytes here. Requests
//! are held back and completed the newest first, so a guest that counts on their order is found. With
//! `numbers = { lose = 100 }` every 100th write is completed and not made, which a guest has to find; with
//! `late = 1` the last read is made once more after a reset was answered, which no device may do.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod blocks;
mod held;

use blocks::{BLOCKS, Blocks};
use cloister_guest_abi::disk;
use cloister_guestmem::GuestMemory;
use cloister_rt::{Bits, Deadline, DeviceExport, Duration, grants, wait};
use cloister_virtio::block::Shape;
use cloister_virtio::{Chain, Change, Device, Offer, Worker, features};
use held::{Buffers, Held};

cloister_rt::entry!(main);

/// Exit statuses: no guest has the disk; its page is too small.
const STATUS_NO_CLIENT: u32 = 1;
const STATUS_TOO_SMALL: u32 = 2;

/// Exit status: the manifest wants it to die, with whatever is in flight.
const STATUS_DEAD: u32 = 3;

/// How late that is: the guest has seen the reset by then.
const LATE: Duration = Duration::from_millis(2);
const QUEUES: usize = disk::QUEUES as usize;

/// What the disk looks like to its guest.
const SHAPE: Shape = Shape {
    blocks: BLOCKS,
    block_size: disk::BLOCK as u32,
    size_max: 0,
    seg_max: disk::SEGMENTS,
    has_topology: false,
    queues: disk::QUEUES,
    is_read_only: false,
    discard_blocks_max: disk::RANGE_BLOCKS,
    zeroes_blocks_max: disk::RANGE_BLOCKS,
};

type Disk = Device<'static, GuestMemory, QUEUES>;

fn main() -> u32 {
    let Some(Ok(export)) = grants().device_exports().next() else {
        defmt::error!("no virtual machine has the disk; grant one an export of this task");
        return STATUS_NO_CLIENT;
    };
    let DeviceExport { mailbox, ram, bells, first_bell, .. } = export;
    let config = SHAPE.config();
    let features = SHAPE.features() | features::ALL_RINGS;
    let offer = Offer { features, queue_size: disk::QUEUE_SIZE, config: &config };
    let worker = Worker::new(mailbox.memory.words(), bells.words(), first_bell, &offer);
    let Ok(worker) = worker else {
        defmt::error!("the page of the device is too small");
        return STATUS_TOO_SMALL;
    };
    let mut device = Device::new(worker, ram, disk::QUEUE_SIZE);
    let lose = grants().number("lose").unwrap_or(0);
    let is_late = grants().number("late").unwrap_or(0) != 0;
    let die = grants().number("die").unwrap_or(u64::MAX);
    let mut turns = 0;
    let (mut blocks, mut held) = (Blocks::new(lose), Held::default());
    loop {
        turns += 1;
        if turns > die {
            return STATUS_DEAD;
        }
        let change = device.follow();
        if change != Change::None {
            // What was in flight is the old life's.
            held.forget();
        }
        let again = work(&mut device, &mut blocks, &mut held);
        if let Some(rule) = device.take_broken() {
            held.forget();
            defmt::info!("ramdisk: {=str}; the device needs a reset", rule.text());
        }
        if device.take_wake() {
            mailbox.peer.wake();
        }
        if is_late && change == Change::Reset {
            write_late(&device, &mut blocks, held.last());
        }
        if !again {
            wait(mailbox.bits, Deadline::Never);
        }
    }
}

/// Does what an answered reset forbids: touches a buffer of the life before.
fn write_late(device: &Disk, blocks: &mut Blocks, chain: &Buffers) {
    wait(Bits::NONE, Deadline::after(LATE));
    let features = SHAPE.features();
    if blocks.carry_out(device.ram(), chain, &SHAPE, features).is_err() {
        defmt::info!("ramdisk: there is no request to be late with");
    }
}

/// Takes what is there and completes it. Whether there is more.
fn work(device: &mut Disk, blocks: &mut Blocks, held: &mut Held) -> bool {
    let mut again = false;
    for queue in 0..QUEUES {
        while !held.is_full() {
            let mut chain = Chain::default();
            match device.fetch(queue, &mut chain) {
                Some(head) => held.push(queue, head, chain),
                None => break,
            }
        }
        again |= held.is_full();
    }
    while let Some((queue, head, chain)) = held.pop() {
        held.remember(&chain);
        match blocks.carry_out(device.ram(), &chain, &SHAPE, device.features()) {
            Ok(written) => device.complete(queue, head, written),
            Err(rule) => device.fail(rule),
        }
    }
    for queue in 0..QUEUES {
        device.interrupt(queue);
        // Every queue is asked, also behind one that has something.
        again |= device.listen(queue);
    }
    again
}
