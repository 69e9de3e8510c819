//! Running virtual CPUs: the system call, and what follows an exit.
//!
//! While its guest runs, a thread is ready for the scheduler and waits for its signal word at the
//! same time: a post marks the core and interrupts it, which ends the guest's turn, and
//! `Core::wake` gives the thread its bits. So budgets, deadlines, stops and restarts need nothing
//! of their own here. Invariant: `GUEST` is set exactly while the thread's next step is an
//! entry, not a return to its monitor.

use crate::arch::x86_64::virt::{self, Outcome, Vendor};
use crate::arch::x86_64::{cpu, entry};
use crate::core_state::{Core, GUEST, WAITS, this_core};
use crate::syscall::{Return, finish};
use cloister_abi::call::{self, Status};
use cloister_abi::table::CapKind;
use cloister_core::caps::lookup;

/// `vcpu_run(cap, mask, deadline)`. Does not return if the guest's turn begins at once.
#[unsafe(no_mangle)]
extern "C" fn kernel_vcpu_run(slot: u64, mask: u64, deadline: u64) -> u32 {
    // SAFETY: called once per kernel entry.
    let core = unsafe { this_core() };
    let current = core.current;
    let thread = core.thread(current);
    finish(match thread.runs {
        Some(Vendor::Svm) if thread.run_slot == slot => run::<false>(core, mask, deadline),
        Some(Vendor::Vmx) if thread.run_slot == slot => run::<true>(core, mask, deadline),
        _ => return run_checked(core, slot, mask, deadline),
    })
}

/// A thread's first call with this slot.
#[inline(never)]
fn run_checked(core: &mut Core, slot: u64, mask: u64, deadline: u64) -> u32 {
    match check(core, slot) {
        Ok(()) => kernel_vcpu_run(slot, mask, deadline),
        Err(status) => finish(Return::status(status)),
    }
}

/// Whether the current thread may run its virtual CPU with the capability in `slot`. Neither table
/// nor capability ever changes, so the thread's next call need not ask again.
fn check(core: &mut Core, slot: u64) -> Result<(), Status> {
    let cap = lookup(core.caps, slot, CapKind::Vcpu, call::RIGHT_RUN)?;
    let current = core.current;
    let thread = core.thread(current);
    if u32::from(thread.vcpu) != cap.object {
        return Err(Status::WrongState);
    }
    (thread.runs, thread.run_slot) = (Some(virt::vendor()), slot);
    Ok(())
}

/// The current thread, which may do so, runs its virtual CPU.
#[inline(always)]
fn run<const VMX: bool>(core: &mut Core, mask: u64, deadline: u64) -> Return {
    // SAFETY: the caller's space is loaded, and it has a vCPU.
    let own = unsafe { virt::own() };
    let current = core.current;
    let bits = own.word.begin_wait(mask);
    if bits != 0 {
        return Return::value(bits);
    }
    let thread = core.thread(current);
    (thread.mask, thread.deadline, thread.flags) = (mask, deadline, WAITS | GUEST);
    core.sched.arm(current, deadline);
    virt::load::<VMX>(core, own);
    virt::check(own);
    // Nothing else can have made another thread more urgent.
    if core.sched.next_event() < core.armed {
        return Return::SWITCH;
    }
    // SAFETY: loaded just now; nothing is referred to any more.
    unsafe { virt::enter_by::<VMX>() }
}

/// The guest's turn is over, by SVM.
#[unsafe(no_mangle)]
extern "C" fn kernel_svm_exit() -> u32 {
    exit::<false>()
}

/// The guest's turn is over, by VMX.
#[unsafe(no_mangle)]
extern "C" fn kernel_vmx_exit() -> u32 {
    exit::<true>()
}

/// What follows; returns an [`Outcome`].
#[inline(always)]
fn exit<const VMX: bool>() -> u32 {
    // SAFETY: called once per exit, which is a kernel entry.
    let core = unsafe { this_core() };
    // SAFETY: the thread that entered the guest is still loaded.
    let own = unsafe { virt::own() };
    let outcome = virt::exit::<VMX>(core, own);
    if outcome == Outcome::Monitor {
        let current = core.current;
        core.sched.disarm(current);
        let thread = core.thread(current);
        thread.flags = 0;
        own.word.cancel_wait();
        virt::tell::<VMX>(own);
        // SAFETY: the thread is loaded, its call's registers are in its frame, and nothing is
        // referred to any more.
        unsafe { entry::return_to_monitor() }
    }
    if outcome == Outcome::Interrupt {
        interrupted(core);
    }
    virt::check(own);
    outcome as u32
}

/// Leaves no current thread behind: the interrupt comes as if the core idled.
#[inline(never)]
fn interrupted(core: &mut Core) {
    core.settle(cpu::rdtsc());
}
