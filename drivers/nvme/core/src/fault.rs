//! What can be wrong with a controller: [`Fault`], [`Failure`], [`Sick`].

use cloister_block::{self as block, Cure, Sickness};

/// A completion that makes no sense. The controller is broken or means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It names no command that is in flight: one that ended already, or none that ever was.
    NoSuchCommand {
        /// The queue that it stood in.
        queue: u16,
        /// The identifier that it has.
        id: u16,
    },
    /// It is for another submission queue than the one that the completion queue belongs to.
    WrongQueue {
        /// The queue that it stood in.
        queue: u16,
        /// The one that it names.
        named: u16,
    },
    /// Its position in the submission queue is none.
    HeadOutside {
        /// The queue.
        queue: u16,
        /// The position.
        head: u16,
    },
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The driver was given too little memory, or registers, for it.
    Memory,
    /// Its registers read as ones: it is not there any more.
    Gone,
    /// It does not have the NVM command set, pages of 4 KiB, or queues of two entries.
    Unsupported,
    /// It did not become ready, or did not stop, in the time that it claims for itself.
    NotReady,
    /// It says that it has a fatal error ("Controller Status").
    Fatal,
    /// An admin command was not answered.
    Silent {
        /// Its operation code.
        opcode: u8,
    },
    /// An admin command failed.
    Refused {
        /// Its operation code.
        opcode: u8,
        /// Status code and type.
        status: u16,
    },
    /// It has no namespace, or one that no block of 512 to 4096 bytes without metadata fits.
    NoNamespace,
    /// It has no virtual function of that number.
    NoFunction {
        /// The number.
        number: u16,
    },
    /// What it says of itself is not what it said before.
    Changed,
}

/// Why a controller is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sick {
    /// Its registers read as ones: it is not there any more.
    Gone,
    /// It says that it has a fatal error, or that it stopped by itself.
    Fatal,
    /// A command was not answered in time.
    TimedOut {
        /// The queue.
        queue: u16,
        /// The command's identifier.
        id: u16,
    },
    /// A completion made no sense.
    Fault(Fault),
}

impl Sickness for Sick {
    fn cure(self) -> Cure {
        if self == Sick::Gone { Cure::Nothing } else { Cure::Reset }
    }
}

/// How far a controller has come.
pub type State = block::State<Sick>;
/// What a look at a controller found.
pub type Health = block::Health<Sick>;
