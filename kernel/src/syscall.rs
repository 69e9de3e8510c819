//! The system calls of a running system. Arguments are numbers; nothing here touches task memory.

use crate::arch::x86_64::{apic, cpu, frame};
use crate::core_state::{Core, LAST, Place, WAITS, this_core};
use crate::shared::{TaskShared, shared};
use crate::{device, fault, interrupts, power, start};
use cloister_abi::call::{self, Call, PowerOp, Status};
use cloister_abi::layout::MAX_CORES;
use cloister_abi::table::CapKind;
use cloister_core::caps::lookup;
use cloister_core::signal::OP_PARK;
use core::sync::atomic::Ordering;

/// What goes back to the caller: `rax` and `rdx`. A negative `rax` stands for a result that is in
/// the thread's frame or comes later.
#[repr(C)]
pub struct Return {
    rax: u64,
    rdx: u64,
}

impl Return {
    /// Choose a thread; the caller's result, if any, is in its thread object or frame.
    pub const SWITCH: Return = Return { rax: 1 << 63, rdx: 0 };

    /// A result without a value.
    #[inline(always)]
    pub fn status(status: Status) -> Return {
        Return { rax: status as u64, rdx: 0 }
    }

    /// Success with a value.
    #[inline(always)]
    pub fn value(value: u64) -> Return {
        Return { rax: Status::Ok as u64, rdx: value }
    }
}

impl From<Result<Return, Status>> for Return {
    #[inline(always)]
    fn from(result: Result<Return, Status>) -> Return {
        result.unwrap_or_else(Return::status)
    }
}

/// A signal. What a busy system does most needs no stack and pushes nothing of the caller: `rax` is
/// the status, or the address of [`kernel_notify`], which is to be called with `rdx`.
#[unsafe(no_mangle)]
extern "C" fn kernel_signal(slot: u64) -> Return {
    // SAFETY: called once per kernel entry.
    let core = unsafe { this_core() };
    let cap = match lookup(core.caps, slot, CapKind::Thread, call::RIGHT_SIGNAL) {
        Ok(cap) => cap,
        Err(status) => return refuse(status),
    };
    let global = cap.object as usize;
    if shared().thread(global).post_bit(u32::from(cap.bit)) {
        return Return { rax: kernel_notify as *const () as u64, rdx: global as u64 };
    }
    Return::status(Status::Ok)
}

#[cold]
#[inline(never)]
fn refuse(status: Status) -> Return {
    Return::status(status)
}

/// Has the owner of a thread look at its bits; the caller's call succeeds. Returns whether a
/// thread is to be chosen anew.
#[unsafe(no_mangle)]
extern "C" fn kernel_notify(global: usize) -> u32 {
    // SAFETY: the entry's reference is gone: `kernel_signal` has returned.
    let core = unsafe { this_core() };
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    unsafe { frame::current() }.set_result([Status::Ok as u64, 0, 0, 0, 0]);
    wake(core, global, cpu::rdtsc());
    u32::from(core.must_choose())
}

/// The end of a system call: its result, if there is one, goes into the frame. Returns whether a
/// thread is to be chosen anew.
#[inline(always)]
pub fn finish(result: Return) -> u32 {
    if result.rax == Return::SWITCH.rax {
        return 1;
    }
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    unsafe { frame::current() }.set_result([result.rax, result.rdx, 0, 0, 0]);
    0
}

/// All other system calls. The result is in the frame; returns whether a thread is to be chosen
/// anew.
#[unsafe(no_mangle)]
extern "C" fn kernel_syscall(a: u64, b: u64, c: u64, number: u32) -> u32 {
    // SAFETY: called once per kernel entry.
    let core = unsafe { this_core() };
    if number == Call::Wait as u32 {
        return finish(wait(core, a, b));
    }
    finish(dispatch(core, a, b, c, number))
}

#[inline(never)]
fn dispatch(core: &mut Core, a: u64, b: u64, c: u64, number: u32) -> Return {
    match number {
        n if n == Call::IrqAck as u32 => irq_ack(core, a).into(),
        n if n == Call::FaultInfo as u32 => fault_info(core, a, b).into(),
        n if n == Call::Restart as u32 => release(core, a, call::RIGHT_RESTART).into(),
        n if n == Call::Resume as u32 => release(core, a, call::RIGHT_RESUME).into(),
        n if n == Call::Stop as u32 => stop(core, a).into(),
        n if n == Call::Leave as u32 => fault::leave(core, a, b),
        n if n == Call::Power as u32 => power_op(core, a, b).into(),
        n if n == Call::DeviceReset as u32 => device::reset(core, a, b).into(),
        n if (Call::FIRST_BOOT_ONLY..Call::COUNT).contains(&n) => {
            start::calls::serve(core, n, [a, b, c])
        }
        n => fault::bad_call(core, n),
    }
}

