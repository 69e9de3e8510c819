//! Drives a virtio disk and serves the virtio disks of virtual machines from it.
//!
//! The device's logic is in `cloister-virtio-blk-core`, clients and volumes are in `cloister-block`
//! and `cloister-disk`; here are the real registers, the order of a reset, and the log. A device
//! that cannot be used ends the task, whose supervisor decides; one that is lost fails every request
//! from then on.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_block::{Busy, Command, Disk, Limits, Outcome, Tag};
use cloister_disk::{Hardware, Memory, Nanoseconds, Pulse, serve};
use cloister_dma::Region;
use cloister_rt::{
    Bits, Duration, Instant, Irq, Missing, PciDevice, Refused, generation, grants, sleep_until,
};
use cloister_virtio_blk_core::{
    Controller, Failure, Fault, Health, LENGTHS_BYTES, Pause, Plan, Sick, State,
};
use static_cell::ConstStaticCell;

cloister_rt::entry!(main);

/// Exit status: the manifest does not give this task what it needs.
const STATUS_NO_GRANT: u32 = 2;
/// Exit status: the device cannot be used.
const STATUS_NO_DISK: u32 = 3;
/// Base address registers of a function.
const BARS: usize = 6;

/// Bytes that stand for lengths of buffers; nobody uses them.
static LENGTHS: ConstStaticCell<[u8; LENGTHS_BYTES]> = ConstStaticCell::new([0; LENGTHS_BYTES]);

/// What belongs to the function: its configuration space, and those of its BARs that the manifest
/// maps.
struct Registers {
    config: cloister_rt::Registers,
    bars: [Option<cloister_rt::Registers>; BARS],
}

impl Registers {
    fn bar(&self, number: u8) -> Option<&cloister_rt::Registers> {
        self.bars.get(usize::from(number))?.as_ref()
    }
}

impl cloister_virtio_blk_core::Registers for Registers {
    fn config(&self, register: u8) -> Option<u32> {
        self.config.read(register.into())
    }

    fn bytes(&self, bar: u8) -> u64 {
        self.bar(bar).map_or(0, cloister_rt::Registers::bytes)
    }

    fn read8(&self, bar: u8, offset: u64) -> Option<u8> {
        self.bar(bar)?.read8(offset)
    }

    fn read16(&self, bar: u8, offset: u64) -> Option<u16> {
        self.bar(bar)?.read16(offset)
    }

    fn read32(&self, bar: u8, offset: u64) -> Option<u32> {
        self.bar(bar)?.read(offset)
    }

    fn write8(&self, bar: u8, offset: u64, value: u8) -> Option<()> {
        self.bar(bar)?.write8(offset, value)
    }

    fn write16(&self, bar: u8, offset: u64, value: u16) -> Option<()> {
        self.bar(bar)?.write16(offset, value)
    }

    fn write32(&self, bar: u8, offset: u64, value: u32) -> Option<()> {
        self.bar(bar)?.write(offset, value)
    }
}

/// The time, while the device is waited for; the watchdog is told that it is.
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

struct VirtioBlk<'m> {
    controller: Controller<'m, Registers>,
    device: PciDevice,
    irq: Option<Irq>,
    clock: Clock,
}

/// Why there is nothing to drive.
enum Unfit {
    Grants(Missing),
    Disk(Failure),
}

fn main() -> u32 {
    let split = match grants().dma("queues") {
        Ok(region) => region.memory().split(Controller::<Registers>::RINGS_BYTES),
        Err(missing) => return no_grant(missing),
    };
    let Some((rings, memory)) = split else {
        return no_disk(Failure::Memory);
    };
    let mut found = find(rings, &memory);
    let (disk, name) = match &mut found {
        Ok((disk, name)) => (disk, *name),
        Err(Unfit::Disk(failure)) => return no_disk(*failure),
        Err(Unfit::Grants(missing)) => return no_grant(*missing),
    };
    if let Err(failure) = disk.restart() {
        return no_disk(failure);
    }
    if let Some(identity) = disk.controller.identity() {
        defmt::info!(
            "{=str}, life {=u64}: {=u64} blocks of {=u32} bytes{=str}",
            name,
            generation(),
            identity.blocks,
            identity.block_size,
            if identity.is_read_only { ", read-only" } else { "" }
        );
    }
    let mut buffers = Memory::new(&memory, Plan::ZEROS, Plan::END);
    serve(disk, &mut buffers)
}

