//! The block server: the virtio disks of several guests on volumes of one disk.
//!
//! A driver implements [`Disk`] (submit, poll) and is done: what several guests on one disk need
//! is here. A [`Client`] is one guest's device, the [`Server`] has all of them take turns. [`Engine`]
//! cuts requests into commands, holds back writes that overlap, and puts results together;
//! [`Rate`] bounds what a client may do in a second; [`Sharing`] says how much each of them may have
//! in flight; [`Bounce`] is for memory that the disk cannot use, and [`Seal`] encrypts there. What the
//! drivers' cores have in common is here too: a [`Controller`] with its [`Life`], [`Slots`] for the
//! commands in flight, [`wait_for`]. These cores and `lib/virtio` are the neighbours.
//!
//! Invariant: a request ends once, and only when the disk will touch none of its memory any more.

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

mod bounce;
mod buffers;
mod client;
mod controller;
mod cut;
mod disk;
mod engine;
mod pieces;
mod rate;
mod registers;
mod request;
mod seal;
mod sealed;
mod server;
mod share;
mod slots;
mod wait;

pub use bounce::Bounce;
pub use buffers::Buffers;
pub use client::{CHAIN_MAX, Client, QUEUES, Ticket, Volume};
pub use controller::{Controller, Cure, Health, Life, Sickness, State};
pub use disk::{Busy, Command, Disk, Fit, Limits, Operation, Outcome, PAGE, Segment, Tag};
pub use engine::{CLIENTS_MAX, Engine, Finished, Held, Place, Progress, REQUESTS_MAX};
pub use rate::Rate;
pub use registers::Registers;
pub use request::{Request, SEGMENTS_MAX};
pub use seal::{BLOCK, GROUPS, Plain, Seal};
pub use server::{Next, Server};
pub use share::Sharing;
pub use slots::{Set, Slot, Slots};
pub use wait::{Pause, ms, wait_for};
