//! Test task: what happens to an NVMe controller's functions between the lives of their drivers.
//!
//! [`resets`] resets a function, or must not; [`down`] takes a controller down with functions that
//! others use, if the manifest has the number `down`; [`again`], with the number `again`, puts one
//! on the bus for ever.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod again;
mod down;
mod resets;

use cloister_rt::grants;

cloister_rt::entry!(main);

/// What life 0 leaves with, so that there is another one.
const AGAIN: u32 = 7;

fn main() -> u32 {
    if grants().number("down").is_ok() {
        down::run()
    } else if grants().number("again").is_ok() {
        again::run()
    } else {
        resets::run()
    }
}
