//! The driver of an NVMe controller's physical function. In its first life it brings the
//! virtual functions up, lets their drivers work for a while, and takes the controller down with all
//! of them. From then on it is the real driver, which finds that nothing runs and that a reset
//! cannot be avoided.

use cloister_disk::{Clock, NoKeys, Registers};
use cloister_dma::Region;
use cloister_nvme_core::{Failure, Physical};
use cloister_rt::{Duration, Instant, PciFunction, generation, grants, sleep_until};

use crate::AGAIN;

/// How long the others may work.
const WHILE: Duration = Duration::from_millis(2_500);

/// All lives.
pub fn run() -> u32 {
    if generation() > 0 {
        return cloister_nvme::run(&mut NoKeys);
    }
    let (Ok(memory), Ok(function)) = (grants().dma("queues"), grants().function()) else {
        return 2;
    };
    match once(&memory.memory(), &function) {
        Ok(()) => AGAIN,
        Err(failure) => {
            defmt::error!("physical: FAILED, {}", defmt::Debug2Format(&failure));
            3
        }
    }
}

fn once(memory: &Region, function: &PciFunction) -> Result<(), Failure> {
    let registers = Registers(function.registers(0).map_err(|_| Failure::Gone)?);
    let physical = Physical::new(registers, memory)?;
    function.device.begin_reset(false).map_err(|_| Failure::Gone)?;
    physical.stop(&Clock::find(grants()))?;
    function.device.finish_reset().map_err(|_| Failure::Gone)?;
    let count = u16::try_from(function.virtual_functions()).unwrap_or(u16::MAX);
    physical.start(&Clock::find(grants()), count)?;
    defmt::info!("physical: {=u16} virtual functions are up", count);
    sleep_until(Instant::now() + WHILE);
    physical.stop(&Clock::find(grants()))?;
    defmt::warn!("physical: the controller is down, with its virtual functions");
    Ok(())
}
