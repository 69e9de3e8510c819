//! Faults: the record, the parking of the task, the word to its supervisor.

use crate::arch::x86_64::frame::{self, Regs};
use crate::arch::x86_64::{apic, cpu, entry, iommu, smap};
use crate::core_state::Core;
use crate::power;
use crate::shared::{Fault, FunctionShared, shared};
use crate::syscall::{Return, tell_threads, wake};
use cloister_abi::fault::FaultKind;
use cloister_abi::layout::MAX_TASKS;
use cloister_abi::table::{NONE, ROLE_INIT, ROLE_SUPERVISOR, ROLE_TASK};
use cloister_core::park::Begun;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PAGE_FAULT: u64 = 14;
/// Records of refused DMA that one interrupt reads.
const REFUSED_AT_ONCE: usize = 64;
/// Records of refused DMA that a task may cause in a second.
const REFUSED_MAX: u32 = 1000;
/// Those in the current second, by task; the last is for sources without an owner.
static REFUSED: [AtomicU32; MAX_TASKS + 1] = [const { AtomicU32::new(0) }; _];
/// When that second began, in TSC ticks.
static REFUSED_SINCE: AtomicU64 = AtomicU64::new(0);

/// A CPU exception in ring 3.
#[inline(never)]
pub fn exception(core: &mut Core, regs: &Regs) -> ! {
    fail(core, regs, move || Fault {
        kind: FaultKind::Exception as u64 | regs.vector << 8,
        address: if regs.vector == PAGE_FAULT { cpu::fault_address() } else { 0 },
        error: regs.error,
        ..Default::default()
    });
    // SAFETY: the task is parked or parking, so that a thread is to be chosen; no reference is
    // used any more.
    unsafe { entry::reschedule() }
}

/// `leave(reason, detail)`.
pub fn leave(core: &mut Core, reason: u64, detail: u64) -> Return {
    let kind = FaultKind::Leave as u64;
    fail_by_call(core, Fault { kind, reason, detail, ..Default::default() })
}

/// A call number that does not exist, or not any more.
pub fn bad_call(core: &mut Core, number: u32) -> Return {
    let kind = FaultKind::BadCall as u64;
    fail_by_call(core, Fault { kind, address: u64::from(number), ..Default::default() })
}

/// An interrupt of this thread came too often. `false`: its task has stopped already.
pub fn storm(core: &mut Core, global: usize, irq: usize) -> bool {
    let thread = &core.table.threads[global];
    let fault = Fault {
        kind: FaultKind::InterruptStorm as u64,
        thread: u64::from(thread.index),
        address: irq as u64,
        core: u64::from(core.index),
        tsc: cpu::rdtsc(),
        ..Default::default()
    };
    let task = usize::from(thread.task);
    if core.table.tasks[task].role == ROLE_SUPERVISOR {
        power::supervisor_died(&fault, Backtrace::NONE);
    }
    fail_task(core, task, |_| (fault, Backtrace::NONE))
}

/// The frame of a thread that entered by a system call has the registers that SYSCALL kept.
#[inline(never)]
fn fail_by_call(core: &mut Core, fault: Fault) -> Return {
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    let regs = unsafe { frame::current() };
    fail(core, regs, move || fault);
    Return::SWITCH
}

/// The current thread's task has failed. `what` is asked late, so that nothing has to be kept until
/// then.
#[inline(always)]
fn fail(core: &mut Core, regs: &Regs, what: impl Fn() -> Fault + Copy) {
    let current = core.current;
    let (global, task, role) = {
        let thread = core.thread(current);
        (usize::from(thread.global), usize::from(thread.task), thread.role)
    };
    let record = move |core: &Core| {
        let thread = &core.table.threads[global];
        let chain = Backtrace {
            at: regs.rbp,
            low: thread.stack_bottom,
            end: thread.stack_top,
            has_smap: core.features.smap,
        };
        let fault = Fault {
            thread: u64::from(thread.index),
            rip: regs.rip,
            rsp: regs.rsp,
            core: u64::from(core.index),
            tsc: cpu::rdtsc(),
            ..what()
        };
        (fault, chain)
    };
    if role != ROLE_TASK {
        let (fault, chain) = record(core);
        return fail_system(core, role, &fault, chain);
    }
    fail_task(core, task, record);
}

