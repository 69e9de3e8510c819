//! The driver of a physical function whose virtual functions other tasks drive: it brings them up,
//! then looks once a second whether its controller works.
//!
//! A reset would take the virtual functions down, so the next life goes on with a controller that
//! runs. Where that fails, and after a fatal error, a reset is what remains: the drivers of the
//! virtual functions see their controllers fail, wait for them to come back, and submit again what
//! was in flight. Everything here is inlined, which has the code that sets a controller up compiled
//! once, where the other part of the task is.

use cloister_disk::{Clock, Kind, Pulse, Registers, no_disk, off_the_bus, on_the_bus};
use cloister_dma::Region;
use cloister_nvme_core::{Failure, Physical};
use cloister_rt::{Deadline, Duration, PciFunction, generation, grants, wait};

use crate::{Disk, Nvme};

/// Between two looks at the controller.
const LOOK: Duration = Duration::from_millis(1000);

/// Brings so many virtual functions up and stays. Returns if that fails.
#[inline]
pub fn run(function: &PciFunction, registers: Registers, memory: &Region, functions: u64) -> u32 {
    let functions = u16::try_from(functions).unwrap_or(u16::MAX);
    match Physical::new(registers, memory) {
        Ok(physical) => stay(function, &physical, functions),
        Err(failure) => no_disk::<Disk<'_>, Nvme>(failure),
    }
}

#[inline]
fn stay(function: &PciFunction, physical: &Physical<Registers, &Region>, functions: u16) -> u32 {
    let mut is_running = physical.is_running();
    let (pulse, clock) = (Pulse::find(grants()), Clock::find(grants()));
    loop {
        let how = if is_running { "as it was" } else { "after a reset" };
        match up(function, physical, functions, (clock, is_running)) {
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
                    Nvme::text(failure)
                );
                is_running = false;
                continue;
            }
            Err(failure) => return no_disk::<Disk<'_>, Nvme>(failure),
        }
        while physical.is_ready() {
            wait(pulse.bits(), Deadline::after(LOOK));
            pulse.beat();
        }
        defmt::error!("the controller has failed; it is reset, with its virtual functions");
        is_running = false;
    }
}

#[inline]
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
    if !on_the_bus(&function.device) {
        return Err(Failure::Gone);
    }
    if is_running { physical.adopt(&clock, functions) } else { physical.start(&clock, functions) }
}
