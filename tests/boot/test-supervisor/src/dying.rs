//! Ends of the supervisor that are no success: each must bring the machine down, with a line that
//! says why, or by the watchdog.

use boot_common::raw;
use cloister_rt::abi::call::{Call, PowerOp};
use cloister_rt::abi::fault::LeaveReason;
use cloister_rt::abi::table::CapKind;
use cloister_rt::{Grants, grants};

use crate::flush;

/// The chipset's watchdog ("TCO I/O Registers", Intel ICH9 data sheet).
const WATCHDOG: &str = "tco0";
/// TCO1_CNT, and its bit that halts the timer.
const CONTROL: u16 = 0x08;
const HALT: u16 = 1 << 11;
/// TCO_TMR: ticks of 0.6 s, twice, until the reset.
const TIMER: u16 = 0x12;
/// TCO_RLD: a write starts the time anew.
const RELOAD: u16 = 0x00;
/// GCS, "General Control and Status", in the last page of the chipset's configuration registers;
/// bit 5 keeps the watchdog from resetting the machine, and is set at power-on.
const GENERAL_CONTROL: usize = 0x410;
const NO_REBOOT: u32 = 1 << 5;

/// Dies. Returning is a way of dying too.
pub fn run(suite: u64) -> u32 {
    defmt::info!("the supervisor ends, suite {=u64}", suite);
    flush::flush();
    match suite {
        10 => read_null(),
        11 => panic!("ordered"),
        12 => return 5,
        13 => hang(grants()),
        14 => {
            let power = raw::slot("power", CapKind::Power).unwrap_or(0);
            raw::known(Call::Power, power, PowerOp::Reboot as u64, 0);
        }
        15 => drop(raw::call(u64::from(u32::MAX), 0, 0, 0)),
        16 => drop(raw::known(Call::Seal, 0, 0, 0)),
        _ => drop(raw::known(Call::Leave, LeaveReason::Exit as u64, 6, 0)),
    }
    7
}

fn read_null() {
    // SAFETY: the load faults.
    unsafe { core::arch::asm!("mov al, [0]", out("al") _) };
}

/// Starts the watchdog, then holds the CPU with interrupts on for ever.
fn hang(grants: Grants) {
    let Ok(ports) = grants.ports(WATCHDOG) else {
        return defmt::error!("the manifest grants no {=str}", WATCHDOG);
    };
    let register = |offset| ports.port::<u16>(offset);
    let (Ok(control), Ok(timer), Ok(reload)) =
        (register(CONTROL), register(TIMER), register(RELOAD))
    else {
        return defmt::error!("{=str} has too few ports", WATCHDOG);
    };
    let Ok(memory) = grants.shared(WATCHDOG) else {
        return defmt::error!("the manifest grants no registers of {=str}", WATCHDOG);
    };
    let gcs = memory.words().as_ptr().cast::<u32>().cast_mut().wrapping_add(GENERAL_CONTROL / 4);
    // SAFETY: the page is mapped, uncached and writable, and nobody else has it; the address is
    // aligned and lies in it.
    let value = unsafe { gcs.read_volatile() };
    // SAFETY: as above.
    unsafe { gcs.write_volatile(value & !NO_REBOOT) };
    timer.write(timer.read() & !0x3ff | 2);
    control.write(control.read() & !HALT);
    reload.write(1);
    loop {
        core::hint::spin_loop();
    }
}
