//! Micro-guest: order and priority of interrupts, interrupt shadows, NMIs.
//!
//! [`order`]: self-interrupts of different classes, task priority by CR8 and by its register.
//! [`shadows`]: STI and MOV SS hold interrupts for one instruction, also over an exit.
//! [`nmi`]: non-maskable interrupts, masked until IRET.

#![no_std]
#![no_main]

mod nmi;
mod order;
mod shadows;

use cloister_guest_rt::apic;
use guest_common::Cases;

cloister_guest_rt::entry!(main);

fn main() {
    apic::start();
    let mut cases = Cases::default();
    order::run(&mut cases);
    shadows::run(&mut cases);
    nmi::run(&mut cases);
    cases.finish()
}
