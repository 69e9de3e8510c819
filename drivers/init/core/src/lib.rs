//! The pure part of `init`: firmware tables, PCI topology, device matching, clock, entropy.
//!
//! Firmware is not trusted to be right: every offset is checked, every loop is bounded, and a table
//! that lies about itself is refused with its signature. Nothing here touches the machine; what has
//! to be read comes through a trait ([`pci::Config`], [`rtc::Cmos`]) or as bytes.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
mod bytes;
pub mod dmar;
pub mod entropy;
pub mod fadt;
pub mod groups;
pub mod madt;
pub mod matching;
pub mod mcfg;
pub mod pci;
pub mod rtc;
pub mod sriov;
