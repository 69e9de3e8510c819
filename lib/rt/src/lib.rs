//! The task runtime: start code, typed capabilities, time, logs, and the only maker of system
//! calls.
//!
//! A task is a `#![no_std]`, `#![no_main]`, `#![forbid(unsafe_code)]` program with one line
//! `cloister_rt::entry!(main);`. What the task may touch is what its manifest grants: [`grants`]
//! turns the names of those grants into typed handles ([`Signal`], [`Irq`], [`PortRange`],
//! [`Shared`] …). No public function takes a capability slot, an address or a port number, so a
//! task cannot name what it was not given; the kernel checks every call again all the same.
//!
//! Invariant: every `unsafe` block of a task's program that is not in `core`, `defmt` or a ring
//! crate is here; docs/soundness/rt.md lists them.

#![cfg_attr(not(test), no_std)]

pub mod boot;
mod cap;
mod cpu;
mod dma;
mod exports;
mod function;
mod grants;
mod log;
mod memory;
#[cfg(not(test))]
mod panic;
mod ports;
mod registers;
mod start;
mod syscall;
mod task;
mod time;
mod vcpu;
mod wait;

pub use cap::{Cap, Irq, PciDevice, Power, Signal};
pub use cloister_abi as abi;
pub use cloister_proto as proto;
pub use cpu::{Entropy, bsp_apic_id, cpuid, random};
pub use dma::DmaRegion;
pub use exports::{DeviceExport, Window};
pub use function::PciFunction;
pub use grants::{Grants, Mailbox, Missing, What, grants};
pub use memory::{Shared, system};
pub use ports::{OutOfRange, Port, PortRange, Width};
pub use registers::Registers;
pub use start::generation;
pub use syscall::{Refused, leave};
pub use task::{DmaFaults, FaultReport, Supervised, TaskControl};
pub use time::{Clock, Deadline, Duration, Instant, clock};
pub use vcpu::{Ran, Vcpu};
pub use wait::{Bits, Woken, sleep_until, wait};

/// Makes `main` the first thread's entry and, optionally, further functions the entries of the
/// further threads. Each is a function without arguments that returns an exit status (`u32`, 0 for
/// success) or never returns. `entry!(main, further = work)` has one entry for all further
/// threads, which is told its thread's number.
///
/// `entry!(main)` expands to the one symbol that the start code calls:
/// ```text
/// #[unsafe(no_mangle)]
/// extern "C" fn cloister_task_main(thread: u32) -> u32 {
///     match thread { 0 => main(), … }
/// }
/// ```
/// The exported symbol is `unsafe_code` to the compiler, but lints do not look into the macros of
/// other crates: a task with `#![forbid(unsafe_code)]` compiles, and any `unsafe` of its own does
/// not. The runtime is the only crate that refers to the symbol, with this very signature.
#[macro_export]
macro_rules! entry {
    ($main:path) => { $crate::entry!($main, threads = []); };
    ($main:path, further = $thread:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn cloister_task_main(thread: u32) -> u32 {
            if thread == 0 { $main() } else { $thread(thread) }
        }
    };
    ($main:path, threads = [$($thread:path),* $(,)?]) => {
        #[unsafe(no_mangle)]
        extern "C" fn cloister_task_main(thread: u32) -> u32 {
            let threads: &[fn() -> u32] = &[|| $main(), $(|| $thread()),*];
            match threads.get(thread as usize) {
                Some(run) => run(),
                None => $crate::no_such_thread(thread),
            }
        }
    };
}

/// Ends a task whose manifest gives it more threads than its program names in [`entry!`].
#[doc(hidden)]
pub fn no_such_thread(thread: u32) -> u32 {
    defmt::error!(
        "thread {=u32} has no entry; name a function for it in `entry!` or take it out of the \
         manifest",
        thread
    );
    leave(abi::fault::LeaveReason::Panic, u64::from(thread))
}