/// The caller's call has succeeded; another thread may have become more urgent, or the caller
/// itself may have to stop.
#[inline]
fn succeed(core: &mut Core) -> Return {
    if !core.must_choose() {
        return Return::status(Status::Ok);
    }
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    unsafe { frame::current() }.set_result([Status::Ok as u64, 0, 0, 0, 0]);
    Return::SWITCH
}

/// A bit of a thread's word was set for which it waits: wakes it, or has its core do so.
#[inline(always)]
pub fn wake(core: &mut Core, global: usize, now: u64) {
    let place = core.place(global);
    if u32::from(place.core) == core.index {
        return core.wake(u32::from(place.rank), shared().thread(global), now);
    }
    tell(place);
}

/// Marks a thread of another core.
#[inline]
fn tell(place: Place) {
    let target = &shared().cores[usize::from(place.core) & (MAX_CORES - 1)];
    if target.word.mark(u32::from(place.rank)) {
        apic::send(target.apic_id.load(Ordering::Relaxed), apic::WORD);
    }
}

/// Has all threads of a task follow its parking word.
pub fn tell_threads(core: &mut Core, task: &TaskShared, now: u64) {
    let mut global = task.first.load(Ordering::Relaxed);
    while global != LAST {
        let place = core.place(usize::from(global));
        if u32::from(place.core) == core.index {
            core.catch_up(u32::from(place.rank), now);
        } else {
            shared().thread(usize::from(global)).post_op(OP_PARK);
            tell(place);
        }
        global = place.next;
    }
}

/// Apart from the others, because a busy system does it at every switch.
#[inline(always)]
fn wait(core: &mut Core, mask: u64, deadline: u64) -> Return {
    let current = core.current;
    let thread = core.thread(current);
    let bits = shared().thread(usize::from(thread.global)).begin_wait(mask);
    if bits != 0 {
        return Return::value(bits);
    }
    (thread.mask, thread.deadline, thread.flags) = (mask, deadline, WAITS);
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    let regs = unsafe { frame::current() };
    // The other two registers of a result come with it.
    (regs.rsi, regs.rdi, regs.r8) = (0, 0, 0);
    core.sched.block(current, deadline);
    Return::SWITCH
}

#[inline(never)]
fn irq_ack(core: &mut Core, slot: u64) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Irq, call::RIGHT_ACK)?;
    interrupts::acknowledge(core, cap.object as usize)?;
    Ok(Return::status(Status::Ok))
}

#[inline(never)]
fn fault_info(core: &mut Core, slot: u64, index: u64) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Task, call::RIGHT_INFO)?;
    let words = shared().task(cap.object as usize).info(index).ok_or(Status::BadArgument)?;
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    let regs = unsafe { frame::current() };
    let [a, b, c, d] = words;
    regs.set_result([Status::Ok as u64, a, b, c, d]);
    Ok(Return::SWITCH)
}

#[inline(never)]
fn stop(core: &mut Core, slot: u64) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Task, call::RIGHT_STOP)?;
    if !fault::stop_task(core, cap.object as usize) {
        return Err(Status::WrongState);
    }
    Ok(succeed(core))
}

/// Restart and resume: both let a parked task's threads go.
#[inline(never)]
fn release(core: &mut Core, slot: u64, right: u8) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Task, right)?;
    let task = shared().task(cap.object as usize);
    let done = match right {
        call::RIGHT_RESTART => task.park.restart().is_some(),
        _ => task.park.resume(),
    };
    if !done {
        return Err(Status::WrongState);
    }
    tell_threads(core, task, cpu::rdtsc());
    Ok(succeed(core))
}

#[inline(never)]
fn power_op(core: &mut Core, slot: u64, op: u64) -> Result<Return, Status> {
    let (right, off) = match op {
        n if n == PowerOp::Off as u64 => (call::RIGHT_POWER_OFF, true),
        n if n == PowerOp::Reboot as u64 => (call::RIGHT_REBOOT, false),
        _ => return Err(Status::BadArgument),
    };
    lookup(core.caps, slot, CapKind::Power, right)?;
    if off { power::off(core) } else { power::reboot("the supervisor asked for it") }
}