/// Finds the device and everything that belongs to it. Not inlined, for the caller's frame.
#[inline(never)]
fn find(rings: Region, memory: &Region) -> Result<(VirtioBlk<'_>, &'static str), Unfit> {
    let function = grants().function().map_err(Unfit::Grants)?;
    let config = function.config().map_err(Unfit::Grants)?;
    let mut bars = [const { None }; BARS];
    for (number, bar) in (0..).zip(&mut bars) {
        *bar = function.registers(number).ok();
    }
    let registers = Registers { config, bars };
    let irq = function.irq(0);
    let clock = Clock(Pulse::find(grants()));
    let controller = Controller::new(registers, rings, memory, LENGTHS.take());
    let controller = controller.map_err(Unfit::Disk)?;
    Ok((VirtioBlk { controller, device: function.device, irq, clock }, function.name))
}

impl VirtioBlk<'_> {
    /// Takes the function off the bus, resets the device, puts the function back and starts the
    /// device. What was in flight is added again.
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

impl Disk for VirtioBlk<'_> {
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

impl Hardware for VirtioBlk<'_> {
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
            Health::Sick(sick) => {
                tell(sick);
                if let Err(failure) = self.restart() {
                    defmt::error!("the device does not come back: {=str}", text(failure));
                    self.give_up();
                }
            }
            Health::Lost if self.controller.state() == State::Lost => {}
            Health::Lost => {
                if let State::Sick(sick) = self.controller.state() {
                    tell(sick);
                }
                self.give_up();
            }
        }
    }

    fn is_sick(&self) -> bool {
        matches!(self.controller.state(), State::Sick(_))
    }
}

fn tell(sick: Sick) {
    match sick {
        Sick::TimedOut { slot } => {
            defmt::error!("the request in slot {=u8} was not answered; the device is reset", slot)
        }
        Sick::NeedsReset => defmt::error!("the device says that it needs a reset; it is reset"),
        Sick::Gone => defmt::error!("the device is not there any more"),
        Sick::Shrunk => defmt::error!("the device has fewer blocks than it had, or others"),
        Sick::Fault(fault) => match fault {
            Fault::TooMany { count } => defmt::error!(
                "the device ended {=u16} requests more than are in flight; it is reset",
                count
            ),
            Fault::NoSuchRequest { id } => defmt::error!(
                "the device ended request {=u32:#x}, which is not in flight; it is reset",
                id
            ),
            Fault::Changed => defmt::error!("the device took back what it had said; it is reset"),
            Fault::Length { len } => defmt::error!(
                "the device says that it wrote {=u32} bytes, which is wrong; it is reset",
                len
            ),
            Fault::Status { status } => defmt::error!(
                "the device ended a request with status {=u8}, which there is not; it is reset",
                status
            ),
        },
    }
}

fn no_grant(missing: Missing) -> u32 {
    defmt::error!(
        "{}: this task needs a virtio disk, memory `queues` for it, and `config = true` in the \
        board file",
        missing
    );
    STATUS_NO_GRANT
}

fn no_disk(failure: Failure) -> u32 {
    defmt::error!("the device cannot be used: {=str}", text(failure));
    STATUS_NO_DISK
}

fn text(failure: Failure) -> &'static str {
    match failure {
        Failure::Memory => "it needs more memory than the manifest gives",
        Failure::Gone => "it is not there",
        Failure::Kind => "it is no virtio disk (1af4:1042)",
        Failure::Structures => "it lacks a structure of registers, or the board file its BAR",
        Failure::Old => "it is older than virtio 1.0; in QEMU, disable-legacy=on",
        Failure::Unconfined => {
            "it would reach memory past the IOMMU (no VIRTIO_F_ACCESS_PLATFORM); in QEMU, \
            iommu_platform=on"
        }
        Failure::Features => "it does not take the features that it offers",
        Failure::NotReady => "it did not end its reset in time",
        Failure::Queue => "its queue has less than 128 entries, or its doorbell is not mapped",
        Failure::Vector => "it takes no interrupt vector",
        Failure::Blocks => "it has no blocks of 512 to 4096 bytes",
        Failure::Changed => "it is not what it was before the reset",
    }
}

fn word(refused: Refused) -> &'static str {
    match refused {
        Refused::WrongState => "it is not bound",
        _ => "the capability is not the right one",
    }
}
