//! The messages of an export `flush`: what supervisor and console have to tell each other.
//!
//! The supervisor serves the mailbox, because a client must be less urgent than its server; the
//! console, its client, is the one at which a person sits. The supervisor has the logs shipped
//! before power-off and tells how each virtual machine fares; the console passes on what the
//! person wants. States are told again to every new life of the console, so it needs to ask
//! nothing.
//!
//! First word of each message: its kind. What a kind does not define is zero.

use crate::layout::Message;

/// Server to client: ship all that was logged until now, then answer.
pub const FLUSH: u64 = 1;
/// Client to server: everything has left the machine.
pub const FLUSHED: u64 = 2;
/// Client to server: do something to a virtual machine. Operation, then name.
const COMMAND: u64 = 3;
/// Server to client: the state of a virtual machine. State, then name.
const STATE: u64 = 4;
/// Server to client: a command was refused. Operation, name, then the state it is in.
const REFUSED: u64 = 5;
/// Client to server: end the system in order and switch the machine off.
const POWER_OFF: u64 = 6;

/// Bytes of a name; shorter ones are padded with zeros.
pub const NAME_BYTES: usize = 32;
/// Words of a name.
const NAME_WORDS: usize = NAME_BYTES / 8;

/// A virtual machine's name as a padded field, as `cloister-abi` has it.
pub type Name = [u8; NAME_BYTES];

/// What can be done to a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Let it stand still.
    Pause,
    /// Let it go on where it was.
    Resume,
    /// Start it anew, whatever it does.
    Reset,
    /// Stop it for good.
    Stop,
    /// Start one that has ended.
    Start,
}

impl Operation {
    const ALL: [Operation; 5] =
        [Operation::Pause, Operation::Resume, Operation::Reset, Operation::Stop, Operation::Start];

    /// The verb for it.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Pause => "pause",
            Operation::Resume => "resume",
            Operation::Reset => "reset",
            Operation::Stop => "stop",
            Operation::Start => "start",
        }
    }
}

/// How a virtual machine fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// It runs.
    Running,
    /// It was told to stop and has not yet.
    Stopping,
    /// It stands still and can go on.
    Paused,
    /// It failed and will be restarted.
    Waiting,
    /// The guest has powered it off.
    PoweredOff,
    /// A person has stopped it.
    Stopped,
    /// It failed, and its tries have run out.
    GivenUp,
}

impl VmState {
    const ALL: [VmState; 7] = [
        VmState::Running,
        VmState::Stopping,
        VmState::Paused,
        VmState::Waiting,
        VmState::PoweredOff,
        VmState::Stopped,
        VmState::GivenUp,
    ];

    /// The words for it.
    pub const fn name(self) -> &'static str {
        match self {
            VmState::Running => "running",
            VmState::Stopping => "stopping",
            VmState::Paused => "paused",
            VmState::Waiting => "waiting for its restart",
            VmState::PoweredOff => "powered off",
            VmState::Stopped => "stopped",
            VmState::GivenUp => "failed, no try is left",
        }
    }
}

/// What the supervisor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ship everything.
    Flush,
    /// How a virtual machine fares.
    State(Name, VmState),
    /// A command was refused, because the virtual machine is in that state.
    Refused(Name, Operation, VmState),
}

/// What the console says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything was shipped.
    Flushed,
    /// A person wants this of a virtual machine.
    Command(Name, Operation),
    /// A person wants the machine to be switched off.
    PowerOff,
}

impl Order {
    /// The message.
    pub fn message(self) -> Message {
        match self {
            Order::Flush => with(FLUSH, 0, &[0; NAME_BYTES], 0),
            Order::State(name, state) => with(STATE, state as u64, &name, 0),
            Order::Refused(name, operation, state) => {
                with(REFUSED, operation as u64, &name, state as u64)
            }
        }
    }

    /// What a message says; `None` if it is of no known kind.
    pub fn of(message: &Message) -> Option<Order> {
        let Message([kind, what, name @ .., state, _]) = message;
        Some(match *kind {
            FLUSH => Order::Flush,
            STATE => Order::State(name_of(name), picked(&VmState::ALL, *what)?),
            REFUSED => {
                let operation = picked(&Operation::ALL, *what)?;
                Order::Refused(name_of(name), operation, picked(&VmState::ALL, *state)?)
            }
            _ => return None,
        })
    }
}

impl Report {
    /// The message.
    pub fn message(self) -> Message {
        match self {
            Report::Flushed => with(FLUSHED, 0, &[0; NAME_BYTES], 0),
            Report::Command(name, operation) => with(COMMAND, operation as u64, &name, 0),
            Report::PowerOff => with(POWER_OFF, 0, &[0; NAME_BYTES], 0),
        }
    }

    /// What a message says; `None` if it is of no known kind.
    pub fn of(message: &Message) -> Option<Report> {
        let Message([kind, what, name @ .., _, _]) = message;
        Some(match *kind {
            FLUSHED => Report::Flushed,
            COMMAND => Report::Command(name_of(name), picked(&Operation::ALL, *what)?),
            POWER_OFF => Report::PowerOff,
            _ => return None,
        })
    }
}

fn with(kind: u64, what: u64, name: &Name, state: u64) -> Message {
    let mut words = [kind, what, 0, 0, 0, 0, state, 0];
    for (word, bytes) in words.iter_mut().skip(2).zip(name.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    }
    Message(words)
}

fn name_of(words: &[u64; NAME_WORDS]) -> Name {
    let mut name = [0; NAME_BYTES];
    for (to, word) in name.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    name
}

fn picked<T: Copy>(all: &[T], number: u64) -> Option<T> {
    usize::try_from(number).ok().and_then(|number| all.get(number)).copied()
}
