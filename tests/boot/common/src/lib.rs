//! What the tasks of the boot tests share.
//!
//! [`raw`] makes system calls by number, with arguments that no safe handle would let through;
//! [`page`] names the words of the memory between the test supervisor and a probe; [`orders`] what
//! a probe can be told to do; [`faults`] the table of faults with what the kernel must say of each.
//! The probe and its supervisor are built from the same tables, so that neither can drift.

#![no_std]

pub mod faults;
pub mod orders;
pub mod page;
pub mod random;
pub mod raw;
