//! The words of the command line: [`Options`].

use core::fmt;

use cloister_guest_rt::abi::disk::features;
use cloister_guest_rt::cmdline::CommandLine;
use cloister_guest_rt::virtio::Failure;
use cloister_guest_rt::virtio::disk::{Fault, Refused, Wanted};
use guest_disk_core::Wrong;

/// Blocks of the longest request.
pub const RUN: u32 = 4;

/// What the command line says, or what is usual.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `ring=packed`.
    pub is_packed: bool,
    /// `indirect=no`.
    pub is_indirect: bool,
    /// `event=no`.
    pub has_event_idx: bool,
    /// `wait=poll`: the guest never sleeps.
    pub is_polled: bool,
    /// `queues=`: queues in use.
    pub queues: usize,
    /// `depth=`: requests in flight.
    pub depth: usize,
    /// `writes=`: writes of the whole run.
    pub writes: u64,
    /// `size=`: blocks in use.
    pub blocks: u64,
    /// `flush=`: a flush after so many requests, 0 for none.
    pub flush: u32,
    /// `ms=`: how long to count.
    pub ms: u64,
    /// `bad=`: reads that have to fail.
    pub bad: u64,
    /// `bad_writes=`: writes that have to fail.
    pub bad_writes: u64,
    /// `seed=`: chooses the requests, and is the generation of the blocks.
    pub seed: u64,
}

impl Options {
    /// Reads the words.
    pub fn of(line: &CommandLine) -> Self {
        let number = |key, usual| line.number(key).unwrap_or(usual);
        let is_on = |key| line.get(key) != Some("no");
        Self {
            is_packed: line.get("ring") == Some("packed"),
            is_indirect: is_on("indirect"),
            has_event_idx: is_on("event"),
            is_polled: line.get("wait") == Some("poll"),
            queues: number("queues", 4).clamp(1, 4) as usize,
            depth: number("depth", 32).clamp(1, 128) as usize,
            writes: number("writes", 2000),
            blocks: number("size", 256).max(1),
            flush: number("flush", 64) as u32,
            ms: number("ms", 1000),
            bad: number("bad", 0),
            bad_writes: number("bad_writes", 0),
            seed: number("seed", 1),
        }
    }

    /// What to ask of the driver.
    pub fn wanted(&self) -> Wanted {
        let mut rings = 0;
        rings |= if self.is_packed { features::RING_PACKED } else { 0 };
        rings |= if self.is_indirect { features::INDIRECT } else { 0 };
        rings |= if self.has_event_idx { features::EVENT_IDX } else { 0 };
        // A page of data for each buffer of a chain, so that chains are long.
        Wanted { rings, queues: self.queues, cut: 4096 }
    }
}

/// Why a run failed.
#[derive(Clone, Copy, Debug)]
pub enum Failed {
    /// The device or its driver.
    Device(Failure),
    /// A request was refused.
    Refused(Refused),
    /// A request came back with a fault.
    Request(&'static str, u64, Fault),
    /// A block.
    Block(u64, Wrong),
    /// Nothing was completed for a long time, with so many requests in flight.
    Silence(usize),
    /// Something else, with a number that helps.
    Other(&'static str, u64),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Device(failure)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Device(failure) => write!(f, "{failure}"),
            Self::Refused(why) => write!(f, "a request is refused: {why:?}"),
            Self::Request(what, block, fault) => write!(f, "{what} at block {block}: {fault:?}"),
            Self::Block(block, wrong) => write!(f, "block {block} {wrong}"),
            Self::Silence(count) => write!(f, "{count} requests in flight are never completed"),
            Self::Other(what, number) => write!(f, "{what} ({number:#x})"),
        }
    }
}
