//! Micro-guest: a disk under load.
//!
//! The command line says what it does: `role=verify` writes and reads numbered, checksummed blocks
//! and checks each against a model, `role=rate` counts requests in a time of its own TSC,
//! `role=errors` reads and writes on a disk that fails, `role=until-broken` until the device does,
//! `role=until-lost` until the disk behind it does,
//! `role=hostile` breaks each rule of a ring once, `role=reset` resets the device with requests in
//! flight, `role=stopped` is stopped with requests in flight, `role=bench` prints what a read takes. The other words are in [`options`].

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

mod bench;
mod errors;
mod hostile;
mod options;
mod rate;
mod reset;
mod rules;
mod verify;

use alloc::vec::Vec;
use core::fmt;

use cloister_guest_rt::virtio::{self, disk::Disk};
use cloister_guest_rt::{cmdline, power, println};
use options::Options;

cloister_guest_rt::entry!(main);

fn main() {
    let line = cmdline::read();
    let options = Options::of(&line);
    let mut buffers = Vec::new();
    if line.get("role") == Some("stopped") {
        // Before the device is touched, which would reset it.
        let made = reset::buffers(&options).and_then(|mut made| {
            reset::look_back(&mut made, &options)?;
            Ok(made)
        });
        buffers = or_fail(made);
    }
    let Some(device) = virtio::find(virtio::BLOCK, 0) else {
        println!("FAILED disk: there is none");
        power::panic(2);
    };
    let mut disk = or_fail(Disk::open(device, options.wanted()));
    let geometry = disk.geometry();
    println!(
        "disk: {} blocks of {} bytes, {} queues, {:?}",
        geometry.blocks,
        geometry.block,
        disk.queues(),
        disk.options().layout
    );
    println!("disk: started");
    let outcome = match line.get("role").unwrap_or("verify") {
        "verify" => verify::run(&mut disk, &options),
        "rate" => rate::run(&mut disk, &options),
        "errors" => errors::run(&mut disk, &options),
        "until-broken" => errors::until_broken(&mut disk, &options),
        "until-lost" => errors::until_lost(&mut disk, &options),
        "reset" => reset::run(&mut disk, &options),
        "stopped" => reset::read_on(&mut disk, &options, buffers),
        "hostile" => hostile::run(&mut disk, &options),
        "bench" => bench::run(&mut disk, &options),
        role => {
            println!("FAILED disk: no role is called {role}");
            power::panic(2);
        }
    };
    or_fail(outcome);
    power::off();
}

/// What was made, or the end of the guest.
fn or_fail<T, E: fmt::Display>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|failed| {
        println!("FAILED disk: {failed}");
        power::panic(2)
    })
}
