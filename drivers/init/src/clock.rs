//! The wall clock at boot, from the real-time clock that the manifest grants.

use cloister_init_core::rtc::{Cmos, NoClock, unix_seconds};
use cloister_rt::{Duration, Grants, Instant, OutOfRange, Port, sleep_until};

/// The board file's name for the ports 0x70 and 0x71.
const NAME: &str = "rtc0";
/// How long to leave the clock alone while it updates.
const PAUSE: Duration = Duration::from_micros(50);

struct Registers {
    index: Port<u8>,
    data: Port<u8>,
}

impl Cmos for Registers {
    fn read(&mut self, register: u8) -> u8 {
        self.index.write(register & 0x7f);
        self.data.read()
    }

    fn pause(&mut self) {
        sleep_until(Instant::now() + PAUSE);
    }
}

/// Seconds since 1970, 0 if unknown: a system without a clock runs, and says so.
pub fn read(grants: Grants, century: Option<u8>) -> u64 {
    let registers = grants.ports(NAME).ok().and_then(|range| {
        let registers = || -> Result<Registers, OutOfRange> {
            Ok(Registers { index: range.port(0)?, data: range.port(1)? })
        };
        registers().ok()
    });
    let Some(mut registers) = registers else {
        defmt::warn!("no wall clock: the manifest grants init no {=str}", NAME);
        return 0;
    };
    match unix_seconds(&mut registers, century) {
        Ok(seconds) => seconds,
        Err(NoClock::Unsteady) => {
            defmt::warn!("no wall clock: {=str} never stands still", NAME);
            0
        }
        Err(NoClock::NoDate) => {
            defmt::warn!("no wall clock: {=str} shows no date; is its battery empty?", NAME);
            0
        }
    }
}
