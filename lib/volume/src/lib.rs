//! Volumes of a disk: the partitions of a GPT, found by name (UEFI Specification 2.10, "GUID
//! Partition Table (GPT) Disk Layout").
//!
//! Disks answer later, so nothing here reads: a [`Scan`] says which block it wants, is given it, and
//! ends with a [`Table`] or with what is wrong ([`Broken`]). The table in front is tried first, then
//! its copy at the end. Drivers of disks use it; volumes of fixed extents need no table.
//!
//! Invariant: whatever the bytes are, a scan ends, asks for no block beyond the disk, and the
//! partitions of a table lie inside its usable blocks and apart from each other.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod header;
mod scan;
mod table;

pub use header::Broken;
pub use scan::Scan;
pub use table::{Extent, Found, NAME_UNITS, PARTITIONS_MAX, Table};
