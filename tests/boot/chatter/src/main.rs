//! Logs without a pause: the manifest's number `lines` of times, or for ever without one.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_rt::grants;

cloister_rt::entry!(main);

fn main() -> u32 {
    let lines = grants().number("lines").unwrap_or(u64::MAX);
    for nth in 0..lines {
        defmt::info!("line {=u64}", nth);
    }
    0
}
