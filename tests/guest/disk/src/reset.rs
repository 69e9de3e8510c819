//! `role=reset`: the device is reset with reads in flight, at a moment that moves from round to
//! round; afterwards no byte of their buffers changes, and the device works again. `role=stopped`: the
//! virtual machine is stopped with reads in flight and started again; the new life finds that no byte
//! of the buffers changes, before it has as much as looked at the device.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Request};
use cloister_guest_rt::{clock, cpu, memory, println, timer};
use guest_common::rng::Rng;
use guest_disk_core::BLOCK;

use crate::options::{Failed, Options, RUN};

/// Rounds of load and reset.
const ROUNDS: u64 = 32;
/// How long buffers are watched after each.
const WATCH: Duration = Duration::from_millis(5);
/// What buffers hold once the device is reset; no disk holds a block like it.
const PATTERN: u8 = 0xa5;
/// The longest time between doorbell and reset, in ticks: about what a request takes.
const DELAY: u64 = 200_000;

/// Runs all rounds.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let mut rng = Rng::new(options.seed);
    let mut free = buffers(options)?;
    let (mut cut, mut whole) = (0u64, 0u64);
    for round in 0..ROUNDS {
        load(disk, options, &mut free, &mut rng)?;
        let until = cpu::tsc().saturating_add(rng.below(DELAY));
        while cpu::tsc() < until {
            core::hint::spin_loop();
        }
        for queue in 0..disk.queues() {
            while let Some(done) = disk.poll(queue)? {
                whole += 1;
                free.extend(done.buffer);
            }
        }
        disk.reset(|buffer| {
            cut += 1;
            free.push(buffer);
        });
        if free.len() != options.depth {
            return Err(Failed::Other("buffers are lost", free.len() as u64));
        }
        watch(&mut free, WATCH, round)?;
        disk.restart()?;
        one(disk, &mut free)?;
    }
    if cut == 0 {
        return Err(Failed::Other("no reset met a request in flight", whole));
    }
    println!("disk: {ROUNDS} resets with {cut} requests in flight ({whole} done before), ok");
    Ok(())
}

/// Buffers for every request; in each life of the guest at the same addresses, if asked for first.
pub fn buffers(options: &Options) -> Result<Vec<Buffer>, Failed> {
    let pages = RUN as usize * BLOCK / memory::PAGE;
    let buffer = |_| memory::leak_pages(pages).ok_or(Failed::Other("no memory", pages as u64));
    (0..options.depth).map(buffer).collect()
}

/// Watches the buffers that the life before may have had in flight.
pub fn look_back(free: &mut [Buffer], options: &Options) -> Result<(), Failed> {
    watch(free, Duration::from_millis(options.ms), 0)?;
    println!("disk: nothing has changed in {} ms", options.ms);
    Ok(())
}

/// Keeps reads in flight until the virtual machine is stopped.
pub fn read_on(disk: &mut Disk, options: &Options, mut free: Vec<Buffer>) -> Result<(), Failed> {
    let mut rng = Rng::new(options.seed);
    load(disk, options, &mut free, &mut rng)?;
    println!("disk: {} reads are in flight", options.depth);
    loop {
        disk.wait_until(cpu::tsc().saturating_add(clock::ticks(Duration::from_secs(1))));
        disk.check()?;
        for queue in 0..disk.queues() {
            while let Some(done) = disk.poll(queue)? {
                done.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
                free.extend(done.buffer);
            }
        }
        load(disk, options, &mut free, &mut rng)?;
    }
}

/// Puts as many reads in flight as there are buffers.
fn load(
    disk: &mut Disk,
    options: &Options,
    free: &mut Vec<Buffer>,
    rng: &mut Rng,
) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks).saturating_sub(RUN.into()).max(1);
    let mut queue = 0;
    while let Some(buffer) = free.pop() {
        queue = (queue + 1) % disk.queues();
        let (block, len) = (rng.below(blocks), buffer.len());
        let made = disk.submit(queue, Request::Read { block }, Some((buffer, len)));
        made.map_err(|(why, _)| Failed::Refused(why))?;
    }
    (0..disk.queues()).for_each(|queue| disk.ring(queue));
    Ok(())
}

/// The device has been reset: what is written to the buffers stays there.
fn watch(free: &mut [Buffer], time: Duration, round: u64) -> Result<(), Failed> {
    free.iter_mut().for_each(|buffer| buffer.fill(PATTERN));
    timer::wait(time);
    let changed = |buffer: &Buffer| {
        // A look at memory, not at what the compiler knows was put there.
        core::hint::black_box(&**buffer).iter().any(|&byte| byte != PATTERN)
    };
    let count = free.iter().filter(|buffer| changed(buffer)).count();
    if count == 0 {
        return Ok(());
    }
    println!("FAILED disk: {count} buffers changed after reset {round}");
    Err(Failed::Other("memory changed after a reset", round))
}

/// One read, to its end.
fn one(disk: &mut Disk, free: &mut Vec<Buffer>) -> Result<(), Failed> {
    let buffer = free.pop().ok_or(Failed::Other("no buffer", 0))?;
    let made = disk.submit(0, Request::Read { block: 0 }, Some((buffer, BLOCK)));
    made.map_err(|(why, _)| Failed::Refused(why))?;
    disk.ring(0);
    let end = cpu::tsc().saturating_add(clock::ticks(Duration::from_secs(10)));
    if !disk.wait_until(end) {
        return Err(Failed::Silence(1));
    }
    let done = disk.poll(0)?.ok_or(Failed::Silence(1))?;
    done.outcome.map_err(|fault| Failed::Request("a read", 0, fault))?;
    free.extend(done.buffer);
    Ok(())
}
