//! Interrupts and exceptions: who is told, and who is charged.

use crate::arch::x86_64::descriptors::{DEVICE_VECTOR, DEVICE_VECTORS};
use crate::arch::x86_64::frame::Regs;
use crate::arch::x86_64::{apic, cpu};
use crate::core_state::{Core, NOBODY, this_core};
use crate::device;
use crate::fault;
use crate::shared::shared;
use crate::syscall::wake;
use cloister_abi::call::{NEVER, Status};
use cloister_abi::table::DEVICE_PLATFORM;

/// From ring 3. Returns whether a thread is to be chosen anew.
#[unsafe(no_mangle)]
extern "C" fn kernel_interrupt(regs: &mut Regs) -> u32 {
    // SAFETY: called once per kernel entry.
    let core = unsafe { this_core() };
    if regs.vector < 32 {
        fault::exception(core, regs);
    }
    handle(core, regs.vector as u8);
    u32::from(core.must_choose())
}

/// From the kernel: while it idles, or because it broke. The caller then chooses a thread.
#[unsafe(no_mangle)]
extern "C" fn kernel_interrupt_idle(regs: &mut Regs) {
    // SAFETY: called once per kernel entry; an idle core holds no reference.
    let core = unsafe { this_core() };
    if regs.vector < 32 || core.current != NOBODY {
        kernel_fatal(regs.vector, regs.rip, regs.rsp);
    }
    handle(core, regs.vector as u8);
}

/// A double fault, a machine check, or an exception in the kernel.
#[unsafe(no_mangle)]
extern "C" fn kernel_fatal(vector: u64, rip: u64, rsp: u64) -> ! {
    let address = cpu::fault_address();
    panic!("exception {vector} at {rip:#x}, stack {rsp:#x}, last page fault at {address:#x}")
}

fn handle(core: &mut Core, vector: u8) {
    match vector {
        apic::SPURIOUS_VECTOR => return,
        apic::TIMER_VECTOR => {
            core.armed = NEVER;
            // Leaves no current thread behind, so a thread is always chosen anew.
            core.settle(cpu::rdtsc());
            report_nmis(core);
        }
        apic::IPI_VECTOR => core.look(cpu::rdtsc()),
        apic::IOMMU_VECTOR => fault::dma(core),
        n if (DEVICE_VECTOR..DEVICE_VECTOR + DEVICE_VECTORS).contains(&n) => {
            deliver(core, usize::from(n - DEVICE_VECTOR));
        }
        n => panic!("interrupt with the unused vector {n}"),
    }
    apic::end_of_interrupt();
}

fn report_nmis(core: &mut Core) {
    let seen = core.nmi_count.load(core::sync::atomic::Ordering::Relaxed);
    if seen != core.nmi_reported {
        core.nmi_reported = seen;
        defmt::warn!("{=u64} NMIs so far on this core", seen);
    }
}

/// A device interrupt: masked until the owner acknowledges it, charged to the owner's budget.
fn deliver(core: &mut Core, index: usize) {
    let start = cpu::rdtsc();
    let (Some(record), Some(state)) = (core.table.irqs.get(index), core.irqs.get_mut(index)) else {
        return;
    };
    if start.saturating_sub(state.window) > core.clock.tsc_hz {
        (state.window, state.count) = (start, 0);
    }
    state.count += 1;
    let is_storm = state.count > record.rate_max;
    set_masked(core, index, true);
    if is_storm {
        // A task that is parked already stays as it is, with its interrupt masked.
        let is_stopped = fault::storm(core, usize::from(record.thread), index);
        core.irqs[index].stopped = is_stopped;
    } else if shared().thread(usize::from(record.thread)).post_bit(u32::from(record.bit)) {
        wake(core, usize::from(record.thread), start);
    }
    let end = cpu::rdtsc();
    let place = core.place(usize::from(record.thread));
    if u32::from(place.core) == core.index {
        core.sched.charge(u32::from(place.rank), end - start, end);
        core.since += end - start;
    }
}

/// Unmasks an interrupt for its owner.
pub fn acknowledge(core: &mut Core, index: usize) -> Result<(), Status> {
    let state = core.irqs.get(index).ok_or(Status::BadArgument)?;
    if state.stopped || !set_masked(core, index, false) {
        return Err(Status::WrongState);
    }
    Ok(())
}

/// Masks or unmasks an interrupt at its source. `false`: that belongs to another core, or is not
/// there.
fn set_masked(core: &Core, index: usize, masked: bool) -> bool {
    let irq = &core.table.irqs[index];
    if core.table.devices[usize::from(irq.device)].kind != DEVICE_PLATFORM {
        return device::set_masked(core, irq, masked);
    }
    let route = core.irqs[index].route;
    route.is_some_and(|route| {
        core.ioapics.set_masked(route, DEVICE_VECTOR + index as u8, masked);
        true
    })
}

/// A restarted thread begins with masked interrupts and a clean count.
pub fn forget(core: &mut Core, global: usize) {
    for index in 0..core.table.irqs.len() {
        if usize::from(core.table.irqs[index].thread) == global {
            (core.irqs[index].stopped, core.irqs[index].count) = (false, 0);
            set_masked(core, index, true);
        }
    }
}
