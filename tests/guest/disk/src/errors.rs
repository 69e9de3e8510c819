//! `role=errors`: every block is read and written once, on a disk that fails. A request may fail,
//! with the status for that; it may not be lost, and the device goes on. `bad=` says how many reads
//! and writes have to fail. `role=until-broken` reads until the device itself fails,
//! `role=until-lost` until the disk behind it does, which then does nothing any more.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Fault, Request};
use cloister_guest_rt::{clock, cpu, memory, println};
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options};

/// How long one request may take: longer than the driver waits for the disk, resets included.
const PATIENCE: Duration = Duration::from_secs(240);
/// Reads between two lines of progress.
const MARK: u64 = 500;
/// Most lines of progress.
const MARKS: u64 = 8;

/// Reads all, writes all, and says how many requests of each kind failed.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut buffer = memory::leak_pages(1);
    let mut failed = [0u64; 2];
    for (count, is_write) in failed.iter_mut().zip([false, true]) {
        for block in 0..blocks {
            let data = buffer.take().ok_or(Failed::Other("no buffer", block))?;
            let request = if is_write { Request::Write { block } } else { Request::Read { block } };
            let (outcome, back) = one(disk, request, data)?;
            buffer = Some(back);
            match outcome {
                Ok(()) => {}
                Err(Fault::Io) => *count += 1,
                Err(fault) => return Err(Failed::Request("a request", block, fault)),
            }
        }
    }
    let [reads, writes] = failed;
    println!("disk: of {blocks} reads {reads} failed, of {blocks} writes {writes}");
    if reads == options.bad && writes == options.bad_writes {
        return Ok(());
    }
    Err(Failed::Other("another number of reads should have failed", options.bad))
}

/// Reads one block after the other until the device says that it needs a reset, which it has to.
pub fn until_broken(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut buffer = memory::leak_pages(1);
    let blocks = blocks.max(1);
    for count in 0.. {
        let data = buffer.take().ok_or(Failed::Other("no buffer", count))?;
        match one(disk, Request::Read { block: count % blocks }, data) {
            Ok((_, back)) => buffer = Some(back),
            Err(Failed::Device(failure)) => {
                println!("disk: {count} reads, then the device broke: {failure}");
                // Nobody is there to answer it, and it may not wait for ever all the same.
                let mut back = 0;
                disk.reset(|_| back += 1);
                println!("disk: the reset is over, {back} buffers came back");
                return Ok(());
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Keeps reads in flight until one fails, which one has to. All of them come back; from then on every
/// request fails, and none is kept.
pub fn until_lost(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut free: Vec<Buffer> = Vec::new();
    for _ in 0..options.depth {
        free.push(memory::leak_pages(1).ok_or(Failed::Other("no memory", 1))?);
    }
    let (mut made, mut reads, mut failed) = (0, 0, 0u64);
    let mut end = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
    while failed == 0 || free.len() < options.depth {
        while failed == 0
            && let Some(buffer) = free.pop()
        {
            let request = Request::Read { block: made % blocks };
            let queue = made as usize % disk.queues();
            let submitted = disk.submit(queue, request, Some((buffer, BLOCK)));
            submitted.map_err(|(why, _)| Failed::Refused(why))?;
            made += 1;
        }
        (0..disk.queues()).for_each(|queue| disk.ring(queue));
        disk.wait_until(end.min(cpu::tsc().saturating_add(clock::ticks(Duration::from_secs(1)))));
        let before = free.len();
        for queue in 0..disk.queues() {
            while let Some(done) = disk.poll(queue)? {
                match done.outcome {
                    Ok(_) => reads += 1,
                    Err(Fault::Io) => failed += 1,
                    Err(fault) => return Err(Failed::Request("a read", 0, fault)),
                }
                free.extend(done.buffer);
                if done.outcome.is_ok() && reads % MARK == 0 && reads / MARK <= MARKS {
                    println!("disk: progress {reads} reads");
                }
            }
        }
        disk.check()?;
        if free.len() > before {
            end = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
        } else if cpu::tsc() >= end {
            return Err(Failed::Silence(options.depth - free.len()));
        }
    }
    println!("disk: {reads} reads, then {failed} of {} in flight failed", options.depth);
    let mut buffer = free.pop();
    for (number, is_write) in (0..2 * blocks).zip([false, true].into_iter().cycle()) {
        let block = number / 2;
        let data = buffer.take().ok_or(Failed::Other("no buffer", block))?;
        let request = if is_write { Request::Write { block } } else { Request::Read { block } };
        let (outcome, back) = one(disk, request, data)?;
        buffer = Some(back);
        if outcome != Err(Fault::Io) {
            return Err(Failed::Other("a request did not fail on a lost disk", number));
        }
    }
    println!("disk: lost, of {blocks} reads and as many writes each failed");
    Ok(())
}

/// One request, to its end.
fn one(
    disk: &mut Disk,
    request: Request,
    buffer: Buffer,
) -> Result<(Result<(), Fault>, Buffer), Failed> {
    let made = disk.submit(0, request, Some((buffer, BLOCK)));
    made.map_err(|(why, _)| Failed::Refused(why))?;
    disk.ring(0);
    let end = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
    loop {
        disk.check()?;
        if let Some(done) = disk.poll(0)? {
            let buffer = done.buffer.ok_or(Failed::Other("no buffer came back", 0))?;
            return Ok((done.outcome.map(drop), buffer));
        }
        if cpu::tsc() >= end {
            return Err(Failed::Silence(1));
        }
        disk.wait_until(end.min(cpu::tsc().saturating_add(clock::ticks(Duration::from_secs(1)))));
    }
}
