//! What can be wrong with a device: [`Fault`], [`Failure`], [`Sick`].

use cloister_block::{self as block, Cure, Sickness};
use cloister_dma_queue as queue;

/// Something in memory that makes no sense. The device is broken or means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ended more requests than are in flight.
    TooMany {
        /// How many.
        count: u16,
    },
    /// It ended a request that is not in flight.
    NoSuchRequest {
        /// What it said.
        id: u32,
    },
    /// It changed what it had said.
    Changed,
    /// It wrote more bytes than it was given room for, or not all that a read is about.
    Length {
        /// How many it says.
        len: u32,
    },
    /// A status that there is not; 255 if it wrote none.
    Status {
        /// The status.
        status: u8,
    },
}

impl From<queue::Fault> for Fault {
    fn from(fault: queue::Fault) -> Fault {
        match fault {
            queue::Fault::TooMany { count } => Fault::TooMany { count },
            queue::Fault::NoSuchChain { id } => Fault::NoSuchRequest { id },
            queue::Fault::Changed => Fault::Changed,
        }
    }
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The driver was given too little memory for it.
    Memory,
    /// Its registers read as ones: it is not there any more.
    Gone,
    /// It is no virtio disk.
    Kind,
    /// Its function lacks a structure of registers, or the manifest does not map the BAR with it.
    Structures,
    /// It is a device of before virtio 1.0.
    Old,
    /// It does not offer VIRTIO_F_ACCESS_PLATFORM: it would reach memory past the IOMMU.
    Unconfined,
    /// It does not take the features that it offers.
    Features,
    /// It did not end a reset in time.
    NotReady,
    /// Its queue is shorter than the driver's, or is not there.
    Queue,
    /// It takes no interrupt vector.
    Vector,
    /// Its blocks are not of 512 to 4096 bytes, or it has none.
    Blocks,
    /// What it says of itself changes all the time, or is not what it said before.
    Changed,
}

/// Why a device is to be looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sick {
    /// Its registers read as ones.
    Gone,
    /// It says that it needs a reset, or was reset by somebody else.
    NeedsReset,
    /// It has fewer blocks than before.
    Shrunk,
    /// A request was not answered in time.
    TimedOut {
        /// Its slot.
        slot: u8,
    },
    /// It did something that makes no sense.
    Fault(Fault),
}

impl Sickness for Sick {
    fn cure(self) -> Cure {
        match self {
            // Volumes may not be where they were.
            Sick::Gone | Sick::Shrunk => Cure::Nothing,
            _ => Cure::Reset,
        }
    }
}

/// How far a device has come.
pub type State = block::State<Sick>;
/// What a look at a device found.
pub type Health = block::Health<Sick>;
