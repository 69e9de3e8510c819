//! Micro-guest: further vCPUs, interprocessor interrupts, INIT and start-up.
//!
//! All vCPUs that CPUID tells of are started; the cases then make them do things through
//! [`helpers`]. With one vCPU the guest says so and has the cases that need no second one.

#![no_std]
#![no_main]

mod helpers;
mod memory;
mod messages;
mod starting;

use cloister_guest_rt::{apic, println, smp};
use guest_common::Cases;

cloister_guest_rt::entry!(main);

fn main() {
    apic::start();
    let vcpus = smp::vcpus();
    println!("vCPUs: {vcpus}");
    let mut cases = Cases::default();
    starting::run(&mut cases, vcpus);
    if vcpus > 1 {
        messages::run(&mut cases, vcpus);
        memory::run(&mut cases, vcpus);
    }
    cases.finish()
}
