//! What the vault decides: who gets which key, once in each life; how a passphrase is typed.
//!
//! A [`Keeper`] stands for one export, which one driver holds. [`Keeper::ask`] judges a message:
//! either there is a reply, or somebody has to type a passphrase first, and then
//! [`Keeper::typed`] makes the reply. [`Line`] is what was typed so far. A [`Desk`] is where somebody
//! says that a volume is to be erased, and [`Keeper::erase`] keeps that until a driver has done it.
//! The task around it has mailboxes, console and memory. The protocol is docs/notes/0012-keys.md.
//!
//! Invariant: a life of a driver that had a key gets none again, but for a passphrase that it says
//! was wrong, and that at most [`TRIES`] times; no key is released for a volume that is to be
//! erased; nothing here panics, whatever a driver writes.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

mod desk;
mod keeper;
mod line;

pub use desk::{Desk, SURE, Said};
pub use keeper::{Answer, Keeper, TRIES, Wanted};
pub use line::{Line, Typed};
