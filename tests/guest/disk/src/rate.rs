//! `role=rate`: reads of one block at full depth for a fixed time; how many were completed.

use core::time::Duration;

use alloc::vec::Vec;
use cloister_guest_rt::virtio::disk::{Buffer, Disk, Request};
use cloister_guest_rt::{clock, cpu, memory, println};
use guest_common::rng::Rng;
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options};

/// Counts, and prints the count and the rate.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut rng = Rng::new(options.seed);
    let mut free: Vec<Buffer> = Vec::new();
    for _ in 0..options.depth {
        free.push(memory::leak_pages(1).ok_or(Failed::Other("no memory", 1))?);
    }
    let end = cpu::tsc().saturating_add(clock::ticks(Duration::from_millis(options.ms)));
    let (mut queue, mut count, mut in_flight) = (0, 0u64, 0usize);
    while cpu::tsc() < end {
        while let Some(buffer) = free.pop() {
            queue = (queue + 1) % disk.queues();
            let request = Request::Read { block: rng.below(blocks) };
            match disk.submit(queue, request, Some((buffer, BLOCK))) {
                Ok(_) => in_flight += 1,
                Err((why, _)) => return Err(Failed::Refused(why)),
            }
        }
        (0..disk.queues()).for_each(|queue| disk.ring(queue));
        if options.is_polled {
            while !disk.has_done() && cpu::tsc() < end {
                core::hint::spin_loop();
            }
        } else {
            disk.wait_until(end);
        }
        for queue in 0..disk.queues() {
            while let Some(done) = disk.poll(queue)? {
                done.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
                free.extend(done.buffer);
                (count, in_flight) = (count + 1, in_flight - 1);
            }
        }
        disk.check()?;
    }
    // What came too late does not count, and is not left behind either.
    disk.reset(|_| in_flight -= 1);
    if in_flight != 0 {
        return Err(Failed::Other("buffers are lost", in_flight as u64));
    }
    println!("disk: {count} reads in {} ms, {}/s", options.ms, count * 1000 / options.ms.max(1));
    Ok(())
}
