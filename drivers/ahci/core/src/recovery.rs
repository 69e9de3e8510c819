//! The driver's own commands, and how it goes on after an error ("Software Operations", "Error
//! Recovery"): [`identify`], [`recover`].
//!
//! An error stops the port, and the disk drops all commands of its queue. The log of the disk says
//! whose error it was. A disk without that log, or whose log makes no sense, gets the commands again
//! one by one, each outside of its queue: an error is then that command's. Invariant: only a command
//! to which an error was traced is blamed.

use cloister_block::{Pause, Registers, Segment, ms, wait_for};
use cloister_dma::Memory;

use crate::commands::Commands;
use crate::fault::Failure;
use crate::identify;
use crate::log::{self, Blame};
use crate::plan::Plan;
use crate::port::Port;
use crate::registers::GONE;
use crate::table::{self, Order, code};

/// How long a command of the driver's own may take.
const PATIENCE_NS: u64 = ms(10_000);

/// Has the disk say what it is.
pub(crate) fn identify(
    registers: &impl Registers,
    memory: &impl Memory,
    port: Port,
    pause: &impl Pause,
) -> Result<(), Failure> {
    let order = Order { code: code::IDENTIFY, ..Order::default() };
    ask(registers, memory, port, pause, &order, identify::ANSWER)
}

/// Gives a port that works on nothing a command, in the first slot, and waits for its answer.
fn ask(
    registers: &impl Registers,
    memory: &impl Memory,
    port: Port,
    pause: &impl Pause,
    order: &Order,
    bytes: usize,
) -> Result<(), Failure> {
    let len = u64::try_from(bytes).map_err(|_| Failure::Memory)?;
    let table = Plan::OWN_TABLE;
    let written = || {
        memory.clear(Plan::ANSWER, len)?;
        let segment = Segment { address: memory.address(Plan::ANSWER), len };
        let pieces = table::pieces(memory, table, &[segment])?;
        order.put(memory, table)?;
        table::head(memory, 0, table, pieces, false)
    };
    written().ok_or(Failure::Memory)?;
    cloister_dma::publish();
    port.issue(registers, 1, 0);
    let code = order.code;
    let ended = wait_for(pause, PATIENCE_NS, || {
        let busy = port.busy_slots(registers);
        // In this order: an error that ended the command is seen.
        let has_error = port.has_error(registers);
        match busy {
            None => Some(Err(Failure::Memory)),
            Some(GONE) => Some(Err(Failure::Gone)),
            Some(_) if has_error => Some(Err(Failure::Refused { code })),
            Some(0) => Some(Ok(())),
            Some(_) => None,
        }
    });
    ended.unwrap_or(Err(Failure::Silent { code }))?;
    cloister_dma::observe();
    // Of the driver's own commands nothing is to be told.
    port.take_events(registers).ok_or(Failure::Memory).map(drop)
}

/// After an error: finds out whose it was, and has the port work again. No command is with the disk
/// then.
pub(crate) fn recover(
    registers: &impl Registers,
    memory: &impl Memory,
    port: Port,
    commands: &mut Commands,
    has_log: bool,
    pause: &impl Pause,
) -> Result<(), Failure> {
    let error = port.error(registers);
    let is_paused = match port.pause(registers, pause) {
        Ok(()) => true,
        Err(Failure::NotReady) => false,
        Err(failure) => return Err(failure),
    };
    let is_queued = !commands.queued().is_empty();
    match (commands.alone(), error) {
        (Some(slot), Some(error)) => commands.blame(slot, error),
        // The transfer failed, not the disk.
        (Some(slot), None) => commands.blame(slot, log::LINK_ERROR),
        (None, _) => {}
    }
    if is_paused && !port.is_busy(registers) {
        port.start(registers)?;
        let is_known = is_queued && has_log && read_log(registers, memory, port, commands, pause);
        if is_known || !is_queued {
            return Ok(());
        }
        port.pause(registers, pause)?;
    }
    // What the disk may still be at is dropped, and whatever is not known is found out one by one.
    commands.part();
    if !port.reset_link(registers, pause)? {
        return Err(Failure::NoDisk);
    }
    port.start(registers)
}

/// Reads the log; whether it says which command failed.
fn read_log(
    registers: &impl Registers,
    memory: &impl Memory,
    port: Port,
    commands: &mut Commands,
    pause: &impl Pause,
) -> bool {
    let order = Order { code: code::READ_LOG, features: 0, block: log::ADDRESS, count: 1 };
    if ask(registers, memory, port, pause, &order, log::PAGE).is_err() {
        return false;
    }
    let blame = Blame::read(memory, Plan::ANSWER);
    let is_one = |blame: &Blame| commands.queued().has(blame.slot);
    let Some(blame) = blame.filter(is_one) else {
        return false;
    };
    commands.blame(blame.slot, blame.error);
    true
}
