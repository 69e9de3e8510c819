//! The system calls of a running system. Arguments are numbers; nothing here touches task memory.

use crate::arch::x86_64::{cpu, frame};
use crate::core_state::{Core, NOBODY, this_core};
use crate::shared::shared;
use crate::{fault, interrupts, power, start};
use cloister_abi::call::{self, Call, PowerOp, Status};
use cloister_abi::table::CapKind;
use cloister_core::caps::lookup;
use cloister_core::signal::OP_PARK;

/// What goes back to the caller: `rax` and `rdx`. A negative `rax` makes the entry code save the
/// caller's remaining registers and choose a thread anew.
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

/// The second half of `syscall_entry`. The calls that a busy system makes most come first and
/// need no stack; everything else is out of their way.
#[unsafe(no_mangle)]
extern "C" fn kernel_syscall(a: u64, b: u64, c: u64, number: u32) -> Return {
    // SAFETY: called once per kernel entry.
    let core = unsafe { this_core() };
    if number == Call::Signal as u32 {
        return signal(core, a).into();
    }
    dispatch(core, number, [a, b, c])
}

#[inline(never)]
fn dispatch(core: &mut Core, number: u32, [a, b, c]: [u64; 3]) -> Return {
    match number {
        n if n == Call::Wait as u32 => wait(core, a, b),
        n if n == Call::IrqAck as u32 => irq_ack(core, a).into(),
        n if n == Call::FaultInfo as u32 => fault_info(core, a, b).into(),
        n if n == Call::Restart as u32 => release(core, a, call::RIGHT_RESTART).into(),
        n if n == Call::Resume as u32 => release(core, a, call::RIGHT_RESUME).into(),
        n if n == Call::Stop as u32 => stop(core, a).into(),
        n if n == Call::Leave as u32 => fault::leave(core, a, b),
        n if n == Call::Power as u32 => power_op(core, a, b).into(),
        // No table holds a capability of these kinds yet, so these always refuse.
        n if n == Call::VcpuRun as u32 => refuse(core, a, CapKind::Vcpu),
        n if n == Call::DeviceReset as u32 => refuse(core, a, CapKind::Device),
        n if (Call::FIRST_BOOT_ONLY..Call::COUNT).contains(&n) => {
            start::calls::serve(core, n, [a, b, c])
        }
        n => fault::bad_call(core, n),
    }
}

#[inline]
fn signal(core: &mut Core, slot: u64) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Thread, call::RIGHT_SIGNAL)?;
    let word = &shared().threads()[cap.object as usize & (cloister_abi::layout::MAX_THREADS - 1)];
    if !word.post(1 << (cap.bit & 63)) {
        return Ok(Return::status(Status::Ok));
    }
    Ok(notify(core, cap.object as usize))
}

/// Has the owner of a thread look at it. If that makes this core change threads, the caller's
/// call has succeeded.
#[inline(never)]
fn notify(core: &mut Core, global: usize) -> Return {
    let now = cpu::rdtsc();
    poke(core, global, now);
    if core.sched.pick() == Some(core.current) {
        return Return::status(Status::Ok);
    }
    let current = core.current;
    core.thread(current).result = Some((Status::Ok as u64, 0));
    Return::SWITCH
}

/// Looks at a thread now if it is this core's, else marks it and tells its core.
#[inline]
pub fn poke(core: &mut Core, global: usize, now: u64) {
    let owner = u32::from(core.table.threads[global].core);
    if owner == core.index {
        if let Some(rank) = core.rank_of(global as u16) {
            core.wake(rank, now);
        }
        return;
    }
    let rank = global as u32 - u32::from(core.first[owner as usize]);
    let target = &shared().cores[owner as usize];
    if target.word.mark(rank) {
        let apic_id = target.apic_id.load(core::sync::atomic::Ordering::Relaxed);
        crate::arch::x86_64::apic::send_ipi(apic_id);
    }
}

fn wait(core: &mut Core, mask: u64, deadline: u64) -> Return {
    let current = core.current;
    let thread = core.thread(current);
    let word = &shared().threads()[usize::from(thread.global)];
    let bits = word.begin_wait(mask);
    if bits != 0 {
        return Return::value(bits);
    }
    thread.wait = Some((mask, deadline));
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
    let words = shared().tasks()[cap.object as usize].info(index).ok_or(Status::BadArgument)?;
    // SAFETY: the caller's space is loaded; the entry code holds no reference to the frame.
    let regs = unsafe { frame::current() };
    regs.rax = Status::Ok as u64;
    [regs.rdx, regs.rsi, regs.rdi, regs.r8] = words;
    Ok(Return::SWITCH)
}

#[inline(never)]
fn stop(core: &mut Core, slot: u64) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Task, call::RIGHT_STOP)?;
    if !fault::stop_task(core, cap.object as usize) {
        return Err(Status::WrongState);
    }
    Ok(resched(core))
}

/// Restart and resume: both let a parked task's threads go.
#[inline(never)]
fn release(core: &mut Core, slot: u64, right: u8) -> Result<Return, Status> {
    let cap = lookup(core.caps, slot, CapKind::Task, right)?;
    let park = &shared().tasks()[cap.object as usize].park;
    let done = match right {
        call::RIGHT_RESTART => park.restart().is_some(),
        _ => park.resume(),
    };
    if !done {
        return Err(Status::WrongState);
    }
    if right == call::RIGHT_RESTART {
        interrupts::forget(core, cap.object as usize);
    }
    let now = cpu::rdtsc();
    for global in threads_of(core, cap.object as usize) {
        shared().threads()[global].post_op(OP_PARK);
        poke(core, global, now);
    }
    Ok(resched(core))
}

/// The threads of a task.
pub fn threads_of(core: &Core, task: usize) -> impl Iterator<Item = usize> + use<> {
    let threads = core.table.threads;
    (0..threads.len()).filter(move |&global| usize::from(threads[global].task) == task)
}

/// The caller's call has succeeded; another thread may have become more urgent.
fn resched(core: &mut Core) -> Return {
    let current = core.current;
    if core.sched.pick() == Some(current) {
        return Return::status(Status::Ok);
    }
    if current != NOBODY {
        core.thread(current).result = Some((Status::Ok as u64, 0));
    }
    Return::SWITCH
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

fn refuse(core: &mut Core, slot: u64, kind: CapKind) -> Return {
    match lookup(core.caps, slot, kind, 0) {
        Ok(_) => Return::status(Status::WrongState),
        Err(status) => Return::status(status),
    }
}

