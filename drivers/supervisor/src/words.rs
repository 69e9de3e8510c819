//! What is said of a task that came to rest: one line that names the cause, and for a task its
//! backtrace. What is said of memory that devices were refused is here too. Of a virtual machine the same line says what follows.
//!
//! The line `backtrace NAME: […]` is an agreement with the host's log viewer, which puts function
//! names in place of the addresses.

use cloister_rt::abi::fault::BACKTRACE_LEN;
use cloister_rt::proto::stopped::{
    STOPPED_CONFIG, STOPPED_HOST, STOPPED_INVALID, STOPPED_PANIC, STOPPED_WORKER, Stopped,
};
use cloister_rt::{Clock, clock};
use cloister_rt::{DmaFaults, FaultReport};
use cloister_supervisor_core::{Cause, Next, RESETS_MAX, Stop, Then};
use defmt::{Format, Formatter};

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
        _ => defmt::error!("{=str}{}", name, Clause { cause, rip: report.rip }),
    }
}

/// One line for a person, of a virtual machine: what became of it, and what follows.
pub fn say_vm(name: &str, cause: &Cause, report: &FaultReport, next: Next, tries: u32) {
    let then = Consequence { next, tries, clock: clock() };
    match cause {
        Cause::Left { status: 0 } => defmt::info!("vm {=str}: guest powered off", name),
        Cause::GuestReset if matches!(next, Next::Restart { .. } | Next::GiveUp(_)) => {
            defmt::error!("vm {=str}: guest reset more than {} times{}", name, RESETS_MAX, then);
        }
        Cause::GuestReset => defmt::info!("vm {=str}: guest reset{}", name, then),
        Cause::VmStopped(stopped) if has_byte(stopped) => defmt::error!(
            "vm {=str}: {=str} {=u8:#x} at rip {=u64:#x}{}",
            name,
            stopped.name(),
            stopped.byte,
            stopped.rip,
            then
        ),
        Cause::VmStopped(stopped) if is_of_host(stopped) => {
            defmt::error!("vm {=str}: {=str}{}", name, stopped.name(), then);
        }
        Cause::VmStopped(stopped) => defmt::error!(
            "vm {=str}: {=str} at rip {=u64:#x}{}",
            name,
            stopped.name(),
            stopped.rip,
            then
        ),
        _ => {
            let clause = Clause { cause, rip: report.rip };
            defmt::error!("vm {=str}: monitor fault: it{}{}", name, clause, then);
        }
    }
}

/// One line for a person, of memory that a task's devices wanted and did not get.
pub fn say_dma(name: &str, faults: &DmaFaults, count: u64) {
    defmt::error!(
        "{=str}: its device {=u16:02x}:{=u16:02x}.{=u16} may not {=str} {=u64:#x}; the IOMMU refused \
         {=u64} accesses (the last one for reason {=u8:#x})",
        name,
        faults.source >> 8,
        faults.source >> 3 & 31,
        faults.source & 7,
        if faults.is_read { "read" } else { "write" },
        faults.address,
        count,
        faults.reason
    );
}

/// Whether the byte says more than the words: the guest's own, or of the CPU's code.
fn has_byte(stopped: &Stopped) -> bool {
    matches!(stopped.code, STOPPED_PANIC | STOPPED_INVALID)
}

/// Whether no instruction of the guest is to blame.
fn is_of_host(stopped: &Stopped) -> bool {
    matches!(stopped.code, STOPPED_HOST | STOPPED_WORKER | STOPPED_CONFIG)
}

/// What a task did, to stand behind its name.
struct Clause<'a> {
    cause: &'a Cause,
    rip: u64,
}

impl Format for Clause<'_> {
    fn format(&self, f: Formatter<'_>) {
        match self.cause {
            Cause::Left { status } => defmt::write!(f, " left with status {=u64}", *status),
            Cause::Panicked { line } => {
                defmt::write!(f, " panicked in line {=u64}; see its last words", *line);
            }
            Cause::GuestReset => defmt::write!(f, " asked for a reset, and it is no monitor"),
            Cause::VmStopped(stopped) => {
                defmt::write!(
                    f,
                    " left as a monitor does ({=str}), and it is none",
                    stopped.name()
                );
            }
            Cause::LeftOddly { reason } => {
                defmt::write!(f, " left for the unknown reason {=u64}", *reason);
            }
            Cause::StackOverflow { address } => defmt::write!(
                f,
                ": stack overflow (guard page at {=u64:#x}); give it a larger `stack`",
                *address
            ),
            Cause::NullPointer { access, address } => {
                defmt::write!(f, ": null pointer, {=str} at {=u64:#x}", access.name(), *address);
            }
            Cause::NotMapped { access, address } => {
                let access = access.name();
                defmt::write!(f, ": {=str} at {=u64:#x}, where it has no memory", access, *address);
            }
            Cause::Forbidden { access, address } => {
                defmt::write!(f, ": forbidden {=str} at {=u64:#x}", access.name(), *address);
            }
            Cause::Named(words) => defmt::write!(f, " {=str} (at {=u64:#x})", words, self.rip),
            Cause::Exception { vector, error } => {
                defmt::write!(f, ": CPU exception {=u8} with code {=u64:#x}", *vector, *error);
            }
            Cause::BadCall { number } => defmt::write!(
                f,
                " made system call {=u64}, which does not exist (any more)",
                *number
            ),
            Cause::DmaStorm { source, address } => defmt::write!(
                f,
                ": its device {=u64:04x} went on reaching for memory that is not its own, {=u64:#x} at last",
                *source,
                *address
            ),
            Cause::InterruptStorm { interrupt } => defmt::write!(
                f,
                ": its interrupt {=u64} comes more often than the board file allows",
                *interrupt
            ),
            Cause::Unknown => defmt::write!(f, " stopped, the kernel has no record why"),
        }
    }
}

/// What follows for a virtual machine, to stand behind what became of it.
struct Consequence {
    next: Next,
    tries: u32,
    clock: Clock,
}

impl Format for Consequence {
    fn format(&self, f: Formatter<'_>) {
        match self.next {
            Next::Nothing | Next::Done => {}
            Next::Reset { nth } => defmt::write!(f, " {=u32}; it starts anew", nth),
            Next::Stopped => defmt::write!(f, ", as it was told to stop"),
            Next::Restart { delay, nth } => {
                let ms = self.clock.duration(delay).as_millis();
                let (number, unit) =
                    if ms.is_multiple_of(1000) { (ms / 1000, "s") } else { (ms, "ms") };
                let tries = self.tries;
                defmt::write!(
                    f,
                    "; restart {=u32} of {=u32} in {=u64} {=str}",
                    nth,
                    tries,
                    number,
                    unit
                );
            }
            Next::GiveUp(Then::Stop) => defmt::write!(f, "; no try is left, it stays stopped"),
            Next::GiveUp(Then::Reboot) => defmt::write!(f, "; no try is left, the machine reboots"),
            Next::GiveUp(Then::PowerOff) => {
                defmt::write!(f, "; no try is left, the machine powers off");
            }
        }
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
