//! The contract between the kernel, the tasks and the build: system calls, faults, the virtual
//! memory layout, the system table, the payload header and the log ring.
//!
//! What tasks agree on without the kernel is in `lib/proto`. Nothing here imports anything else of ours, and nothing here is `unsafe`: layouts are plain
//! `repr(C)` structs that `zerocopy` can view in a byte slice.

#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]

pub mod boot;
pub mod call;
pub mod fault;
pub mod info;
pub mod layout;
pub mod log;
pub mod payload;
mod sync;
pub mod table;
pub mod vcpu;

/// Version of everything in this crate. A task built against another version is refused at build.
pub const API_VERSION: u32 = 1;

/// Length of the fixed name fields, in bytes; shorter names are padded with zeros.
pub const NAME_LEN: usize = 32;

/// The text of a zero-padded name field, or `"?"` if it is not UTF-8.
pub fn name_str(name: &[u8]) -> &str {
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    name.get(..end).and_then(|n| core::str::from_utf8(n).ok()).unwrap_or("?")
}
