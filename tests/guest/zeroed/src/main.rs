//! Micro-guest: memory is zero at each start, whatever the life before left.
//!
//! It looks at all of RAM that is not the program's or the start code's, says what it found,
//! writes to all of it, and resets itself; the boot test counts the lives.

#![no_std]
#![no_main]

use cloister_guest_rt::abi::image::{GDT, PAGE_TABLES};
use cloister_guest_rt::{cpu, memory, power, println};

cloister_guest_rt::entry!(main);

/// Where the program begins.
const PROGRAM: u64 = 0x10_0000;
/// What a life leaves in every word.
const LEFT: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// The words from `start` up to `end`. The page at 0 is left out: nothing is said about it that
/// is not said about the next, and Rust has no reference to address 0.
fn words(start: u64, end: u64) -> impl Iterator<Item = *mut u64> {
    (start..end).step_by(8).map(|at| at as *mut u64)
}

fn ranges() -> [(u64, u64); 3] {
    let behind_tables = (GDT + 0x1000).next_multiple_of(0x1000);
    [(0x1000, PAGE_TABLES), (behind_tables, PROGRAM), (memory::program_end(), memory::size())]
}

fn main() {
    let mut bytes = 0;
    for (start, end) in ranges() {
        bytes += end - start;
        // SAFETY: the range is RAM that nothing of this program uses; its own stack is in .bss.
        let dirty = words(start, end).find(|&word| unsafe { word.read_volatile() } != 0);
        if let Some(word) = dirty {
            // SAFETY: as above.
            let value = unsafe { word.read_volatile() };
            println!("FAILED memory at {word:p} holds {value:#x}");
            power::panic(2);
        }
    }
    println!("ok {bytes} bytes of memory are zero at {} ticks", cpu::tsc());
    for (start, end) in ranges() {
        for word in words(start, end) {
            // SAFETY: as above.
            unsafe { word.write_volatile(LEFT) };
        }
    }
    power::reset();
}
