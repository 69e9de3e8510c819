//! The supervisor's pure part: when a task is restarted ([`Agenda`]) and what stopped it
//! ([`Cause`]); [`Watch`] finds one that hangs.
//!
//! Nothing here makes a system call, and nothing here can panic: the supervisor's death reboots
//! the machine.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod agenda;
mod cause;
mod restarts;
mod watch;

pub use agenda::{Act, Agenda, Ended, Next};
pub use cause::{Access, Cause, Stop};
pub use restarts::{Limits, RESETS_MAX, Restarts, Then, Verdict};
pub use watch::{Look, Watch};
