//! The last words: powering off, rebooting, giving up. Each prints one line that names the cause.

use crate::arch::x86_64::{apic, cpu, power, uart::Uart};
use crate::core_state::Core;
use crate::shared::{Fault, is_online, shared};
use cloister_abi::fault::{FaultKind, LeaveReason, init_error_text};
use cloister_abi::layout::MAX_CORES;
use cloister_abi::name_str;
use core::fmt::Write;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The debug port, for the panic handler, which has nothing else.
pub static DEBUG_PORT: AtomicU16 = AtomicU16::new(0);
/// APIC id of the core that speaks its last words, plus one; entry.s stops the others for it.
pub static GOING_DOWN: AtomicU32 = AtomicU32::new(0);
/// Cores that entry.s has stopped.
pub static STOPPED: AtomicU32 = AtomicU32::new(0);
/// Looks at how many cores have stopped; one that hangs in SMM is not waited for any longer.
const PATIENCE: u32 = 10_000_000;

/// The debug port, for the one core that speaks last. The others stop, wherever they are: one may
/// be the console's, in the middle of a frame.
pub fn last_words() -> Uart {
    let me = apic::id() + 1;
    match GOING_DOWN.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // It broke while it spoke.
        Err(speaker) if speaker == me => power::reset(),
        Err(_) => cpu::halt_forever(),
    }
    let others = (0..MAX_CORES).filter(|&core| is_online(core));
    let ids = others.map(|core| shared().cores[core].apic_id.load(Ordering::Relaxed));
    let asked = ids.filter(|id| id + 1 != me).map(|id| apic::send(id, apic::NMI)).count();
    let _ = (0..PATIENCE).any(|_| {
        core::hint::spin_loop();
        STOPPED.load(Ordering::Acquire) as usize >= asked
    });
    let mut uart = Uart(DEBUG_PORT.load(Ordering::Relaxed));
    // A zero ends the frame that the console may be in the middle of.
    let _ = uart.write_str("\0\n");
    uart
}

/// Powers the machine off, in order.
pub fn off(core: &mut Core) -> ! {
    let mut uart = last_words();
    let _ = uart.write_str("cloister: power off in order\n");
    uart.drain();
    power::off(core.table.header.sleep_type);
    // The chipset needs a moment, and the line above is to be the last one.
    let patience = cpu::rdtsc() + core.clock.tsc_hz;
    while cpu::rdtsc() < patience {
        core::hint::spin_loop();
    }
    let _ = uart.write_str("cloister: halted: the machine did not power off\n");
    uart.drain();
    cpu::halt_forever()
}

/// Resets the machine and says why.
pub fn reboot(why: &str) -> ! {
    let mut uart = last_words();
    let _ = writeln!(uart, "cloister: rebooting: {why}");
    uart.drain();
    power::reset()
}

/// The supervisor has failed; nobody is left to restart it.
pub fn supervisor_died(record: &Fault, chain: impl Iterator<Item = u64>) -> ! {
    let mut uart = last_words();
    let _ = uart.write_str("cloister: rebooting: the supervisor ");
    cause(&mut uart, record);
    end(uart, "supervisor", record, chain)
}

/// `init` could not bring the system up.
pub fn boot_failed(core: &mut Core, record: &Fault, chain: impl Iterator<Item = u64>) -> ! {
    let mut uart = last_words();
    let name = name_str(&core.table.header.name);
    let _ = write!(uart, "cloister: boot of {name} failed: ");
    if record.kind == FaultKind::Leave as u64 && record.reason == LeaveReason::Exit as u64 {
        let (code, value) = (record.detail as u32, record.detail >> 32);
        let _ = write!(uart, "{} ({value:#x})", init_error_text(code));
    } else {
        let _ = uart.write_str("init ");
        cause(&mut uart, record);
    }
    end(uart, "init", record, chain)
}

fn cause(uart: &mut Uart, record: &Fault) {
    let (rip, address) = (record.rip, record.address);
    let _ = match (record.kind & 0xff, record.kind >> 8) {
        (1, 14) => write!(uart, "touched {address:#x}, which is not its memory, at {rip:#x}"),
        (1, vector) => write!(uart, "took exception {vector} at {rip:#x}"),
        (2, _) if record.reason == LeaveReason::Panic as u64 => {
            write!(uart, "panicked in line {}", record.detail)
        }
        (2, _) => write!(uart, "left with status {}", record.detail),
        (3, _) => write!(uart, "made the unknown system call {address} at {rip:#x}"),
        _ => write!(uart, "failed ({:#x}) at {rip:#x}", record.kind),
    };
}

fn end(mut uart: Uart, task: &str, record: &Fault, chain: impl Iterator<Item = u64>) -> ! {
    let _ = write!(uart, "\nbt: {task} {:#x}", record.rip);
    for address in chain.take_while(|&address| address != 0) {
        let _ = write!(uart, " {address:#x}");
    }
    let _ = writeln!(uart);
    uart.drain();
    power::reset()
}
