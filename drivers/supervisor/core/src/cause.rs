//! What stopped a task, told from its fault record.
//!
//! A record is numbers of the CPU; a [`Cause`] is what a person would say. Where several would
//! fit, the more specific one wins: a write just below the stack is an overflow, not "memory that
//! is not mapped".

use cloister_abi::fault::{FaultKind, LeaveReason};
use cloister_abi::layout::{PAGE, STACK_MAX, STACK_TOP};
use cloister_proto::stopped::Stopped;

use crate::agenda::Ended;

/// Addresses below are taken for null pointers, with or without a field's offset.
const NULL_END: u64 = 0x1_0000;
/// How far below the stack pointer one store of a function's beginning may reach: stack probes
/// touch every page.
const PROBE: u64 = 2 * PAGE;

/// Error code of a page fault: the page is mapped, its rights forbid the access.
const ERROR_PRESENT: u64 = 1;
/// Error code of a page fault: a write.
const ERROR_WRITE: u64 = 2;
/// Error code of a page fault: an instruction fetch.
const ERROR_FETCH: u64 = 16;

/// The record's words that the cause depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What kind of stop.
    pub kind: FaultKind,
    /// The CPU's exception vector.
    pub vector: u8,
    /// Address of a page fault, or what the kind defines.
    pub address: u64,
    /// Error code of the exception.
    pub error: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// `leave`: the reason.
    pub reason: u64,
    /// `leave`: the detail.
    pub detail: u64,
}

/// How memory was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}

impl Access {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Fetch => "jump",
        }
    }
}

/// What stopped a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It left with a status.
    Left {
        /// 0 for success.
        status: u64,
    },
    /// It panicked; its own log says why.
    Panicked {
        /// The line in its source.
        line: u64,
    },
    /// It asks to be started anew, because its guest does. Only a monitor may.
    GuestReset,
    /// Its virtual machine cannot go on.
    VmStopped(Stopped),
    /// It called `leave` with an unknown reason.
    LeftOddly {
        /// The reason.
        reason: u64,
    },
    /// The stack was too small.
    StackOverflow {
        /// Where it went on.
        address: u64,
    },
    /// A null pointer, perhaps with an offset.
    NullPointer {
        /// How it was used.
        access: Access,
        /// Where.
        address: u64,
    },
    /// Memory that the task does not have.
    NotMapped {
        /// How it was used.
        access: Access,
        /// Where.
        address: u64,
    },
    /// Memory that it has, but not for this access.
    Forbidden {
        /// How it was used.
        access: Access,
        /// Where.
        address: u64,
    },
    /// An exception that has a name of its own.
    Named(&'static str),
    /// Another exception.
    Exception {
        /// The CPU's vector.
        vector: u8,
        /// Its error code.
        error: u64,
    },
    /// A system call that does not exist, or exists only before the seal.
    BadCall {
        /// Its number.
        number: u64,
    },
    /// Its devices' DMA was refused more often than the kernel takes.
    DmaStorm {
        /// The function: bus << 8 | device << 3 | function.
        source: u64,
        /// The last address.
        address: u64,
    },
    /// Its device interrupted more often than the manifest allows.
    InterruptStorm {
        /// The interrupt's index.
        interrupt: u64,
    },
    /// The kernel has no record.
    Unknown,
}

impl Cause {
    /// Reads a record.
    pub fn of(stop: &Stop) -> Cause {
        match stop.kind {
            FaultKind::None => Cause::Unknown,
            FaultKind::Leave => Cause::of_leave(stop),
            FaultKind::BadCall => Cause::BadCall { number: stop.address },
            FaultKind::InterruptStorm => Cause::InterruptStorm { interrupt: stop.address },
            FaultKind::DmaStorm => Cause::DmaStorm { source: stop.error, address: stop.address },
            FaultKind::Exception => Cause::of_exception(stop),
        }
    }

    /// How the task ended, as its restart policy sees it. A reset is a monitor's privilege: any
    /// other task could evade its policy with it.
    pub fn ended(&self, is_monitor: bool) -> Ended {
        match self {
            Cause::Left { status: 0 } => Ended::Done,
            Cause::GuestReset if is_monitor => Ended::Reset,
            _ => Ended::Failed,
        }
    }

    fn of_leave(stop: &Stop) -> Cause {
        if stop.reason == LeaveReason::Exit as u64 {
            Cause::Left { status: stop.detail }
        } else if stop.reason == LeaveReason::Panic as u64 {
            Cause::Panicked { line: stop.detail }
        } else if stop.reason == LeaveReason::Reset as u64 {
            Cause::GuestReset
        } else if stop.reason == LeaveReason::Stopped as u64 {
            Cause::VmStopped(Stopped::from_detail(stop.detail))
        } else {
            Cause::LeftOddly { reason: stop.reason }
        }
    }

    fn of_exception(stop: &Stop) -> Cause {
        Cause::Named(match stop.vector {
            0 => "divided by zero, or the quotient was too large",
            1 => "hit a debug trap",
            3 => "hit a breakpoint instruction",
            4 => "overflowed at an INTO instruction",
            5 => "broke the limits of a BOUND instruction",
            6 => "ran an invalid instruction",
            7 => "used floating point without permission; the manifest's key is fpu = true",
            10..=12 => "used a segment that it does not have",
            13 => "ran an instruction that only the kernel may run, or used a wild pointer",
            14 => return Cause::of_page_fault(stop),
            16 | 19 => "made a floating-point error that it does not mask",
            17 => "used unaligned memory where alignment is checked",
            18 => "met a machine check",
            vector => {
                return Cause::Exception { vector, error: stop.error };
            }
        })
    }

    fn of_page_fault(stop: &Stop) -> Cause {
        let address = stop.address;
        let access = if stop.error & ERROR_FETCH != 0 {
            Access::Fetch
        } else if stop.error & ERROR_WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        if stop.error & ERROR_PRESENT != 0 {
            return Cause::Forbidden { access, address };
        }
        if access != Access::Fetch && is_below_stack(address, stop.rsp) {
            return Cause::StackOverflow { address };
        }
        if address < NULL_END {
            return Cause::NullPointer { access, address };
        }
        Cause::NotMapped { access, address }
    }
}

/// Whether the address is in a guard: anywhere below a first thread's stack in the area that is
/// reserved for it, or next to the stack pointer of any thread.
fn is_below_stack(address: u64, rsp: u64) -> bool {
    let area = STACK_TOP - STACK_MAX - PAGE..STACK_TOP;
    area.contains(&address) || (rsp.saturating_sub(PROBE)..rsp.saturating_add(8)).contains(&address)
}
