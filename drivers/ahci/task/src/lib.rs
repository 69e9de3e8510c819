//! The task of a SATA disk's driver, with or without encrypted volumes: a program's `main` is
//! [`run`].
//!
//! The controller's logic is in `cloister-ahci-core`, its life on the bus, clients and volumes are
//! `cloister-disk`'s; here is what the log says.

#![no_std]
#![forbid(unsafe_code)]

use cloister_ahci_core::{Controller, Failure, Fault, Plan, Sick};
use cloister_disk::{Granted, Keys, Kind, Registers, drive, no_disk, no_grant};
use cloister_dma::Region;
use cloister_rt::generation;

/// The base address register of a controller's registers ("ABAR").
const BAR: u8 = 5;

type Disk<'m> = Controller<Registers, &'m Region>;

#[derive(Default)]
struct Ahci {
    /// Errors of commands so far.
    errors: u32,
}

/// Serves the disk. Returns a status for the supervisor if it cannot.
pub fn run<K: Keys>(keys: &mut K) -> u32 {
    let found = Granted::<1>::find().and_then(|(granted, memory)| {
        let registers = Registers(granted.function.registers(BAR)?);
        Ok((granted, memory, registers))
    });
    let (granted, memory, registers) = match found {
        Ok(found) => found,
        Err(missing) => return no_grant::<Disk<'_>, Ahci>(missing),
    };
    match &mut Controller::new(registers, &memory) {
        Ok(controller) => drive(Ahci::default(), controller, &granted, &memory, keys),
        Err(failure) => no_disk::<Disk<'_>, Ahci>(*failure),
    }
}

impl Kind<Disk<'_>> for Ahci {
    const WHAT: &'static str = "controller";
    const NEEDS: &'static str = "a controller and memory `queues` for it";

    fn greet(&self, name: &'static str, controller: &Disk<'_>) {
        if let (Some(disk), Some(port)) = (controller.identity(), controller.port()) {
            defmt::info!(
                "{=str}, life {=u64}: {=str}, port {=u8}: {=u64} blocks of {=u32} bytes, {=u8} \
                commands at a time",
                name,
                generation(),
                disk.model_name(),
                port,
                disk.blocks,
                disk.block_size,
                disk.depth.unwrap_or(1)
            );
        }
    }

    fn tell(&mut self, sick: Sick) {
        match sick {
            Sick::TimedOut { slot } => defmt::error!(
                "the command in slot {=u8} was not answered; the controller is reset",
                slot
            ),
            Sick::Fatal => defmt::error!("the bus failed the controller; it is reset"),
            Sick::Link => defmt::warn!("the link to the disk went down; the controller is reset"),
            Sick::Error => {
                self.errors = self.errors.saturating_add(1);
                // A disk with many bad blocks has many of them.
                if self.errors.is_power_of_two() {
                    defmt::warn!("the disk failed a command ({=u32} so far)", self.errors);
                }
            }
            Sick::Gone => defmt::error!("the disk is not there any more"),
            Sick::Fault(Fault::NotIssued { slots }) => defmt::error!(
                "commands in slots {=u32:#x} are under way that nobody issued; the controller is \
                reset",
                slots
            ),
        }
    }

    fn text(failure: Failure) -> &'static str {
        match failure {
            Failure::Memory => "it needs more memory or registers than the manifest gives",
            Failure::Gone => "it is not there",
            Failure::Narrow => "its addresses have 32 bits, and guests' memory lies above them",
            Failure::Held => "the firmware does not let go of it",
            Failure::NotReady => "it did not start or stop in time",
            Failure::NoDisk => "no port of it has a disk",
            Failure::Unsupported => "its disk lacks 48-bit addresses or DMA, or has strange blocks",
            Failure::Silent { .. } => "its disk does not answer",
            Failure::Refused { .. } => "its disk refuses to say what it is",
            Failure::Changed => "its disk is not what it was before the reset",
        }
    }

    fn places(_: &Disk<'_>) -> [u64; 2] {
        [Plan::ZEROS, Plan::END]
    }
}
