//! Disks of files: partition tables, volumes, file systems, and what a run left on them.
//!
//! `table` reads and writes partition tables, `extent` copies and hashes pieces of files without
//! filling their holes, `root` builds root filesystems from Debian's packages with the programs
//! that `e2fs` finds, `file` reads `machine.toml` (which disks an emulated machine has), `make`
//! makes those disks, `cipher` encrypts volumes, and `check` looks at disks after a run.
//! docs/disks.md is the page for people.
//! Invariant: a file that exists is never made anew unless a person or a test asks for that.

pub mod check;
pub mod cipher;
pub mod e2fs;
pub mod extent;
pub mod file;
pub mod make;
pub mod root;
pub mod table;
mod tar;

/// Where volumes begin and end: a multiple of every size of sector and block.
pub const ALIGN: u64 = 1 << 20;
