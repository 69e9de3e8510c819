//! What tasks and the build agree on among themselves: the kernel carries it and does not know it.
//!
//! [`policy`] tells the supervisor how tasks are to be treated, [`vm`] tells a monitor what its
//! virtual machine is to be, [`stopped`] is what a monitor leaves with when that machine cannot go
//! on, [`volume`] tells a disk's driver what it exports. `lib/manifest` writes all but `stopped` into
//! read-only regions. What the kernel does know is in
//! `kernel/abi`, whose version stands for this crate too.

#![no_std]
#![forbid(unsafe_code)]

pub mod policy;
pub mod stopped;
pub mod vm;
pub mod volume;
