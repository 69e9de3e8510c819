//! The PCI function of a disk's controller: [`Function`], and [`drive`], which is a driver's task.
//!
//! A driver has a [`Kind`] of controllers and makes one; the order of a reset, and what is done with
//! a controller that does not go on, are the same for all and here. A controller that cannot be used
//! ends the task, whose supervisor decides; one that is lost fails every request from then on.
//! Invariant: a controller is stopped and started only while its function is off the bus.

use cloister_block::{
    Busy, Command, Controller, Cure, Disk, Health, Limits, Outcome, Sickness, State, Tag,
};
use cloister_dma::Region;
use cloister_rt::{Bits, Irq, Missing, PciFunction, grants};

use crate::bus::{Clock, off_the_bus, on_the_bus};
use crate::keys::Keys;
use crate::serve::{Hardware, Memory, serve};

/// Exit status: the manifest does not give this task what it needs.
const STATUS_NO_GRANT: u32 = 2;
/// Exit status: the controller cannot be used.
const STATUS_NO_DISK: u32 = 3;

/// A kind of controllers, as its driver's log speaks of them.
pub trait Kind<C: Controller> {
    /// What it is called.
    const WHAT: &'static str;
    /// What its driver has to be granted.
    const NEEDS: &'static str;

    /// Says what there is, once it was started for the first time.
    fn greet(&self, name: &'static str, controller: &C);

    /// Says why it does not go on, and what is done.
    fn tell(&mut self, sick: C::Sick);

    /// Why it cannot be used.
    fn text(failure: C::Failure) -> &'static str;

    /// Where in its memory the page of zeros is, and where the driver's own part begins.
    fn places(controller: &C) -> [u64; 2];
}

/// What a driver is granted: its function, with up to `VECTORS` interrupts, and the memory that its
/// controller reads and writes.
pub struct Granted<const VECTORS: usize> {
    /// The function.
    pub function: PciFunction,
    /// How many interrupts it has.
    pub vectors: u16,
    irqs: [Option<Irq>; VECTORS],
    bits: Bits,
}

impl<const VECTORS: usize> Granted<VECTORS> {
    /// Finds the function that this task drives, and its memory.
    pub fn find() -> Result<(Granted<VECTORS>, Region), Missing> {
        let function = grants().function()?;
        let memory = grants().dma("queues")?.memory();
        let mut irqs = [const { None }; VECTORS];
        let (mut bits, mut vectors) = (Bits::NONE, 0u16);
        for (number, place) in (0..).zip(&mut irqs) {
            let Some(irq) = function.irq(number) else { break };
            bits |= irq.bits();
            vectors = vectors.saturating_add(1);
            *place = Some(irq);
        }
        Ok((Granted { function, vectors, irqs, bits }, memory))
    }
}

/// A controller that is driven.
struct Function<'c, C, K, const VECTORS: usize> {
    controller: &'c mut C,
    kind: K,
    granted: &'c Granted<VECTORS>,
    clock: Clock,
}

/// Drives a controller that was made, and serves the disk for ever. Returns a status for the
/// supervisor if it cannot.
pub fn drive<C: Controller, K: Kind<C>, const VECTORS: usize>(
    kind: K,
    controller: &mut C,
    granted: &Granted<VECTORS>,
    memory: &Region,
    keys: &mut impl Keys,
) -> u32 {
    let (name, clock) = (granted.function.name, Clock::find(grants()));
    let mut disk = Function { controller, kind, granted, clock };
    if let Err(failure) = disk.restart() {
        return no_disk::<C, K>(failure);
    }
    disk.kind.greet(name, disk.controller);
    let [zeros, first] = K::places(disk.controller);
    let mut buffers = Memory::new(memory, zeros, first);
    serve(&mut disk, &mut buffers, keys)
}

/// Says what the manifest lacks; the exit status for it.
pub fn no_grant<C: Controller, K: Kind<C>>(missing: Missing) -> u32 {
    defmt::error!("{}: this task needs {=str}", missing, K::NEEDS);
    STATUS_NO_GRANT
}

/// Says why a controller cannot be used; the exit status for it.
pub fn no_disk<C: Controller, K: Kind<C>>(failure: C::Failure) -> u32 {
    defmt::error!("the {=str} cannot be used: {=str}", K::WHAT, K::text(failure));
    STATUS_NO_DISK
}

impl<C: Controller, K: Kind<C>, const VECTORS: usize> Function<'_, C, K, VECTORS> {
    /// Takes the function off the bus, resets the controller, puts the function back and starts the
    /// controller. What was in flight is issued again.
    fn restart(&mut self) -> Result<(), C::Failure> {
        off_the_bus(&self.granted.function.device);
        self.controller.stop(&self.clock)?;
        if !on_the_bus(&self.granted.function.device) {
            return Err(C::GONE);
        }
        self.controller.start(&self.clock)?;
        // A function that was put on the bus has its interrupts masked.
        self.acknowledge(self.granted.bits);
        Ok(())
    }

    /// Whether a controller that could be recovered goes on.
    fn recovers(&mut self) -> bool {
        let recovered = self.controller.recover(&self.clock);
        if let Err(failure) = recovered {
            let (what, why) = (K::WHAT, K::text(failure));
            defmt::error!("the {=str} does not go on: {=str}; it is reset", what, why);
        }
        recovered.is_ok()
    }

    fn give_up(&mut self) {
        off_the_bus(&self.granted.function.device);
        self.controller.lose();
        defmt::error!("the disk is lost; every request fails from now on");
    }
}

impl<C: Controller, K, const VECTORS: usize> Disk for Function<'_, C, K, VECTORS> {
    fn limits(&self) -> &Limits {
        self.controller.limits()
    }

    #[inline]
    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        self.controller.submit(tag, command)
    }

    #[inline]
    fn ring(&mut self) {
        self.controller.ring();
    }

    #[inline]
    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        self.controller.poll()
    }

    fn cancel(&mut self, tag: Tag) {
        self.controller.cancel(tag);
    }
}

impl<C: Controller, K: Kind<C>, const VECTORS: usize> Hardware for Function<'_, C, K, VECTORS> {
    fn bits(&self) -> Bits {
        self.granted.bits
    }

    fn heard(&mut self, bits: Bits) {
        for (number, irq) in self.granted.irqs.iter().enumerate() {
            if irq.as_ref().is_some_and(|irq| bits.intersects(irq.bits())) {
                self.controller.heard(number);
            }
        }
    }

    fn acknowledge(&mut self, bits: Bits) {
        for irq in self.granted.irqs.iter().flatten().filter(|irq| bits.intersects(irq.bits())) {
            // It is refused in the midst of a reset alone, which unmasks as well.
            let _ = irq.ack();
        }
    }

    fn tick(&mut self) {
        match self.controller.watch() {
            Health::Fine => {}
            Health::Sick(sick) => {
                self.kind.tell(sick);
                if sick.cure() == Cure::Recovery && self.recovers() {
                    return;
                }
                if let Err(failure) = self.restart() {
                    let (what, why) = (K::WHAT, K::text(failure));
                    defmt::error!("the {=str} does not come back: {=str}", what, why);
                    self.give_up();
                }
            }
            Health::Lost => match self.controller.state() {
                State::Lost => {}
                State::Sick(sick) if sick.cure() == Cure::Nothing => {
                    self.kind.tell(sick);
                    self.give_up();
                }
                _ => self.give_up(),
            },
        }
    }

    fn is_sick(&self) -> bool {
        matches!(self.controller.state(), State::Sick(_))
    }
}
