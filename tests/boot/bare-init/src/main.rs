//! Test task: an `init` that seals a system of one core without looking at the machine.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_rt::entry!(main);

fn main() -> u32 {
    defmt::info!("bare init");
    cloister_rt::boot::Boot::begin().seal(0, 0);
    11
}
