//! The broker's pure part: a guest's disk on one side, the driver of a window on the other.
//!
//! [`Broker`] works the guest's virtio disk as its device, with in-flight records, and is itself
//! the driver of a second virtio disk, whose memory is the *window*: [`Link`]. It copies data
//! between the two, through [`Units`] of the window, so that the disk's driver and its devices
//! have nothing of the guest but the bytes of requests in flight. A request that is longer than a
//! run of units goes in parts.
//!
//! Neighbours: `drivers/broker` is the task, `lib/virtio` has the device's side and the page,
//! `guest-abi` the disk that the guest sees: the same as without a broker.
//!
//! Invariants: neither guest nor server is trusted; what either writes is read once, checked, and
//! used as a copy. The guest's memory is touched only between its live order and the answer to its
//! next reset, and that answer waits until nothing of the old life can reach the disk any more.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

mod broker;
mod link;
mod ring;
mod table;
mod units;

pub use broker::{Broker, QUEUES, shape};
pub use link::{Geometry, Link, Loss, State, TooSmall};
pub use ring::Broken;
pub use table::Table;
pub use units::{Run, Units};
