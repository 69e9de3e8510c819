//! Micro-guest: never gives the core back. What runs beside it must not notice.
//!
//! Interrupts are off and nothing leaves the guest, so only the budget of its virtual machine
//! ends its turns. It never powers off.

#![no_std]
#![no_main]

use cloister_guest_rt::{cpu, println};

cloister_guest_rt::entry!(main);

fn main() {
    println!("spinning");
    cpu::disable_interrupts();
    let mut turns = 0u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}
