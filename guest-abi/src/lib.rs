//! All that a guest may rely on: the virtual platform's addresses, ports, CPUID leaves and the
//! layout in which a guest's image lies before it starts.
//!
//! The monitor makes this platform, the build lays guests out for it, `guest-abi/rt` runs on it.
//! What is not said here is not promised. Everything here is the same on every host.

#![no_std]
#![forbid(unsafe_code)]

pub mod apic;
pub mod cpuid;
pub mod disk;
pub mod image;
pub mod pci;
pub mod platform;

/// Version of everything in this crate: CPUID leaf [`cpuid::CLOISTER_LEAF`] tells it to a guest.
pub const VERSION: u32 = 1;
