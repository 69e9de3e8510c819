//! The controller as a whole: [`Host`] takes it from the firmware, stops and resets it.
//!
//! Invariant: after [`Host::reset`] the controller touches no memory until a port is started.

use cloister_block::{Pause, Registers, ms, wait_for};

use crate::fault::Failure;
use crate::port::Port;
use crate::registers::{self, GONE};

/// In [`registers::GHC`]: reset, interrupts, AHCI (not the old interface).
const RESET: u32 = 1;
const INTERRUPTS: u32 = 1 << 1;
const ENABLE: u32 = 1 << 31;
/// In [`registers::CAP`]: command queues, 64-bit addresses.
const QUEUES: u32 = 1 << 30;
const WIDE: u32 = 1 << 31;
/// In [`registers::CAP2`]: it has the handoff.
const HANDOFF: u32 = 1;
/// In [`registers::BOHC`]: the firmware has it, the system wants it, the firmware is busy.
const FIRMWARE: u32 = 1;
const SYSTEM: u32 = 1 << 1;
const BUSY: u32 = 1 << 4;

/// How long firmware may take to let go, at all and once it says that it is busy.
const HANDOFF_NS: u64 = ms(25);
const HANDOFF_BUSY_NS: u64 = ms(2000);
/// How long a reset may take.
const RESET_NS: u64 = ms(1000);

/// What a controller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Slots of a port.
    pub(crate) slots: u8,
    /// It has native command queuing.
    pub(crate) has_queues: bool,
    /// Its addresses have 64 bits.
    pub(crate) is_wide: bool,
    /// One bit for each port that there is.
    pub(crate) ports: u32,
}

impl Host {
    pub(crate) fn read(registers: &impl Registers) -> Result<Host, Failure> {
        let cap = registers.read(registers::CAP).ok_or(Failure::Memory)?;
        let ports = registers.read(registers::PI).ok_or(Failure::Memory)?;
        if cap == GONE && ports == GONE {
            return Err(Failure::Gone);
        }
        Ok(Host {
            slots: u8::try_from(cap >> 8 & 0x1f).unwrap_or(0).saturating_add(1),
            has_queues: cap & QUEUES != 0,
            is_wide: cap & WIDE != 0,
            ports,
        })
    }

    /// The ports that there are.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> + use<> {
        let ports = self.ports;
        (0..32u8).filter(move |port| ports >> port & 1 != 0).map(Port::new)
    }

    /// Takes the controller from the firmware, stops its ports and resets it.
    pub(crate) fn reset(
        &self,
        registers: &impl Registers,
        pause: &impl Pause,
    ) -> Result<(), Failure> {
        take_over(registers, pause)?;
        registers.write(registers::GHC, ENABLE).ok_or(Failure::Memory)?;
        for port in self.ports() {
            // One that does not stop is stopped by the reset.
            match port.stop(registers, pause) {
                Err(Failure::NotReady) | Ok(()) => {}
                Err(other) => return Err(other),
            }
        }
        registers.write(registers::GHC, ENABLE | RESET).ok_or(Failure::Memory)?;
        let done = wait_for(pause, RESET_NS, || match registers.read(registers::GHC) {
            None => Some(Err(Failure::Memory)),
            Some(GONE) => Some(Err(Failure::Gone)),
            Some(control) if control & RESET == 0 => Some(Ok(())),
            Some(_) => None,
        });
        done.unwrap_or(Err(Failure::NotReady))?;
        registers.write(registers::GHC, ENABLE).ok_or(Failure::Memory)
    }

    /// Lets ports interrupt.
    pub(crate) fn start(&self, registers: &impl Registers) -> Result<(), Failure> {
        registers.write(registers::IS, u32::MAX).ok_or(Failure::Memory)?;
        registers.write(registers::GHC, ENABLE | INTERRUPTS).ok_or(Failure::Memory)
    }
}

/// "BIOS/OS Handoff".
fn take_over(registers: &impl Registers, pause: &impl Pause) -> Result<(), Failure> {
    if registers.read(registers::CAP2).ok_or(Failure::Memory)? & HANDOFF == 0 {
        return Ok(());
    }
    let read = || registers.read(registers::BOHC);
    let before = read().ok_or(Failure::Memory)?;
    if before == GONE {
        return Err(Failure::Gone);
    }
    registers.write(registers::BOHC, before | SYSTEM).ok_or(Failure::Memory)?;
    let is_free = || read().filter(|now| now & FIRMWARE == 0).map(drop);
    if wait_for(pause, HANDOFF_NS, is_free).is_some() {
        return Ok(());
    }
    let is_busy = read().ok_or(Failure::Memory)? & BUSY != 0;
    if is_busy && wait_for(pause, HANDOFF_BUSY_NS, is_free).is_some() {
        return Ok(());
    }
    Err(Failure::Held)
}
