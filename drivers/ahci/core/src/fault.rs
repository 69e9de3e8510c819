//! What can be wrong with a controller or its disk: [`Fault`], [`Failure`], [`Sick`].

use cloister_block::{self as block, Cure, Sickness};

/// A register that makes no sense. The controller is broken or means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It says that commands are under way that nobody issued, one bit for each slot.
    NotIssued {
        /// The slots.
        slots: u32,
    },
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The driver was given too little memory, or registers, for it.
    Memory,
    /// Its registers read as ones: it is not there any more.
    Gone,
    /// Its addresses have 32 bits, and clients' memory lies above them.
    Narrow,
    /// The firmware does not let go of it ("BIOS/OS Handoff").
    Held,
    /// It, or its port, did not become ready or did not stop in time.
    NotReady,
    /// It has no port with a disk.
    NoDisk,
    /// The disk lacks 48-bit addresses, DMA, or blocks of 512 to 4096 bytes.
    Unsupported,
    /// The disk did not answer a command.
    Silent {
        /// Its code.
        code: u8,
    },
    /// The disk failed a command.
    Refused {
        /// Its code.
        code: u8,
    },
    /// What the disk says of itself is not what it said before.
    Changed,
}

/// Why a controller is to be looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sick {
    /// Its registers read as ones, or the disk is no longer connected.
    Gone,
    /// It stopped at a command's error: the port is recovered, the controller not reset.
    Error,
    /// It says that it cannot go on: the bus failed it.
    Fatal,
    /// The link to the disk went down and came up again: it may be another disk.
    Link,
    /// A command was not answered in time.
    TimedOut {
        /// Its slot.
        slot: u8,
    },
    /// A register made no sense.
    Fault(Fault),
}

impl Sickness for Sick {
    fn cure(self) -> Cure {
        match self {
            Sick::Gone => Cure::Nothing,
            Sick::Error => Cure::Recovery,
            _ => Cure::Reset,
        }
    }
}

/// How far a controller has come.
pub type State = block::State<Sick>;
/// What a look at a controller found.
pub type Health = block::Health<Sick>;
