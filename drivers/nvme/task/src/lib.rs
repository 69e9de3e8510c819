//! The task of an NVMe disk's driver, with or without encrypted volumes: a program's `main` is
//! [`run`].
//!
//! The controller's logic is in `cloister-nvme-core`, clients and volumes are in `cloister-block`
//! and `cloister-disk`; here are the real registers, the order of a reset, and the log. A
//! controller that cannot be used ends the task, whose supervisor decides; one that is lost fails
//! every request from then on. A physical function whose virtual functions are used is `physical`'s.

#![no_std]
#![forbid(unsafe_code)]

mod physical;

use cloister_block::{Busy, Command, Disk, Limits, Outcome, Tag};
use cloister_disk::{Hardware, Keys, Memory, Nanoseconds, Pulse, serve_sealed};
use cloister_dma::Region;
use cloister_nvme_core::{
    Controller, Failure, Health, PAIRS_MAX, Pause, Plan, Sick, State, wait_for_physical,
};
use cloister_rt::{
    Bits, Duration, Instant, Irq, Missing, PciDevice, PciFunction, Refused, generation, grants,
    sleep_until,
};

/// Exit status: the manifest does not give this task what it needs.
const STATUS_NO_GRANT: u32 = 2;
/// Exit status: the controller cannot be used.
const STATUS_NO_DISK: u32 = 3;

/// The registers of the controller.
struct Registers(cloister_rt::Registers);

impl cloister_nvme_core::Registers for Registers {
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

struct Nvme<'m> {
    controller: Controller<Registers, &'m Region>,
    device: PciDevice,
    irqs: [Option<Irq>; PAIRS_MAX],
    bits: Bits,
    clock: Clock,
}

/// Serves the disk. Returns a status for the supervisor if it cannot.
pub fn run<K: Keys>(keys: &mut K) -> u32 {
    let memory = match grants().dma("queues") {
        Ok(region) => region.memory(),
        Err(missing) => return no_grant(missing),
    };
    let function = match grants().function() {
        Ok(function) => function,
        Err(missing) => return no_grant(missing),
    };
    let functions = function.virtual_functions();
    if functions > 0 {
        return physical::run(&function, &memory, functions);
    }
    // What was found stays where it is: this frame lasts, and is to hold the controller once.
    let mut found = find(&memory, function);
    let (nvme, name) = match &mut found {
        Ok((nvme, name)) => (nvme, *name),
        Err(Unfit::Disk(failure)) => return no_disk(*failure),
        Err(Unfit::Grants(missing)) => return no_grant(*missing),
    };
    if let Err(failure) = nvme.restart() {
        return no_disk(failure);
    }
    let controller = &nvme.controller;
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
    let (_, free) = controller.memory();
    let mut buffers = Memory::new(&memory, Plan::ZEROS, free);
    serve_sealed(nvme, &mut buffers, keys)
}

/// Why there is nothing to drive.
enum Unfit {
    Grants(Missing),
    Disk(Failure),
}

/// Finds the controller and everything that belongs to it. Not inlined, for the caller's frame.
#[inline(never)]
fn find(memory: &Region, function: PciFunction) -> Result<(Nvme<'_>, &'static str), Unfit> {
    let registers = Registers(function.registers(0).map_err(Unfit::Grants)?);
    let clock = Clock(Pulse::find(grants()));
    wait_for_physical(&registers, &clock);
    let mut irqs = [const { None }; PAIRS_MAX];
    let (mut bits, mut vectors) = (Bits::NONE, 0u16);
    for (number, place) in (0..).zip(&mut irqs) {
        let Some(irq) = function.irq(number) else { break };
        bits |= irq.bits();
        vectors = vectors.saturating_add(1);
        *place = Some(irq);
    }
    let controller = Controller::new(registers, memory, vectors).map_err(Unfit::Disk)?;
    Ok((Nvme { controller, device: function.device, irqs, bits, clock }, function.name))
}

impl Nvme<'_> {
    /// Takes the function off the bus, resets the controller, puts the function back and starts the
    /// controller. What was in flight is submitted again.
    fn restart(&mut self) -> Result<(), Failure> {
        off_the_bus(&self.device);
        self.controller.stop(&self.clock)?;
        if let Err(refused) = self.device.finish_reset() {
            defmt::error!("the function cannot be put on the bus: {}", word(refused));
            return Err(Failure::Gone);
        }
        self.controller.start(&self.clock)?;
        // A function that was put on the bus has its interrupts masked.
        self.acknowledge(self.bits);
        Ok(())
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

impl Disk for Nvme<'_> {
    fn limits(&self) -> &Limits {
        self.controller.limits()
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        self.controller.submit(tag, command)
    }

    fn ring(&mut self) {
        self.controller.ring();
    }

    #[inline]
    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if self.controller.is_quiet() { None } else { self.controller.poll() }
    }

    fn cancel(&mut self, tag: Tag) {
        self.controller.cancel(tag);
    }
}

impl Hardware for Nvme<'_> {
    fn bits(&self) -> Bits {
        self.bits
    }

    fn heard(&mut self, bits: Bits) {
        let irqs =
            self.irqs.iter().enumerate().filter_map(|(place, irq)| Some((place, irq.as_ref()?)));
        for (place, _) in irqs.filter(|(_, irq)| bits.intersects(irq.bits())) {
            self.controller.heard(place);
        }
    }

    fn acknowledge(&mut self, bits: Bits) {
        for irq in self.irqs.iter().flatten().filter(|irq| bits.intersects(irq.bits())) {
            // It is refused in the midst of a reset alone, which unmasks as well.
            let _ = irq.ack();
        }
    }

    fn tick(&mut self) {
        match self.controller.watch() {
            Health::Fine => {}
            Health::Sick(sick) => {
                tell(sick);
                if let Err(failure) = self.restart() {
                    defmt::error!("the controller does not come back: {=str}", text(failure));
                    self.give_up();
                }
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
        Sick::TimedOut { queue, id } => defmt::error!(
            "command {=u16:#x} of queue {=u16} was not answered; the controller is reset",
            id,
            queue
        ),
        Sick::Fatal => defmt::error!("the controller has a fatal error; it is reset"),
        Sick::Gone => defmt::error!("the controller is not there any more"),
        Sick::Fault(fault) => {
            use cloister_nvme_core::Fault;
            match fault {
                Fault::NoSuchCommand { queue, id } => defmt::error!(
                    "queue {=u16}: a completion for {=u16:#x}, which is not in flight; the \
                    controller is reset",
                    queue,
                    id
                ),
                Fault::WrongQueue { queue, named } => defmt::error!(
                    "queue {=u16}: a completion that names queue {=u16}; the controller is reset",
                    queue,
                    named
                ),
                Fault::HeadOutside { queue, head } => defmt::error!(
                    "queue {=u16}: a completion that names place {=u16}; the controller is reset",
                    queue,
                    head
                ),
            }
        }
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

fn word(refused: Refused) -> &'static str {
    match refused {
        Refused::WrongState => "it is not bound",
        _ => "the capability is not the right one",
    }
}
