//! The driver of a physical function whose virtual functions other tasks drive: it brings them up,
//! then looks once a second whether its controller works.
//!
//! A reset would take the virtual functions down, so the next life goes on with a controller that
//! runs. Where that fails, and after a fatal error, a reset is what remains: the drivers of the
//! virtual functions see their controllers fail, wait for them to come back, and submit again what
//! was in flight.

use cloister_disk::Pulse;
use cloister_dma::Region;
use cloister_nvme_core::{Failure, Physical};
use cloister_rt::{Deadline, Duration, PciFunction, generation, grants, wait};

use crate::{Clock, Registers, no_disk, no_grant, off_the_bus, text, word};

/// Between two looks at the controller.
const LOOK: Duration = Duration::from_millis(1000);

/// Brings so many virtual functions up and stays. Returns if that fails.
pub fn run(function: &PciFunction, memory: &Region, functions: u64) -> u32 {
    let registers = match function.registers(0) {
        Ok(registers) => Registers(registers),
        Err(missing) => return no_grant(missing),
    };
    let functions = u16::try_from(functions).unwrap_or(u16::MAX);
    match Physical::new(registers, memory) {
        Ok(physical) => stay(function, &physical, functions),
        Err(failure) => no_disk(failure),
    }
}

fn stay(function: &PciFunction, physical: &Physical<Registers, &Region>, functions: u16) -> u32 {
    let mut is_running = physical.is_running();
    let pulse = Pulse::find(grants());
    loop {
        let how = if is_running { "as it was" } else { "after a reset" };
        match up(function, physical, functions, (Clock(pulse), is_running)) {
            Ok(()) => defmt::info!(
                "{=str}, life {=u64}: {=u16} virtual functions are online, the controller runs \
                 {=str}",
                function.name,
                generation(),
                functions,
                how
            ),
            Err(failure) if is_running => {
                defmt::error!(
                    "the controller does not go on: {=str}; it is reset, with its virtual functions",
                    text(failure)
                );
                is_running = false;
                continue;
            }
            Err(failure) => return no_disk(failure),
        }
        while physical.is_ready() {
            wait(pulse.bits(), Deadline::after(LOOK));
            pulse.beat();
        }
        defmt::error!("the controller has failed; it is reset, with its virtual functions");
        is_running = false;
    }
}

fn up(
    function: &PciFunction,
    physical: &Physical<Registers, &Region>,
    functions: u16,
    (clock, is_running): (Clock, bool),
) -> Result<(), Failure> {
    off_the_bus(&function.device);
    if !is_running {
        physical.stop(&clock)?;
    }
    if let Err(refused) = function.device.finish_reset() {
        defmt::error!("the function cannot be put on the bus: {}", word(refused));
        return Err(Failure::Gone);
    }
    if is_running { physical.adopt(&clock, functions) } else { physical.start(&clock, functions) }
}
