//! Copies between a virtual machine's disk requests and a window of the disk's driver.
//!
//! One broker serves one disk of one virtual machine: its export with `device = "block"`.
//! Behind that is the window that it is granted as `disk`. All logic is in
//! `cloister-broker-core`; here are the signals and the log. A driver that is not there yet is
//! waited for: until it has told the size of the disk, the guest does not start.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_broker_core::{Broker, Geometry, Link, QUEUES, State, Table, TooSmall, Units, shape};
use cloister_guest_abi::disk;
use cloister_guestmem::GuestMemory;
use cloister_rt::{Deadline, DeviceExport, Mailbox, Window, grants, wait};
use cloister_virtio::block::Shape;
use cloister_virtio::{Device, Offer, Worker, features};

cloister_rt::entry!(main);

/// Exit statuses: no guest has the disk; no window was granted; a page or the window is too small;
/// what is behind the window is no disk of this platform.
const STATUS_NO_CLIENT: u32 = 1;
const STATUS_NO_WINDOW: u32 = 2;
const STATUS_TOO_SMALL: u32 = 3;
const STATUS_UNFIT: u32 = 4;

type Opened = (Link<'static, GuestMemory>, Units);

fn main() -> u32 {
    let Some(Ok(export)) = grants().device_exports().next() else {
        defmt::error!(
            "no virtual machine has the disk; grant one an export with device = \"block\""
        );
        return STATUS_NO_CLIENT;
    };
    let window = match grants().window("disk") {
        Ok(window) => window,
        Err(missing) => {
            defmt::error!("{}: grant the broker a window of a disk's driver as `disk`", missing);
            return STATUS_NO_WINDOW;
        }
    };
    let Window { mailbox: server, ram } = window;
    let mut opened = match Link::new(server.memory.words(), ram) {
        Ok(opened) => opened,
        Err(small) => return too_small(small),
    };
    let Some(geometry) = meet(&mut opened, &server) else {
        defmt::error!("behind the window is no disk of this platform");
        return STATUS_UNFIT;
    };
    let shape = shape(geometry);
    let name = export.name;
    let Some((monitor, device)) = open(export, &shape) else {
        return STATUS_TOO_SMALL;
    };
    defmt::info!("{=str}: {=u64} blocks by way of a window", name, geometry.blocks);
    let mut table = Table::default();
    let broker = Broker::new(device, opened, shape, &mut table);
    serve(broker, name, &monitor, &server)
}

/// Waits for the disk's driver; the size of the disk, if it is one.
fn meet((link, _): &mut Opened, server: &Mailbox) -> Option<Geometry> {
    loop {
        link.look();
        if link.take_wake() {
            server.peer.wake();
        }
        match link.state() {
            State::Live => return link.geometry(),
            State::Unfit => return None,
            State::Broken => link.reset(),
            State::Resetting => {
                wait(server.bits, Deadline::Never);
            }
        }
    }
}

/// The guest's side, which goes on where an earlier life of this task was killed.
fn open(
    export: DeviceExport,
    shape: &Shape,
) -> Option<(Mailbox, Device<'static, GuestMemory, QUEUES>)> {
    let DeviceExport { mailbox, ram, bells, first_bell, inflight, .. } = export;
    let config = shape.config();
    let features = shape.features() | features::ALL_RINGS;
    let offer = Offer { features, queue_size: disk::QUEUE_SIZE, config: &config };
    let worker = Worker::adopt(mailbox.memory.words(), bells.words(), first_bell, &offer);
    let records = inflight.map(|memory| memory.words()).unwrap_or_default();
    let device = worker.and_then(|worker| Device::adopting(worker, ram, disk::QUEUE_SIZE, records));
    match device {
        Ok(device) => Some((mailbox, device)),
        Err(small) => {
            defmt::error!("the device's page or records have {=usize} words, too few", small.words);
            None
        }
    }
}

fn serve(
    mut broker: Broker<'_, GuestMemory>,
    name: &str,
    monitor: &Mailbox,
    server: &Mailbox,
) -> u32 {
    loop {
        let again = broker.work();
        if let Some(rule) = broker.device().take_broken() {
            defmt::warn!("{=str}: {=str}; the device needs a reset", name, rule.text());
        }
        if let Some(loss) = broker.link().take_loss() {
            defmt::error!("{=str}: {=str}; the guest's device needs a reset", name, loss.text());
        }
        if broker.device().take_wake() {
            monitor.peer.wake();
        }
        if broker.link().take_wake() {
            server.peer.wake();
        }
        if !again {
            wait(monitor.bits | server.bits, Deadline::Never);
        }
    }
}

fn too_small(small: TooSmall) -> u32 {
    match small {
        TooSmall::Page(words) => defmt::error!("the window's page has {=usize} words", words),
        TooSmall::Window(bytes) => {
            defmt::error!("the window has {=u64} bytes; write window = \"256KiB\"", bytes);
        }
    }
    STATUS_TOO_SMALL
}
