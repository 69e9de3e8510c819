#![no_std]
#![no_main]
cloister_guest_rt::entry!(main);
fn main() {}
