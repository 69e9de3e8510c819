//! What tests of workers need: guest memory that watches every access ([`TestRam`]), the driver's
//! side of a ring ([`Driver`], [`PackedDriver`]), and the monitor's and kernel's side of the page ([`Monitor`]).
//!
//! They are written from the specification, not from the code under test, and share nothing with
//! it but the layout in `cloister_virtio::wire`, which they repeat. They never reach an image.

#![forbid(unsafe_code)]

mod driver;
mod monitor;
mod packed;
mod ram;

pub use driver::{Buffer, Driver, INDIRECT, NEXT, WRITE};
pub use monitor::{Monitor, page};
pub use packed::{AVAIL, PackedDriver, USED};
pub use ram::TestRam;
