//! What a driver's core needs of the machine: [`Registers`], the [`Clock`], and a function's way off
//! the bus and back.

use cloister_block::Pause;
use cloister_rt::{Duration, Grants, Instant, PciDevice, Refused, sleep_until};

use crate::serve::{Nanoseconds, Pulse};

/// Registers of a controller, behind one base address register.
pub struct Registers(pub cloister_rt::Registers);

impl cloister_block::Registers for Registers {
    fn read(&self, offset: u64) -> Option<u32> {
        self.0.read(offset)
    }

    fn write(&self, offset: u64, value: u32) -> Option<()> {
        self.0.write(offset, value)
    }
}

/// The time, while a controller is waited for; the watchdog is told that it is.
#[derive(Clone, Copy)]
pub struct Clock(Pulse);

impl Clock {
    /// Of this task.
    pub fn find(grants: Grants) -> Clock {
        Clock(Pulse::find(grants))
    }
}

impl Pause for Clock {
    fn now(&self) -> u64 {
        Nanoseconds::now()
    }

    fn sleep(&self, ns: u64) {
        self.0.beat();
        sleep_until(Instant::now() + Duration::from_nanos(ns));
    }
}

/// Takes the function off the bus: its controller masters no more.
pub fn off_the_bus(device: &PciDevice) {
    if let Err(refused) = device.begin_reset(false) {
        defmt::error!("the function cannot be taken off the bus: {}", word(refused));
    }
}

/// Puts the function back on the bus, with its interrupts masked. Whether that was done.
pub fn on_the_bus(device: &PciDevice) -> bool {
    let put = device.finish_reset();
    if let Err(refused) = put {
        defmt::error!("the function cannot be put on the bus: {}", word(refused));
    }
    put.is_ok()
}

fn word(refused: Refused) -> &'static str {
    match refused {
        Refused::WrongState => "it is not bound",
        _ => "the capability is not the right one",
    }
}
