//! The chipset's watchdog: resets the machine when the supervisor does not run any more.
//!
//! Intel I/O Controller Hub 9 data sheet, "TCO I/O Registers": the timer counts down in ticks of
//! 0.6 s and resets the machine when it has run out twice, unless the board straps that off. The
//! device is optional: without a grant `tco0` there is no watchdog, and the log says so once.

use cloister_rt::{Grants, OutOfRange, Port};

/// The device's name in the board file.
const NAME: &str = "tco0";
/// Ticks until the timer runs out: 6 s, and twice that until the reset.
const TICKS: u16 = 10;

/// TCO1_STS: the timer has run out; written as 1 to clear.
const STS1_TIMEOUT: u16 = 1 << 3;
/// TCO2_STS: it has run out for the second time; written as 1 to clear.
const STS2_SECOND_TIMEOUT: u16 = 1 << 1;
/// TCO1_CNT: the timer is halted.
const CNT1_HALT: u16 = 1 << 11;
/// GCS, "General Control and Status", in the last page of the chipset's configuration registers.
const GENERAL_CONTROL: u64 = 0x410;
/// GCS: the watchdog does not reset the machine. Set at power-on.
const NO_REBOOT: u32 = 1 << 5;
/// TCO_TMR: the bits that count.
const TMR_MASK: u16 = 0x3ff;

/// The watchdog, if there is one.
pub struct Watchdog {
    registers: Option<Registers>,
}

struct Registers {
    reload: Port<u16>,
    status1: Port<u16>,
    status2: Port<u16>,
    control1: Port<u16>,
    timer: Port<u16>,
}

impl Watchdog {
    /// Starts the timer.
    pub fn start(grants: Grants) -> Watchdog {
        let Ok(ports) = grants.ports(NAME) else {
            defmt::info!("no watchdog: the manifest grants no {=str}", NAME);
            return Watchdog { registers: None };
        };
        let registers = (|| -> Result<Registers, OutOfRange> {
            Ok(Registers {
                reload: ports.port(0x00)?,
                status1: ports.port(0x04)?,
                status2: ports.port(0x06)?,
                control1: ports.port(0x08)?,
                timer: ports.port(0x12)?,
            })
        })();
        if !may_reset(grants) {
            defmt::warn!("{=str} cannot reset the machine: its NO_REBOOT bit stays set", NAME);
        }
        let registers = match registers {
            Ok(registers) if registers.start() => Some(registers),
            Ok(_) => {
                defmt::warn!("no watchdog: {=str} does not answer at its ports", NAME);
                None
            }
            Err(range) => {
                defmt::warn!("no watchdog: {=str} has too few ports, {}", NAME, range);
                None
            }
        };
        Watchdog { registers }
    }

    /// Says that the supervisor runs.
    pub fn pat(&mut self) {
        if let Some(registers) = &self.registers {
            registers.pat();
        }
    }
}

/// Lets the watchdog reset the machine. `false` if the chipset does not keep that, or its register
/// is not granted.
fn may_reset(grants: Grants) -> bool {
    let Ok(chipset) = grants.registers(NAME) else { return false };
    let Some(control) = chipset.read(GENERAL_CONTROL) else { return false };
    let cleared = chipset.write(GENERAL_CONTROL, control & !NO_REBOOT);
    cleared.and_then(|()| chipset.read(GENERAL_CONTROL)).is_some_and(|now| now & NO_REBOOT == 0)
}

impl Registers {
    /// Sets the time and lets it run. `false` if the registers do not keep what they are told.
    fn start(&self) -> bool {
        self.control1.write(self.control1.read() | CNT1_HALT);
        self.timer.write(self.timer.read() & !TMR_MASK | TICKS);
        if self.timer.read() & TMR_MASK != TICKS {
            return false;
        }
        self.pat();
        self.control1.write(self.control1.read() & !CNT1_HALT);
        self.control1.read() & CNT1_HALT == 0
    }

    fn pat(&self) {
        self.status1.write(STS1_TIMEOUT);
        self.status2.write(STS2_SECOND_TIMEOUT);
        // Any value reloads the timer.
        self.reload.write(1);
    }
}
