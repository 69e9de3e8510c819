//! Faults: the record, the parking of the task, the word to its supervisor.

use crate::arch::x86_64::frame::{self, Regs};
use crate::arch::x86_64::{cpu, smap};
use crate::core_state::Core;
use crate::power;
use crate::shared::shared;
use crate::syscall::{Return, poke, threads_of};
use cloister_abi::fault::{BACKTRACE_LEN, FaultKind, FaultRecord};
use cloister_abi::table::{NONE, ROLE_INIT, ROLE_SUPERVISOR};
use cloister_core::park::Begun;
use cloister_core::signal::OP_PARK;

const PAGE_FAULT: u64 = 14;

/// A CPU exception in ring 3.
pub fn exception(core: &mut Core, regs: &Regs) {
    let address = if regs.vector == PAGE_FAULT { cpu::fault_address() } else { 0 };
    let kind = FaultKind::Exception as u64 | regs.vector << 8;
    let record = FaultRecord { kind, address, error: regs.error, ..here(core, regs) };
    fail(core, &record);
}

/// `leave(reason, detail)`.
pub fn leave(core: &mut Core, reason: u64, detail: u64) -> Return {
    let kind = FaultKind::Leave as u64;
    let record = FaultRecord { kind, reason, detail, ..by_call(core) };
    fail(core, &record);
    Return::SWITCH
}

/// A call number that does not exist, or not any more.
pub fn bad_call(core: &mut Core, number: u32) -> Return {
    let kind = FaultKind::BadCall as u64;
    let record = FaultRecord { kind, address: u64::from(number), ..by_call(core) };
    fail(core, &record);
    Return::SWITCH
}

/// An interrupt of this thread came too often.
pub fn storm(core: &mut Core, global: usize, irq: usize) {
    let record = FaultRecord {
        kind: FaultKind::InterruptStorm as u64,
        thread: u64::from(core.table.threads[global].index),
        address: irq as u64,
        core: u64::from(core.index),
        tsc: cpu::rdtsc(),
        ..Default::default()
    };
    let task = usize::from(core.table.threads[global].task);
    fail_task(core, task, &record);
}

/// The frame of a thread that entered by a system call: the registers that SYSCALL kept.
fn by_call(core: &mut Core) -> FaultRecord {
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    let regs = unsafe { frame::current() };
    here(core, regs)
}

fn here(core: &mut Core, regs: &Regs) -> FaultRecord {
    let current = core.current;
    let global = usize::from(core.thread(current).global);
    let thread = &core.table.threads[global];
    let stack = thread.stack_bottom..thread.stack_top;
    FaultRecord {
        thread: u64::from(thread.index),
        rip: regs.rip,
        rsp: regs.rsp,
        core: u64::from(core.index),
        tsc: cpu::rdtsc(),
        backtrace: backtrace(regs.rbp, &stack, core.features.smap),
        ..Default::default()
    }
}

/// Follows the frame pointers through the thread's own stack, which is mapped as a whole; every
/// step goes up, so it ends.
fn backtrace(rbp: u64, stack: &core::ops::Range<u64>, has_smap: bool) -> [u64; BACKTRACE_LEN] {
    let mut found = [0; BACKTRACE_LEN];
    let mut at = rbp;
    let mut low = stack.start;
    for slot in &mut found {
        let fits = at.is_multiple_of(8) && at >= low && at <= stack.end.saturating_sub(16);
        if !fits {
            break;
        }
        // SAFETY: both words lie inside the stack of the task whose space is loaded.
        let [next, address] = unsafe { smap::read_user(at as *const [u64; 2], has_smap) };
        *slot = address;
        (low, at) = (at + 16, next);
    }
    found
}

/// The current thread's task has failed.
fn fail(core: &mut Core, record: &FaultRecord) {
    let current = core.current;
    let task = usize::from(core.thread(current).task);
    fail_task(core, task, record);
}

fn fail_task(core: &mut Core, task: usize, record: &FaultRecord) {
    match core.table.tasks[task].role {
        ROLE_INIT => power::boot_failed(core, record),
        ROLE_SUPERVISOR => power::supervisor_died(record),
        _ => {}
    }
    let park = &shared().tasks()[task].park;
    let begun = park.begin(threads_of(core, task).count() as u8, true);
    if begun != Begun::Late {
        shared().tasks()[task].set_record(record);
    }
    tell_threads(core, task);
}

/// Stops a task without a fault. `false`: it does not run.
pub fn stop_task(core: &mut Core, task: usize) -> bool {
    let park = &shared().tasks()[task].park;
    let threads = threads_of(core, task).count() as u8;
    if park.begin(threads, false) != Begun::First {
        return false;
    }
    tell_threads(core, task);
    true
}

fn tell_threads(core: &mut Core, task: usize) {
    let now = cpu::rdtsc();
    for global in threads_of(core, task) {
        shared().threads()[global].post_op(OP_PARK);
        poke(core, global, now);
    }
}

/// Every thread of a task is parked.
pub fn tell_supervisor(core: &mut Core, task: usize, now: u64) {
    let record = &core.table.tasks[task];
    if record.supervisor != NONE {
        let (thread, bit) = (usize::from(record.supervisor), record.supervisor_bit & 63);
        if shared().threads()[thread].post(1 << bit) {
            poke(core, thread, now);
        }
    }
}
