//! Test task: has QEMU's `edu` send messages (QEMU, "EDU device": 0x60 raises and 0x64 ends an
//! interrupt). Its MSI has no mask, so messages come whether or not the last one was acknowledged,
//! and the kernel's bound of their rate is all that there is.
//!
//! In its first life the task has it send far more than the bound; in the next one a few.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_rt::{
    Deadline, Duration, Instant, Irq, Registers, Woken, generation, grants, sleep_until, wait,
};

cloister_rt::entry!(main);

/// More than the bound, which is 1000 in a second.
const MANY: u32 = 5000;
const FEW: u32 = 5;
const PATIENCE: Duration = Duration::from_millis(600);
/// Longer than the kernel counts.
const SECOND: Duration = Duration::from_millis(1_100);

fn raise(registers: &Registers) {
    registers.write(0x60, 1);
    registers.write(0x64, 1);
}

/// Whether a message comes.
fn comes(registers: &Registers, irq: &Irq) -> bool {
    raise(registers);
    matches!(wait(irq.bits(), Deadline::At(Instant::now() + PATIENCE)), Woken::Bits(_))
}

fn main() -> u32 {
    let Ok(registers) = grants().registers("edu.bar0") else { return 2 };
    let (Ok(function), Ok(irq)) = (grants().device("edu"), grants().irq("edu")) else { return 3 };
    let life = generation();
    if life > 0 {
        let is_silent = !comes(&registers, &irq);
        defmt::info!("life {=u64}: off the bus it sends nothing: {=bool}", life, is_silent);
        sleep_until(Instant::now() + SECOND);
    }
    if function.finish_reset().is_err() {
        return 4;
    }
    for nth in 0..FEW {
        if !comes(&registers, &irq) {
            defmt::error!("life {=u64}: FAILED, message {=u32} does not come", life, nth);
            return 5;
        }
    }
    defmt::info!("life {=u64}: messages come, of which none was acknowledged", life);
    if life > 0 {
        return 0;
    }
    (0..MANY).for_each(|_| raise(&registers));
    defmt::error!("FAILED: {=u32} messages were not too many", MANY);
    6
}
