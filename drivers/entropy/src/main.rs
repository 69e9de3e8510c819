//! Serves virtio entropy devices from the CPU's random number generators.
//!
//! One task serves the entropy device of every virtual machine that has one: each export with a
//! client is a device. Guests take turns of bounded size, see `cloister-entropy-core`. A machine
//! whose CPU has no generator gets devices that need a reset, and one line in the log.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_entropy_core::{Client, OFFER, Pool, QUEUE_SIZE, SEED_WORDS};
use cloister_guestmem::GuestMemory;
use cloister_rt::abi::info::{ENTROPY_RDRAND, ENTROPY_RDSEED};
use cloister_rt::abi::layout::MAX_VMS;
use cloister_rt::{Bits, Deadline, DeviceExport, Entropy, Grants, Mailbox, grants, system, wait};
use cloister_virtio::{Chain, Change, Device, Worker};

cloister_rt::entry!(main);

/// Exit status: the manifest gives no guest an entropy device of this task.
const STATUS_NO_CLIENT: u32 = 1;
/// Tries for each number of a generator that may have none ready.
const TRIES: usize = 10;

struct Served {
    name: &'static str,
    mailbox: Mailbox,
    client: Client<'static, GuestMemory>,
    broken: u32,
}

fn main() -> u32 {
    let mut clients: [Option<Served>; MAX_VMS] = [const { None }; MAX_VMS];
    let bits = open(grants(), &mut clients);
    if bits.is_empty() {
        defmt::error!("no virtual machine has an entropy device of this task; grant one an export");
        return STATUS_NO_CLIENT;
    }
    let mut pool = Pool::default();
    let mut chain = Chain::default();
    let mut refused = false;
    loop {
        if pool.wants_fresh() {
            refresh(&mut pool);
        }
        let mut again = false;
        for served in clients.iter_mut().flatten() {
            let change = served.client.look(&pool);
            if change == Change::Live && !pool.is_seeded() && !refused {
                refused = true;
                defmt::error!(
                    "the CPU has no random number generator that works; no guest gets \
                    an entropy device"
                );
            }
            again |= served.client.turn(&mut pool, &mut chain);
            again |= !again && served.client.listen();
            served.tell();
        }
        if !again {
            wait(bits, Deadline::Never);
        }
    }
}

impl Served {
    /// Tells monitor and log what is new.
    fn tell(&mut self) {
        let device = self.client.device();
        if let Some(rule) = device.take_broken() {
            self.broken = self.broken.saturating_add(1);
            // A guest that does this on purpose does it again and again.
            if self.broken.is_power_of_two() {
                defmt::warn!(
                    "{=str}: {=str} ({=u32} so far); the device needs a reset",
                    self.name,
                    rule.text(),
                    self.broken
                );
            }
        }
        if device.take_wake() {
            self.mailbox.peer.wake();
        }
    }
}

/// Opens every device; the bits that say that one of them has news.
fn open(grants: Grants, clients: &mut [Option<Served>; MAX_VMS]) -> Bits {
    let mut bits = Bits::NONE;
    let mut places = clients.iter_mut();
    for export in grants.device_exports() {
        let served = match export {
            Ok(export) => serve(export),
            Err(missing) => {
                defmt::error!("{}: an export of this task needs `device = \"entropy\"`", missing);
                continue;
            }
        };
        match (served, places.next()) {
            (Some(served), Some(place)) => {
                bits |= served.mailbox.bits;
                *place = Some(served);
            }
            (Some(served), None) => defmt::error!("no room to serve {=str}", served.name),
            (None, _) => {}
        }
    }
    bits
}

fn serve(export: DeviceExport) -> Option<Served> {
    let DeviceExport { name, mailbox, ram, bells, first_bell, .. } = export;
    match Worker::new(mailbox.memory.words(), bells.words(), first_bell, &OFFER) {
        Ok(worker) => {
            let client = Client::new(Device::new(worker, ram, QUEUE_SIZE));
            Some(Served { name, mailbox, client, broken: 0 })
        }
        Err(small) => {
            defmt::error!("mailbox {=str} has {=usize} words, too few", name, small.words);
            None
        }
    }
}

/// Stirs in samples of every generator that works and has numbers ready.
fn refresh(pool: &mut Pool) {
    let working = system().entropy;
    for (flag, source) in [(ENTROPY_RDSEED, Entropy::Rdseed), (ENTROPY_RDRAND, Entropy::Rdrand)] {
        if working & flag != 0
            && let Some(sample) = sample(source)
        {
            pool.stir(&sample);
        }
    }
}

fn sample(source: Entropy) -> Option<[u64; SEED_WORDS]> {
    let mut words = [0; SEED_WORDS];
    for word in &mut words {
        *word = (0..TRIES).find_map(|_| source.sample())?;
    }
    Some(words)
}
