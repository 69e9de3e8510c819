//! Leaves an NVMe controller running, and resets its function in the next life (PCI Express Base
//! Specification, "Function Level Reset (FLR)").
//!
//! A reset that only takes the function off the bus leaves the controller enabled; a function-level
//! one does not, and takes the base address registers with it, which the kernel writes back. Of a
//! physical function whose virtual ones are in use no function-level reset may begin.

use cloister_block::Controller as _;
use cloister_disk::{Clock, Registers};
use cloister_nvme_core::{Controller, Failure};
use cloister_rt::{Duration, Instant, PciDevice, generation, grants, sleep_until};

use crate::AGAIN;

/// Controller configuration (NVM Express Base Specification, "Controller Configuration"): enabled.
const CONFIGURATION: u64 = 0x14;
const ENABLED: u32 = 1;
/// A function may take so long for its reset; it may be refused for as long again.
const RESET: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);

fn say(what: &'static str, is_right: bool) -> bool {
    if is_right {
        defmt::info!("life {=u64}, {=str}: ok", generation(), what);
    } else {
        defmt::error!("life {=u64}, {=str}: FAILED", generation(), what);
    }
    is_right
}

/// Both lives.
pub fn run() -> u32 {
    let Ok(memory) = grants().dma("queues") else { return 2 };
    let memory = memory.memory();
    let Ok(function) = grants().function() else { return 3 };
    let device = function.device;
    let virtual_functions = grants().function().map_or(0, |found| found.virtual_functions());
    if virtual_functions > 0 {
        let is_refused = device.begin_reset(true).is_err();
        let is_right = say("a physical function has no reset of its own", is_refused);
        return u32::from(
            !(is_right & say("it is on the bus all the same", device.finish_reset().is_ok())),
        );
    }
    let look = grants().function().and_then(|found| found.registers(0));
    let (Ok(look), Ok(registers)) = (look, function_registers()) else { return 4 };
    let is_enabled = || look.read(CONFIGURATION).is_some_and(|word| word & ENABLED != 0);
    let Ok(mut controller) = Controller::new(registers, &memory, 1) else { return 5 };
    if generation() == 0 {
        let mut right = say("the controller starts", start(&device, &mut controller).is_ok());
        right &= say("it is left enabled", is_enabled());
        return if right { AGAIN } else { 6 };
    }
    let mut right = say("the last life's controller is enabled still", is_enabled());
    right &= say("a reset without the function's", device.begin_reset(false).is_ok());
    right &= say("leaves it enabled", is_enabled());
    right &= say("a function-level reset begins", device.begin_reset(true).is_ok());
    sleep_until(Instant::now() + RESET);
    right &= say("it ends", finish(&device));
    right &= say("nothing is enabled any more", !is_enabled());
    right &= say("the controller starts again", start(&device, &mut controller).is_ok());
    right &= say("and has a disk", controller.namespace().blocks > 0);
    u32::from(!right)
}

fn function_registers() -> Result<Registers, cloister_rt::Missing> {
    grants().function()?.registers(0).map(Registers)
}

/// As the driver does.
fn start(
    device: &PciDevice,
    controller: &mut Controller<Registers, &cloister_dma::Region>,
) -> Result<(), Failure> {
    device.begin_reset(false).map_err(|_| Failure::Gone)?;
    controller.stop(&Clock::find(grants()))?;
    device.finish_reset().map_err(|_| Failure::Gone)?;
    controller.start(&Clock::find(grants()))
}

/// Puts the function back on the bus, as soon as it lets itself be written.
fn finish(device: &PciDevice) -> bool {
    let end = Instant::now() + PATIENCE;
    while device.finish_reset().is_err() {
        if Instant::now() > end {
            return false;
        }
        sleep_until(Instant::now() + RESET);
    }
    true
}
