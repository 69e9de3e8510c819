//! What is said of a task that stopped: one line that names the cause, and its backtrace.
//!
//! The line `backtrace NAME: […]` is an agreement with the host's log viewer, which puts function
//! names in place of the addresses.

use cloister_rt::FaultReport;
use cloister_rt::abi::fault::BACKTRACE_LEN;
use cloister_supervisor_core::{Cause, Stop};

/// The cause, told from the record.
pub fn cause(report: &FaultReport) -> Cause {
    Cause::of(&Stop {
        kind: report.kind,
        vector: report.vector,
        address: report.address,
        error: report.error,
        rsp: report.rsp,
        reason: report.reason,
        detail: report.detail,
    })
}

/// One line for a person.
pub fn say(name: &str, cause: &Cause, report: &FaultReport) {
    match cause {
        Cause::Left { status: 0 } => defmt::info!("{=str} is done", name),
        Cause::Left { status } => defmt::error!("{=str} left with status {=u64}", name, *status),
        Cause::Panicked { line } => {
            defmt::error!("{=str} panicked in line {=u64}; see its last words", name, *line);
        }
        Cause::LeftOddly { reason } => {
            defmt::error!("{=str} left for the unknown reason {=u64}", name, *reason);
        }
        Cause::StackOverflow { address } => defmt::error!(
            "{=str}: stack overflow (guard page at {=u64:#x}); give it a larger `stack`",
            name,
            *address
        ),
        Cause::NullPointer { access, address } => {
            defmt::error!(
                "{=str}: null pointer, {=str} at {=u64:#x}",
                name,
                access.name(),
                *address
            );
        }
        Cause::NotMapped { access, address } => {
            let access = access.name();
            defmt::error!(
                "{=str}: {=str} at {=u64:#x}, where it has no memory",
                name,
                access,
                *address
            );
        }
        Cause::Forbidden { access, address } => {
            let access = access.name();
            defmt::error!("{=str}: forbidden {=str} at {=u64:#x}", name, access, *address);
        }
        Cause::Named(words) => {
            defmt::error!("{=str} {=str} (at {=u64:#x})", name, words, report.rip);
        }
        Cause::Exception { vector, error } => {
            defmt::error!("{=str}: CPU exception {=u8} with code {=u64:#x}", name, *vector, *error);
        }
        Cause::BadCall { number } => defmt::error!(
            "{=str} made system call {=u64}, which does not exist (any more)",
            name,
            *number
        ),
        Cause::InterruptStorm { interrupt } => defmt::error!(
            "{=str}: its interrupt {=u64} comes more often than the board file allows",
            name,
            *interrupt
        ),
        Cause::Unknown => defmt::error!("{=str} stopped, the kernel has no record why", name),
    }
}

/// Where it was, innermost first.
pub fn backtrace(name: &str, report: &FaultReport) {
    let mut all = [0; BACKTRACE_LEN + 1];
    let addresses = core::iter::once(report.rip).chain(report.backtrace);
    // A chain that ends early is followed by zeros.
    let mut len = 0;
    for (place, address) in all.iter_mut().zip(addresses.take_while(|address| *address != 0)) {
        *place = address;
        len += 1;
    }
    let known = all.get(..len).unwrap_or_default();
    defmt::error!("backtrace {=str}: {=[?]:#x}", name, known);
}
