//! Breakpoints on instructions and data, INT3 and its like.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::interrupts::{self, Frame};
use cloister_guest_rt::{cpu, port};
use guest_common::{Cases, Outcome, attempt, ensure, equal, log, registers, undefined};

/// Vectors of the debug exception and of INT3.
const DB: u8 = 1;
const BP: u8 = 3;
/// Resume flag: the breakpoint at the instruction itself is passed over once.
const RESUME: u64 = 1 << 16;
/// DR7: breakpoint 0 on, exactly, and its kinds: execution, one-byte write, four-byte access.
const ON: u64 = 0x702;
const WRITE_1: u64 = 1 << 16;
const ACCESS_4: u64 = 0xf << 16;
/// DR7 with nothing on.
const OFF: u64 = 0x400;
/// DR6 with nothing in it; its bit for breakpoint 0.
const CLEAR: u64 = 0xffff_0ff0;
const HIT_0: u64 = 1;

static DR6: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(DB, note);
    interrupts::set(BP, log::note);
    cases.run("INT3 and the debug instruction", instructions);
    cases.run("a breakpoint on an instruction", on_instruction);
    cases.run("a breakpoint on an instruction that leaves the guest", on_exit);
    cases.run("a watchpoint on a write", on_write);
    cases.run("a watchpoint on a read", on_read);
    cases.run("DR4 and DR5 are DR6 and DR7", aliases);
    cases.run("access to debug registers can be detected", detected);
    cases.run("debug registers hold after many exits", held);
    set(0, OFF);
}

fn note(frame: &mut Frame) {
    DR6.store(registers::dr6(), Ordering::Release);
    // SAFETY: only says what has happened so far.
    unsafe { registers::set_dr6(CLEAR) };
    log::note(frame);
    frame.rflags |= RESUME;
}

fn set(address: u64, control: u64) {
    // SAFETY: the handler of debug exceptions is set.
    unsafe { registers::set_dr7(OFF) };
    // SAFETY: as above.
    unsafe { registers::set_dr0(address) };
    // SAFETY: as above.
    unsafe { registers::set_dr7(control) };
    log::clear();
    DR6.store(0, Ordering::Release);
}

fn one_at(label: u64, dr6: u64) -> Outcome {
    set(0, OFF | log_len_keeps());
    equal("the number of exceptions", COUNT.load(Ordering::Acquire), 1)?;
    equal("the instruction", PLACE.load(Ordering::Acquire), label)?;
    equal("DR6", SEEN.load(Ordering::Acquire), dr6)
}