/// `init` or the supervisor has failed, and with it the system.
#[cold]
fn fail_system(core: &mut Core, role: u8, fault: &Fault, chain: Backtrace) {
    match role {
        ROLE_INIT => power::boot_failed(core, fault, chain),
        _ => power::supervisor_died(fault, chain),
    }
}

/// Follows the frame pointers through the thread's own stack, which is mapped as a whole; every
/// step goes up, so it ends.
struct Backtrace {
    at: u64,
    low: u64,
    end: u64,
    has_smap: bool,
}

impl Backtrace {
    const NONE: Backtrace = Backtrace { at: 0, low: 1, end: 0, has_smap: false };
}

impl Iterator for Backtrace {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let at = self.at;
        let fits = at.is_multiple_of(8) && at >= self.low && at <= self.end.saturating_sub(16);
        if !fits {
            return None;
        }
        // SAFETY: both words lie inside the stack of the task whose space is loaded.
        let [next, address] = unsafe { smap::read_user(at as *const [u64; 2], self.has_smap) };
        (self.low, self.at) = (at + 16, next);
        Some(address)
    }
}

#[inline(always)]
fn fail_task(
    core: &mut Core,
    task: usize,
    record: impl FnOnce(&Core) -> (Fault, Backtrace),
) -> bool {
    let words = shared().task(task);
    let begun = words.park.begin(words.threads.load(Ordering::Relaxed), true);
    let now = if begun == Begun::Late {
        cpu::rdtsc()
    } else {
        let (fault, chain) = record(core);
        words.set_record(&fault, chain);
        fault.tsc
    };
    tell_threads(core, words, now);
    begun != Begun::Late
}

/// Stops a task without a fault. `false`: it does not run.
pub fn stop_task(core: &mut Core, task: usize) -> bool {
    let words = shared().task(task);
    let is_first = words.park.begin(words.threads.load(Ordering::Relaxed), false) == Begun::First;
    if is_first {
        tell_threads(core, words, cpu::rdtsc());
    }
    is_first
}

/// An IOMMU has refused something: the owner's supervisor is told, and an owner whose functions do
/// not stop it fails, as one whose interrupts come too often. Core 0.
pub fn dma(core: &mut Core) {
    let now = cpu::rdtsc();
    if now.wrapping_sub(REFUSED_SINCE.load(Ordering::Relaxed)) > core.clock.tsc_hz {
        REFUSED_SINCE.store(now, Ordering::Relaxed);
        REFUSED.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
    if iommu::drain(REFUSED_AT_ONCE, &mut |what| refused(core, what, now)) {
        // What is left makes no interrupt of its own.
        apic::send(core.apic_id, apic::REFUSED);
    }
}

fn refused(core: &mut Core, what: iommu::Refused, now: u64) {
    let is_source = |f: &&FunctionShared| f.source() == Some(what.source);
    let owner = shared().functions.iter().find(is_source).and_then(FunctionShared::owner);
    let in_second = REFUSED[owner.unwrap_or(MAX_TASKS)].fetch_add(1, Ordering::Relaxed) + 1;
    let record = [u64::from(what.source), what.address, what.reason];
    let count = match owner {
        Some(task) => shared().task(task).set_refused(record),
        None => u64::from(in_second),
    };
    if count.is_power_of_two() {
        defmt::warn!(
            "{=u16:04x}: DMA to {=u64:#x} refused (reason {=u64:#x}), {=u64} so far",
            what.source,
            what.address,
            what.reason,
            count
        );
    }
    let Some(task) = owner else {
        // Nobody's, so it is no bus master: it is broken, or the machine is.
        if in_second > REFUSED_MAX {
            iommu::silence();
        }
        return;
    };
    if in_second > REFUSED_MAX {
        let kind = FaultKind::DmaStorm as u64;
        let (address, error) = (what.address, u64::from(what.source));
        let fault = Fault { kind, address, error, core: 0, tsc: now, ..Default::default() };
        fail_task(core, task, |_| (fault, Backtrace::NONE));
    } else {
        tell_supervisor(core, task, now);
    }
}

/// Every thread of a task is parked.
pub fn tell_supervisor(core: &mut Core, task: usize, now: u64) {
    let record = &core.table.tasks[task];
    if record.supervisor != NONE {
        let thread = usize::from(record.supervisor);
        if shared().thread(thread).post_bit(u32::from(record.supervisor_bit)) {
            wake(core, thread, now);
        }
    }
}
