//! `role=errors`: every block is read and written once, on a disk that fails. A request may fail,
//! with the status for that; it may not be lost, and the device goes on. `bad=` says how many reads
//! and writes have to fail. `role=until-broken` reads until the device itself fails.

use core::time::Duration;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Fault, Request};
use cloister_guest_rt::{clock, cpu, memory, println};
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options};

/// How long one request may take: longer than the driver waits for the disk, resets included.
const PATIENCE: Duration = Duration::from_secs(120);

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
