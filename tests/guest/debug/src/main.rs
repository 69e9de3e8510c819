//! Micro-guest: breakpoints, watchpoints, single steps, as a debugger inside the guest uses them.
//!
//! The kernel single-steps guests for its own purposes with the same flag and registers; nothing
//! of that may be seen here (Intel SDM volume 3, "Debug, Branch Profile, TSC … Features").

#![no_std]
#![no_main]

mod breakpoints;
mod preempted;
mod steps;

use cloister_guest_rt::memory;
use guest_common::Cases;

cloister_guest_rt::entry!(main);

/// The guest with this much memory is the other one's neighbour.
const NEIGHBOUR_MIB: u64 = 18;

fn main() {
    if memory::size() >> 20 == NEIGHBOUR_MIB {
        preempted::neighbour();
    }
    let mut cases = Cases::default();
    breakpoints::run(&mut cases);
    steps::run(&mut cases);
    preempted::run(&mut cases);
    cases.finish()
}
