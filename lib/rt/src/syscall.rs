//! The `syscall` instruction, and the refusals that calls return.
//!
//! [`call`] is the only place in a task's program that enters the kernel. It follows the register
//! convention of `cloister_abi::call`; everything else in this crate gives it a typed face.

use cloister_abi::call::{Call, Status};
use cloister_abi::fault::LeaveReason;
use core::arch::asm;

/// What the kernel left in the registers.
#[derive(Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) status: u64,
    pub(crate) values: [u64; 4],
}

/// Why the kernel refused a call. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, defmt::Format)]
pub enum Refused {
    /// The slot is beyond the capability table.
    NoCap,
    /// The slot holds a capability of another kind.
    WrongKind,
    /// The capability lacks the right.
    NoRight,
    /// The object is in a state that does not allow this now.
    WrongState,
    /// An argument is out of its range.
    BadArgument,
}

impl Refused {
    /// The kernel's code for it.
    pub fn status(self) -> Status {
        match self {
            Refused::NoCap => Status::NoCap,
            Refused::WrongKind => Status::WrongKind,
            Refused::NoRight => Status::NoRight,
            Refused::WrongState => Status::WrongState,
            Refused::BadArgument => Status::BadArgument,
        }
    }
}

/// Makes one system call.
pub(crate) fn call(number: Call, a: u64, b: u64, c: u64) -> Reply {
    let status: u64;
    let mut values = [0; 4];
    // SAFETY: (1) the register lists are those of `cloister_abi::call`: all that the kernel
    // changes is named as an output, everything else keeps its value. (2) No call takes a pointer:
    // the kernel does not read or write this task's memory, so no argument can break the aliasing
    // rules. (3) The stack is not used by `syscall`; memory is not declared untouched, because
    // other tasks may have written to shared words by the time the call returns.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as u64 => status,
            inlateout("rdi") a => values[2],
            inlateout("rsi") b => values[1],
            inlateout("rdx") c => values[0],
            lateout("r8") values[3],
            lateout("rcx") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    Reply { status, values }
}

/// The outcome of a call that defines no status but `Ok` and refusals.
pub(crate) fn checked(reply: Reply) -> Result<[u64; 4], Refused> {
    match Status::from_code(reply.status) {
        Some(Status::Ok) => Ok(reply.values),
        Some(Status::NoCap) => Err(Refused::NoCap),
        Some(Status::WrongKind) => Err(Refused::WrongKind),
        Some(Status::NoRight) => Err(Refused::NoRight),
        Some(Status::WrongState) => Err(Refused::WrongState),
        Some(Status::BadArgument) => Err(Refused::BadArgument),
        // A kernel of another version; nothing that it says can be relied on.
        Some(Status::Deadline | Status::Exit) | None => {
            leave(LeaveReason::Panic, u64::from(line!()))
        }
    }
}

/// Stops this task for good and tells the supervisor. For an exit the detail is a status, 0 for
/// success.
pub fn leave(reason: LeaveReason, detail: u64) -> ! {
    loop {
        // The kernel never returns from this call; a loop is what says so without a second
        // assumption.
        call(Call::Leave, reason as u64, detail, 0);
    }
}
