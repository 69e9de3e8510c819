//! x
#![no_std]
#![no_main]
#![forbid(unsafe_code)]
cloister_rt::entry!(main);
fn main() -> u32 { 0 }
