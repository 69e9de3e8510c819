//! Connects virtual machines in pairs: what one sends the other receives.
//!
//! Each export with a client is a virtio console with one port. The exports, in the order of their
//! names, form pairs: the first with the second, the third with the fourth. So `a` and `b` are a
//! pipe, and `db-a`, `db-b`, `web-a`, `web-b` are two. What a pipe promises is told in
//! `cloister-channel-core`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_channel_core::{OFFER, Pipe, QUEUE_SIZE};
use cloister_guestmem::GuestMemory;
use cloister_rt::{Bits, Deadline, DeviceExport, Grants, Mailbox, grants, wait};
use cloister_virtio::{Device, Worker};

cloister_rt::entry!(main);

/// Exit status: the manifest gives this task no two guests to connect.
const STATUS_NO_PAIR: u32 = 1;
/// Most pipes of one task.
const PIPES_MAX: usize = 4;
const ENDS_MAX: usize = 2 * PIPES_MAX;

type Exports = [Option<DeviceExport>; ENDS_MAX];

/// Whom a device belongs to.
struct Owner {
    name: &'static str,
    mailbox: Mailbox,
    broken: u32,
}

struct Joined {
    owners: [Owner; 2],
    pipe: Pipe<'static, GuestMemory>,
}

fn main() -> u32 {
    let mut exports = collect(grants());
    let mut pipes = [const { None }; PIPES_MAX];
    let bits = join(&mut exports, &mut pipes);
    if bits.is_empty() {
        defmt::error!("no two virtual machines are connected by this task; grant each an export");
        return STATUS_NO_PAIR;
    }
    loop {
        let mut again = false;
        for joined in pipes.iter_mut().flatten() {
            joined.pipe.look();
            again |= joined.pipe.turn();
            again |= !again && joined.pipe.listen();
            joined.tell();
        }
        if !again {
            wait(bits, Deadline::Never);
        }
    }
}

impl Joined {
    /// Tells monitors and log what is new.
    fn tell(&mut self) {
        for (device, owner) in self.pipe.devices().into_iter().zip(&mut self.owners) {
            if let Some(rule) = device.take_broken() {
                owner.broken = owner.broken.saturating_add(1);
                // A guest that does this on purpose does it again and again.
                if owner.broken.is_power_of_two() {
                    defmt::warn!(
                        "{=str}: {=str} ({=u32} so far); the device needs a reset",
                        owner.name,
                        rule.text(),
                        owner.broken
                    );
                }
            }
            if device.take_wake() {
                owner.mailbox.peer.wake();
            }
        }
    }
}

/// The exports that have a client, in the order of their names.
fn collect(grants: Grants) -> Exports {
    let mut exports = [const { None }; ENDS_MAX];
    let mut places = exports.iter_mut();
    for export in grants.device_exports() {
        match (export, places.next()) {
            (Ok(export), Some(place)) => *place = Some(export),
            (Ok(export), None) => {
                defmt::error!("no room to connect {=str}: {=usize} at most", export.name, ENDS_MAX);
            }
            (Err(missing), _) => {
                defmt::error!("{}: an export of this task needs `device = \"console\"`", missing);
            }
        }
    }
    // Those that are missing come last, so that pairs do not shift.
    exports.sort_unstable_by_key(|export| match export {
        Some(export) => (false, export.name),
        None => (true, ""),
    });
    exports
}

/// Makes pipes of the exports; the bits that say that one of them has news.
fn join(exports: &mut Exports, pipes: &mut [Option<Joined>; PIPES_MAX]) -> Bits {
    let mut bits = Bits::NONE;
    for (pair, place) in exports.as_chunks_mut::<2>().0.iter_mut().zip(pipes) {
        match pair.each_mut().map(Option::take) {
            [Some(a), Some(b)] => {
                defmt::info!("{=str} and {=str} are connected", a.name, b.name);
                if let (Some((a, first)), Some((b, second))) = (open(a), open(b)) {
                    bits |= a.mailbox.bits | b.mailbox.bits;
                    *place = Some(Joined { owners: [a, b], pipe: Pipe::new(first, second) });
                }
            }
            [Some(alone), None] => {
                defmt::error!("{=str} has nobody to talk to; export one more", alone.name);
            }
            _ => {}
        }
    }
    bits
}

fn open(export: DeviceExport) -> Option<(Owner, Device<'static, GuestMemory, 2>)> {
    let DeviceExport { name, mailbox, ram, bells, first_bell, .. } = export;
    match Worker::new(mailbox.memory.words(), bells.words(), first_bell, &OFFER) {
        Ok(worker) => {
            let device = Device::new(worker, ram, QUEUE_SIZE);
            Some((Owner { name, mailbox, broken: 0 }, device))
        }
        Err(small) => {
            defmt::error!("mailbox {=str} has {=usize} words, too few", name, small.words);
            None
        }
    }
}
