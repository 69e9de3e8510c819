//! `role=bench`: what reads of one block take by the guest's own TSC, one at a time and 32 at once.
//!
//! Each line `bench KEY MIN MEDIAN` is of a request. One at a time it is from before the submission
//! to behind the completion; with 32 in flight it is the time between two rounds of completions,
//! divided by how many came. The guest polls, so no interrupt is in it. `blk_own_4k` is the guest's
//! own part of one request: making it and taking its completion, without the doorbell.

use alloc::vec::Vec;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Request};
use cloister_guest_rt::{cpu, memory, println};
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options};

/// Requests that are measured; those before them warm up what is cached.
const ROUNDS: usize = 2000;
const WARM_UP: usize = 200;

/// Ticks of every request, and of the guest's own part of it.
struct Ticks {
    whole: Vec<u64>,
    own: Vec<u64>,
}

/// Measures both depths.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    disk.hush();
    let one = measure(disk, options, 1)?;
    print("blk_read_4k_qd1", one.whole);
    print("blk_own_4k", one.own);
    print("blk_read_4k_qd32", measure(disk, options, 32)?.whole);
    println!("bench done");
    Ok(())
}

fn print(key: &str, mut ticks: Vec<u64>) {
    ticks.sort_unstable();
    let least = ticks.first().copied().unwrap_or(0);
    let median = ticks.get(ticks.len() / 2).copied().unwrap_or(0);
    println!("bench {key} {least} {median}");
}

fn measure(disk: &mut Disk, options: &Options, depth: usize) -> Result<Ticks, Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut free: Vec<Buffer> = Vec::new();
    for _ in 0..depth {
        free.push(memory::leak_pages(1).ok_or(Failed::Other("no memory", 1))?);
    }
    let mut ticks = Ticks { whole: Vec::with_capacity(ROUNDS), own: Vec::with_capacity(ROUNDS) };
    let (mut done, mut next) = (0, 0);
    let mut last = cpu::tsc();
    while done < WARM_UP + ROUNDS {
        let start = cpu::tsc();
        while let Some(buffer) = free.pop() {
            let request = Request::Read { block: next % blocks };
            next += 1;
            let made = disk.submit(0, request, Some((buffer, BLOCK)));
            made.map_err(|(why, _)| Failed::Refused(why))?;
        }
        let mut own = cpu::tsc() - start;
        disk.ring(0);
        let before = done;
        while done == before {
            let start = cpu::tsc();
            while let Some(one) = disk.poll(0)? {
                one.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
                free.extend(one.buffer);
                done += 1;
            }
            own += if done == before { 0 } else { cpu::tsc() - start };
            core::hint::spin_loop();
        }
        let now = cpu::tsc();
        if before >= WARM_UP {
            let count = (done - before) as u64;
            ticks.whole.push((now - last) / count);
            ticks.own.push(own / count);
        }
        last = now;
    }
    // Whatever is under way comes to its end before the next measurement.
    while free.len() < depth {
        free.extend(disk.poll(0)?.and_then(|one| one.buffer));
    }
    Ok(ticks)
}
