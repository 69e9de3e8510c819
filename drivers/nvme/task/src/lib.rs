//! The task of an NVMe disk's driver, with or without encrypted volumes: a program's `main` is
//! [`run`].
//!
//! The controller's logic is in `cloister-nvme-core`, its life on the bus, clients and volumes are
//! `cloister-disk`'s; here is what the log says. A physical function whose virtual functions are
//! used is `physical`'s.

#![no_std]
#![forbid(unsafe_code)]

mod physical;

use cloister_disk::{Clock, Granted, Keys, Kind, Registers, drive, no_disk, no_grant};
use cloister_dma::Region;
use cloister_nvme_core::{Controller, Failure, Fault, PAIRS_MAX, Plan, Sick, wait_for_physical};
use cloister_rt::{generation, grants};

type Disk<'m> = Controller<Registers, &'m Region>;

struct Nvme;

/// Serves the disk. Returns a status for the supervisor if it cannot.
pub fn run<K: Keys>(keys: &mut K) -> u32 {
    let found = Granted::<PAIRS_MAX>::find().and_then(|(granted, memory)| {
        let registers = Registers(granted.function.registers(0)?);
        Ok((granted, memory, registers))
    });
    let (granted, memory, registers) = match found {
        Ok(found) => found,
        Err(missing) => return no_grant::<Disk<'_>, Nvme>(missing),
    };
    let functions = granted.function.virtual_functions();
    if functions > 0 {
        return physical::run(&granted.function, registers, &memory, functions);
    }
    wait_for_physical(&registers, &Clock::find(grants()));
    // It stays where it is made: this frame lasts, and is to hold it once.
    match &mut Controller::new(registers, &memory, granted.vectors) {
        Ok(controller) => drive(Nvme, controller, &granted, &memory, keys),
        Err(failure) => no_disk::<Disk<'_>, Nvme>(*failure),
    }
}

impl Kind<Disk<'_>> for Nvme {
    const WHAT: &'static str = "controller";
    const NEEDS: &'static str = "a controller and memory `queues` for it";

    fn greet(&self, name: &'static str, controller: &Disk<'_>) {
        let namespace = controller.namespace();
        defmt::info!(
            "{=str}, life {=u64}: {=str}, namespace {=u32}: {=u64} blocks of {=u32} bytes, {=usize} \
            pairs of queues",
            name,
            generation(),
            controller.identity().model_name(),
            namespace.id,
            namespace.blocks,
            namespace.block_size,
            controller.pairs()
        );
    }

    fn tell(&mut self, sick: Sick) {
        match sick {
            Sick::TimedOut { queue, id } => defmt::error!(
                "command {=u16:#x} of queue {=u16} was not answered; the controller is reset",
                id,
                queue
            ),
            Sick::Fatal => defmt::error!("the controller has a fatal error; it is reset"),
            Sick::Gone => defmt::error!("the controller is not there any more"),
            Sick::Fault(Fault::NoSuchCommand { queue, id }) => defmt::error!(
                "queue {=u16}: a completion for {=u16:#x}, which is not in flight; the controller \
                is reset",
                queue,
                id
            ),
            Sick::Fault(Fault::WrongQueue { queue, named }) => defmt::error!(
                "queue {=u16}: a completion that names queue {=u16}; the controller is reset",
                queue,
                named
            ),
            Sick::Fault(Fault::HeadOutside { queue, head }) => defmt::error!(
                "queue {=u16}: a completion that names place {=u16}; the controller is reset",
                queue,
                head
            ),
        }
    }

    fn text(failure: Failure) -> &'static str {
        match failure {
            Failure::Memory => "it needs more memory or registers than the manifest gives",
            Failure::Gone => "it is not there",
            Failure::Unsupported => "it lacks the NVM command set or pages of 4 KiB",
            Failure::NotReady => "it did not start or stop in its own time",
            Failure::Fatal => "it has a fatal error",
            Failure::Silent { .. } => "it does not answer admin commands",
            Failure::Refused { .. } => "it refuses an admin command",
            Failure::NoNamespace => "it has no namespace that can be used",
            Failure::NoFunction { .. } => "it lists fewer virtual functions than are used",
            Failure::Changed => "it is not what it was before the reset",
        }
    }

    fn places(controller: &Disk<'_>) -> [u64; 2] {
        let (_, free) = controller.memory();
        [Plan::ZEROS, free]
    }
}
