//! Drives a SATA disk behind an AHCI controller and serves the virtio disks of virtual machines from
//! it.
//!
//! The controller's logic is in `cloister-ahci-core`, clients and volumes are in `cloister-block`
//! and `cloister-disk`; here are the real registers, the order of a reset, and the log. A
//! controller that cannot be used ends the task, whose supervisor decides; one that is lost fails
//! every request from then on.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_ahci_core::{Controller, Failure, Fault, Health, Pause, Plan, Sick, State};
use cloister_block::{Busy, Command, Disk, Limits, Outcome, Tag};
use cloister_disk::{Hardware, Memory, Nanoseconds, Pulse, serve};
use cloister_dma::Region;
use cloister_rt::{
    Bits, Duration, Instant, Irq, Missing, PciDevice, Refused, generation, grants, sleep_until,
};

cloister_rt::entry!(main);

/// Exit status: the manifest does not give this task what it needs.
const STATUS_NO_GRANT: u32 = 2;
/// Exit status: the controller cannot be used.
const STATUS_NO_DISK: u32 = 3;
/// The base address register of a controller's registers ("ABAR").
const BAR: u8 = 5;

/// The registers of the controller.
struct Registers(cloister_rt::Registers);

impl cloister_ahci_core::Registers for Registers {
    fn read(&self, offset: u64) -> Option<u32> {
        self.0.read(offset)
    }

    fn write(&self, offset: u64, value: u32) -> Option<()> {
        self.0.write(offset, value)
    }
}

/// The time, while the controller is waited for; the watchdog is told that it is.
#[derive(Clone, Copy)]
struct Clock(Pulse);

impl Pause for Clock {
    fn now(&self) -> u64 {
        Nanoseconds::now()
    }

    fn sleep(&self, ns: u64) {
        self.0.beat();
        sleep_until(Instant::now() + Duration::from_nanos(ns));
    }
}

struct Ahci<'m> {
    controller: Controller<Registers, &'m Region>,
    device: PciDevice,
    irq: Option<Irq>,
    clock: Clock,
    /// Errors of commands so far.
    errors: u32,
}

fn main() -> u32 {
    let memory = match grants().dma("queues") {
        Ok(region) => region.memory(),
        Err(missing) => return no_grant(missing),
    };
    let (mut ahci, name) = match find(&memory) {
        Ok(Ok(found)) => found,
        Ok(Err(failure)) => return no_disk(failure),
        Err(missing) => return no_grant(missing),
    };
    if let Err(failure) = ahci.restart() {
        return no_disk(failure);
    }
    let controller = &ahci.controller;
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
    let mut buffers = Memory::new(&memory, Plan::ZEROS, Plan::END);
    serve(&mut ahci, &mut buffers)
}

/// Finds the controller and everything that belongs to it.
fn find(memory: &Region) -> Result<Result<(Ahci<'_>, &'static str), Failure>, Missing> {
    let function = grants().function()?;
    let registers = Registers(function.registers(BAR)?);
    let irq = function.irq(0);
    let clock = Clock(Pulse::find(grants()));
    let made = Controller::new(registers, memory);
    Ok(made.map(|controller| {
        (Ahci { controller, device: function.device, irq, clock, errors: 0 }, function.name)
    }))
}

impl Ahci<'_> {
    /// Takes the function off the bus, resets the controller, puts the function back and starts the
    /// controller. What was in flight is issued again.
    fn restart(&mut self) -> Result<(), Failure> {
        off_the_bus(&self.device);
        self.controller.stop(&self.clock)?;
        if let Err(refused) = self.device.finish_reset() {
            defmt::error!("the function cannot be put on the bus: {}", word(refused));
            return Err(Failure::Gone);
        }
        self.controller.start(&self.clock)?;
        // A function that was put on the bus has its interrupts masked.
        self.acknowledge(self.bits());
        Ok(())
    }

    fn restart_or_give_up(&mut self) {
        if let Err(failure) = self.restart() {
            defmt::error!("the controller does not come back: {=str}", text(failure));
            self.give_up();
        }
    }

    /// A command failed: has the port go on.
    fn recover(&mut self) {
        self.errors = self.errors.saturating_add(1);
        // A disk with many bad blocks has many of them.
        if self.errors.is_power_of_two() {
            defmt::warn!("the disk failed a command ({=u32} so far)", self.errors);
        }
        if let Err(failure) = self.controller.recover(&self.clock) {
            defmt::error!("the port does not go on: {=str}; it is reset", text(failure));
            self.restart_or_give_up();
        }
    }

    fn give_up(&mut self) {
        off_the_bus(&self.device);
        self.controller.lose();
        defmt::error!("the disk is lost; every request fails from now on");
    }
}

fn off_the_bus(device: &PciDevice) {
    if let Err(refused) = device.begin_reset(false) {
        defmt::error!("the function cannot be taken off the bus: {}", word(refused));
    }
}

impl Disk for Ahci<'_> {
    fn limits(&self) -> &Limits {
        self.controller.limits()
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        self.controller.submit(tag, command)
    }

    fn ring(&mut self) {
        self.controller.ring();
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        self.controller.poll()
    }

    fn cancel(&mut self, tag: Tag) {
        self.controller.cancel(tag);
    }
}

impl Hardware for Ahci<'_> {
    fn bits(&self) -> Bits {
        self.irq.as_ref().map_or(Bits::NONE, Irq::bits)
    }

    fn acknowledge(&mut self, bits: Bits) {
        if let Some(irq) = self.irq.as_ref().filter(|irq| bits.intersects(irq.bits())) {
            // It is refused in the midst of a reset alone, which unmasks as well.
            let _ = irq.ack();
        }
    }

    fn tick(&mut self) {
        match self.controller.watch() {
            Health::Fine => {}
            Health::Error => self.recover(),
            Health::Sick(sick) => {
                tell(sick);
                self.restart_or_give_up();
            }
            Health::Lost if self.controller.state() == State::Lost => {}
            Health::Lost => self.give_up(),
        }
    }

    fn is_sick(&self) -> bool {
        matches!(self.controller.state(), State::Sick(_))
    }
}

fn tell(sick: Sick) {
    match sick {
        Sick::TimedOut { slot } => defmt::error!(
            "the command in slot {=u8} was not answered; the controller is reset",
            slot
        ),
        Sick::Fatal => defmt::error!("the bus failed the controller; it is reset"),
        Sick::Link => defmt::warn!("the link to the disk went down; the controller is reset"),
        Sick::Error => defmt::warn!("the disk failed a command"),
        Sick::Gone => defmt::error!("the disk is not there any more"),
        Sick::Fault(Fault::NotIssued { slots }) => defmt::error!(
            "commands in slots {=u32:#x} are under way that nobody issued; the controller is reset",
            slots
        ),
    }
}

fn no_grant(missing: Missing) -> u32 {
    defmt::error!("{}: this task needs a controller and memory `queues` for it", missing);
    STATUS_NO_GRANT
}

fn no_disk(failure: Failure) -> u32 {
    defmt::error!("the controller cannot be used: {=str}", text(failure));
    STATUS_NO_DISK
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

fn word(refused: Refused) -> &'static str {
    match refused {
        Refused::WrongState => "it is not bound",
        _ => "the capability is not the right one",
    }
}
