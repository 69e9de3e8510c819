//! Test task: a supervisor that powers the machine off at once.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_rt::entry!(main);

fn main() -> u32 {
    defmt::info!("powering off");
    match cloister_rt::grants().power("power") {
        Ok(power) => drop(power.off()),
        Err(_) => return 2,
    }
    1
}
