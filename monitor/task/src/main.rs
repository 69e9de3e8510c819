//! The monitor of a virtual machine: the task that runs its virtual CPUs.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_monitor as _;

cloister_rt::entry!(main);

fn main() -> u32 {
    0
}
