//! What a virtual machine's monitor decides: exits, devices and policy.
//!
//! The task `monitor/task` gives these parts a virtual CPU, a clock and signals; nothing here makes
//! a system call, maps guest memory or decodes an instruction. Each virtual CPU's thread owns a
//! [`run::Cpu`] with its local APIC; thread 0 owns the other devices besides ([`bus`]); threads
//! share the words of [`posted`] and [`request`] and nothing else.
//!
//! Invariant: whatever a guest or a worker does, no code here panics.

#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used
    )
)]

mod access;
pub mod apic;
pub mod bus;
pub mod cpuid;
pub mod devices;
mod exits;
pub mod ioapic;
pub mod machine;
pub mod msix;
pub mod msr;
pub mod num;
mod pci;
pub mod pic;
pub mod pit;
pub mod pm_timer;
pub mod posted;
pub mod request;
pub mod rtc;
pub mod run;
pub mod scale;
pub mod start;
pub mod step;
mod sync;
pub mod uart;
pub mod virtio;

/// A rule: what breaks it is an error.
fn ensure<E>(holds: bool, error: E) -> Result<(), E> {
    if holds { Ok(()) } else { Err(error) }
}
