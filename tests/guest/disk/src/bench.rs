//! `role=bench`: reads of one block, for whoever watches which instructions run.
//!
//! The host side's part of a request is counted from outside (`xtask/src/bench/disk`), where each
//! instruction of every core is seen with its address. This program gives it something to watch:
//! reads one at a time, then 32 at once, asleep between them as a guest's own kernel is. It calls
//! [`mark_one`] and [`mark_many`] between requests, so that what lies between two marks is a known
//! number of them, and prints `bench trace` with their addresses, and waits for a
//! key, before the part that is watched.

use alloc::vec::Vec;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Request};
use cloister_guest_rt::{console, memory, println};
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options};

/// Requests before the watched ones, which warm up what is cached.
const WARM_UP: usize = 200;
/// Requests between two marks, and marks, one at a time.
const ONE: (usize, usize) = (1, 80);
/// The same with 32 in flight.
const MANY: (usize, usize) = (64, 11);

/// Reads at both depths.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    measure(disk, options, 1, (WARM_UP, 1), || {})?;
    println!("bench trace {} {}", mark_one as fn() as usize, mark_many as fn() as usize);
    // Whoever watches says so, by any key.
    while console::read().is_none() {
        core::hint::spin_loop();
    }
    measure(disk, options, 1, ONE, mark_one)?;
    measure(disk, options, 32, MANY, mark_many)?;
    println!("bench done");
    Ok(())
}

/// Another request was completed.
#[inline(never)]
fn mark_one() {
    core::hint::black_box(1);
}

/// Another group of requests was completed.
#[inline(never)]
fn mark_many() {
    core::hint::black_box(32);
}

/// Reads `marks` groups of at least so many blocks, `depth` of them in flight.
fn measure(
    disk: &mut Disk,
    options: &Options,
    depth: usize,
    (group, marks): (usize, usize),
    mark: fn(),
) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut free: Vec<Buffer> = Vec::new();
    for _ in 0..depth {
        free.push(memory::leak_pages(1).ok_or(Failed::Other("no memory", 1))?);
    }
    let (mut done, mut next) = (0, 0);
    let mut due = group;
    while done < group * marks {
        while let Some(buffer) = free.pop() {
            let request = Request::Read { block: next % blocks };
            next += 1;
            let made = disk.submit(0, request, Some((buffer, BLOCK)));
            made.map_err(|(why, _)| Failed::Refused(why))?;
        }
        disk.ring(0);
        disk.wait();
        while let Some(one) = disk.poll(0)? {
            one.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
            free.extend(one.buffer);
            done += 1;
            if done == due {
                mark();
                due += group;
            }
        }
    }
    // Whatever is under way comes to its end before the next measurement.
    while free.len() < depth {
        free.extend(disk.poll(0)?.and_then(|one| one.buffer));
    }
    Ok(())
}
