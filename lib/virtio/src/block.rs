//! The device side of a block device (virtio 1.3, "Block Device"): what it says of itself, and
//! what a request wants.
//!
//! [`Shape`] gives feature bits and configuration; [`Request`] is parsed of a chain by
//! [`Request::parse`], with every check that needs no disk. The numbers of the guest's disk are in
//! `guest-abi`, requests are carried out by `lib/block`. A request that the specification has a
//! status for gets that status; one whose shape leaves no place for a status, or whose buffers have
//! the wrong direction, breaks a [`crate::Rule`].
//!
//! Invariant: header and segment are read once, and the blocks of a request that is to be carried
//! out lie on the disk.

mod config;
mod request;

pub use config::{CONFIG_BYTES, Shape, feature};
pub use request::{Data, IDENTITY_BYTES, Kind, Parsed, Request, Status};

/// Bytes of a sector, the unit of the protocol whatever the block size is.
pub const SECTOR: u32 = 512;
