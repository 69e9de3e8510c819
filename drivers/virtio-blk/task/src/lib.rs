//! The task of a virtio disk's driver, with or without encrypted volumes: a program's `main` is
//! [`run`].
//!
//! The device's logic is in `cloister-virtio-blk-core`, its life on the bus, clients and volumes are
//! `cloister-disk`'s; here are its registers, and what the log says.

#![no_std]
#![forbid(unsafe_code)]

use cloister_disk::{Granted, Keys, Kind, drive, no_disk, no_grant};
use cloister_dma::Region;
use cloister_rt::{Missing, PciFunction, generation};
use cloister_virtio_blk_core::{Controller, Failure, Fault, LENGTHS_BYTES, Plan, Sick};
use static_cell::ConstStaticCell;

/// Base address registers of a function.
const BARS: usize = 6;

/// Bytes that stand for lengths of buffers; nobody uses them.
static LENGTHS: ConstStaticCell<[u8; LENGTHS_BYTES]> = ConstStaticCell::new([0; LENGTHS_BYTES]);

type Disk<'m> = Controller<'m, Registers>;

struct VirtioBlk;

/// Serves the disk. Returns a status for the supervisor if it cannot.
pub fn run<K: Keys>(keys: &mut K) -> u32 {
    let found = Granted::<1>::find().and_then(|(granted, memory)| {
        let registers = Registers::find(&granted.function)?;
        Ok((granted, memory, registers))
    });
    let (granted, memory, registers) = match found {
        Ok(found) => found,
        Err(missing) => return no_grant::<Disk<'_>, VirtioBlk>(missing),
    };
    let Some((rings, memory)) = memory.split(Disk::RINGS_BYTES) else {
        return no_disk::<Disk<'_>, VirtioBlk>(Failure::Memory);
    };
    match &mut made(registers, rings, &memory) {
        Ok(controller) => drive(VirtioBlk, controller, &granted, &memory, keys),
        Err(failure) => no_disk::<Disk<'_>, VirtioBlk>(*failure),
    }
}

/// The device's controller. Not inlined: the caller's frame lasts, and is to hold it once.
#[inline(never)]
fn made(registers: Registers, rings: Region, memory: &Region) -> Result<Disk<'_>, Failure> {
    Controller::new(registers, rings, memory, LENGTHS.take())
}

/// What belongs to the function: its configuration space, and those of its BARs that the manifest
/// maps.
struct Registers {
    config: cloister_rt::Registers,
    bars: [Option<cloister_rt::Registers>; BARS],
}

impl Registers {
    fn find(function: &PciFunction) -> Result<Registers, Missing> {
        let config = function.config()?;
        let mut bars = [const { None }; BARS];
        for (number, bar) in (0..).zip(&mut bars) {
            *bar = function.registers(number).ok();
        }
        Ok(Registers { config, bars })
    }

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

impl Kind<Disk<'_>> for VirtioBlk {
    const WHAT: &'static str = "device";
    const NEEDS: &'static str =
        "a virtio disk, memory `queues` for it, and `config = true` in the board file";

    fn greet(&self, name: &'static str, controller: &Disk<'_>) {
        if let Some(identity) = controller.identity() {
            defmt::info!(
                "{=str}, life {=u64}: {=u64} blocks of {=u32} bytes{=str}",
                name,
                generation(),
                identity.blocks,
                identity.block_size,
                if identity.is_read_only { ", read-only" } else { "" }
            );
        }
    }

    fn tell(&mut self, sick: Sick) {
        match sick {
            Sick::TimedOut { slot } => {
                defmt::error!(
                    "the request in slot {=u8} was not answered; the device is reset",
                    slot
                )
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
                Fault::Changed => {
                    defmt::error!("the device took back what it had said; it is reset")
                }
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

    fn places(_: &Disk<'_>) -> [u64; 2] {
        [Plan::ZEROS, Plan::END]
    }
}
