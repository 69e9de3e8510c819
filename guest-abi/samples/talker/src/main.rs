//! A unikernel guest: says hello, takes ten timer interrupts, exchanges a hundred numbered and
//! checksummed messages with another guest, prints totals and powers off.
//!
//! Both ends run this program: each sends and each receives (`exchange`). A guest without a
//! channel does the rest.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod exchange;
mod message;

use core::time::Duration;

use cloister_guest_rt::virtio::{self, channel::Channel};
use cloister_guest_rt::{clock, interrupts, memory, println, smp, timer};

cloister_guest_rt::entry!(main);

/// How many timer interrupts.
const TICKS: u64 = 10;
/// Time between two.
const PERIOD: Duration = Duration::from_millis(10);

fn main() {
    let (vcpus, mib) = (smp::vcpus(), memory::size() >> 20);
    println!("hello from a guest with {vcpus} vCPU and {mib} MiB");
    take_ticks();
    let Some(device) = virtio::find(virtio::CONSOLE, 0) else {
        println!("no channel here; powering off");
        return;
    };
    match Channel::open(device).and_then(|mut channel| exchange::run(&mut channel)) {
        Ok(totals) => println!("{totals}"),
        Err(failure) => println!("the channel failed: {failure}"),
    }
    println!("powering off");
}

fn take_ticks() {
    let start = clock::now();
    timer::periodic(PERIOD);
    interrupts::wait_until(|| timer::interrupts() >= TICKS);
    timer::stop();
    let took = clock::now() - start;
    println!("took {TICKS} timer interrupts in {} ms", took.as_millis());
}
