//! The header of an encrypted volume: its key, wrapped in slots; and how a driver asks for the key
//! that opens them.
//!
//! A volume is encrypted with a random [`VolumeKey`] that exists nowhere but in its header, wrapped
//! by a [`WrappingKey`] of a person or of a manifest. [`Header`] is the first block of the volume:
//! [`Header::read`] and [`Header::to_block`] on the disk's side, [`Slot::wrap`] and
//! [`Header::unlock`] on the key's. [`passphrase`] makes a wrapping key of what somebody types,
//! [`release`] is the conversation in which the vault hands one to a driver (docs/notes/0012-keys.md).
//! To erase a volume is to overwrite its header with [`Header::erased`] and flush: the time does
//! not depend on the volume's size; [`erase`] is the vault's order to do that to a volume in use.
//! [`Asker`] is the driver's side of these conversations.
//!
//! Neighbours: `drivers/vault` answers, drivers of disks ask and hand the volume key to
//! `lib/cipher`, xtask makes headers on the host. Invariant: no byte of a header or a message makes
//! anything here panic, allocate, or take longer than its limits say; keys are wiped when dropped.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

mod ask;
pub mod erase;
mod header;
mod key;
pub mod passphrase;
pub mod release;
mod slot;

pub use ask::{Asker, Failure, Step};
pub use header::{DATA_OFFSET, HEADER, Header, SLOTS, Unreadable};
pub use key::{VolumeKey, WrappingKey};
pub use slot::{Kind, Slot};
