//! The runtime of unikernel guests: what a Rust program needs to run on the virtual platform of
//! `cloister-guest-abi` with nothing beneath it.
//!
//! A program is `#![no_std]`, `#![no_main]`, has one line `cloister_guest_rt::entry!(main);` and a
//! build script that calls `cloister_guest_rt_build::guest()`. The build puts it into a guest file
//! (docs/guests.md); the start code (`guest-abi/rt/start`) has zeroed memory, copied the program
//! to where it is linked and entered it in 64-bit mode with the first 4 GiB mapped one to one.
//!
//! - [`print!`], [`println!`]: the console. A panic is printed there and told to the platform.
//! - [`cmdline`]: what the guest file tells the program.
//! - [`clock`], [`cmos`], [`timer`], [`interrupts`]: time, timer interrupts, waiting without running.
//! - [`memory`]: heap and pages. With the feature `alloc` the heap is the global allocator.
//! - [`pci`], [`virtio`]: the bus, and drivers for channel, disk and entropy devices.
//! - [`smp`]: further vCPUs.
//! - [`cpu`], [`port`], [`probe`]: single instructions, also those that may fault.
//! - [`power`]: how a guest ends.
//!
//! Safe functions cannot break memory safety whatever the program does with them; what can (port
//! writes, MSR writes) is `unsafe`. docs/soundness/guest-rt.md has the reasons.

#![cfg_attr(not(test), no_std)]

pub mod apic;
pub mod clock;
pub mod cmdline;
pub mod cmos;
pub mod console;
pub mod cpu;
mod descriptors;
pub mod interrupts;
mod lock;
pub mod memory;
#[cfg(not(test))]
mod panic;
pub mod pci;
pub mod port;
pub mod power;
pub mod probe;
pub mod smp;
mod start;
pub mod timer;
pub mod virtio;

pub use cloister_guest_abi as abi;
pub use lock::Lock;

/// Makes a function without arguments the program: it runs on vCPU 0, and when it returns the
/// guest powers off.
///
/// It expands to the one symbol that the start code calls. The symbol is `unsafe_code` to the
/// compiler, but lints do not look into the macros of other crates: a program with
/// `#![forbid(unsafe_code)]` compiles, and any `unsafe` of its own does not.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn cloister_guest_main() {
            let main: fn() = || $main();
            main();
        }
    };
}
