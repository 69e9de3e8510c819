//! A world for a broker: a guest with two queues, a server that works the window as `lib/virtio`
//! has it, the pages between them, and signals. Nobody runs unless somebody signalled, so a signal
//! that is lost stands out as a world that stands still.

#![allow(dead_code)]

pub mod guest;
pub mod memory;
pub mod server;

use std::sync::atomic::AtomicU64;

use cloister_broker_core::{Broker, Link, QUEUES, State, Table, shape};
use cloister_virtio::{Device, Offer, Worker, features, record};
use cloister_virtio_testing::{Monitor, TestRam, page};

use guest::Guest;
use memory::{Fuse, Memory};
use server::Server;

/// Bytes of the window.
pub const WINDOW: usize = 256 << 10;
/// Blocks of the disk.
pub const BLOCKS: u64 = 256;

/// A reproducible source of choices.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

/// What outlives every instance of broker and server.
pub struct World {
    pub ram: TestRam,
    pub window: TestRam,
    pub page: Vec<AtomicU64>,
    pub bells: Vec<AtomicU64>,
    pub records: Vec<AtomicU64>,
    pub window_page: Vec<AtomicU64>,
    pub window_bells: Vec<AtomicU64>,
    pub window_records: Vec<AtomicU64>,
    pub fuse: Fuse,
}

fn zeroes(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl World {
    pub fn new() -> World {
        World {
            ram: TestRam::new(guest::RAM),
            window: TestRam::new(WINDOW),
            page: page(),
            bells: page(),
            records: zeroes(record::WORDS),
            window_page: page(),
            window_bells: page(),
            window_records: zeroes(record::WORDS),
            fuse: Fuse::default(),
        }
    }

    pub fn monitor(&self) -> Monitor<'_> {
        Monitor::new(&self.page, &self.bells, 0)
    }

    /// The memory as the broker reaches it.
    pub fn memory<'w>(&'w self, of: &'w TestRam) -> Memory<'w> {
        Memory { ram: of, fuse: &self.fuse }
    }

    /// A new instance of the broker, which meets the server first.
    pub fn broker<'w>(
        &'w self,
        server: &mut Server<'w>,
        table: &'w mut Table,
    ) -> Broker<'w, Memory<'w>> {
        let (mut link, units) =
            Link::new(&self.window_page, self.memory(&self.window)).expect("a large window");
        for _ in 0..100 {
            link.look();
            if link.state() == State::Live {
                break;
            }
            assert_eq!(link.state(), State::Resetting);
            server.step(true);
        }
        let shape = shape(link.geometry().expect("a server that answers"));
        let config = shape.config();
        let features = shape.features() | features::ALL_RINGS;
        let offer = Offer { features, queue_size: 128, config: &config };
        let worker = Worker::adopt(&self.page, &self.bells, 0, &offer).expect("a large page");
        let memory = self.memory(&self.ram);
        let device: Device<'w, Memory<'w>, QUEUES> =
            Device::adopting(worker, memory, 128, &self.records).expect("large records");
        Broker::new(device, (link, units), shape, table)
    }
}

/// Who was signalled.
#[derive(Debug)]
pub struct Signals {
    pub broker: bool,
    pub server: bool,
}

/// Runs everybody until nobody is signalled and the disk has nothing to do. Whether `stop` said so
/// before.
pub fn run<'w>(
    broker: &mut Broker<'w, Memory<'w>>,
    server: &mut Server<'w>,
    guest: &mut Guest<'w>,
    mut stop: impl FnMut(&Guest<'w>, &mut Server<'w>) -> bool,
) -> bool {
    // A new instance looks at everything; what it signals is not lost with it.
    let mut signals = Signals { broker: true, server: true };
    loop {
        if stop(guest, server) {
            return true;
        }
        let is_idle = !signals.broker && !signals.server;
        if std::mem::take(&mut signals.server) || is_idle && server.is_busy() {
            signals.broker |= server.step(!is_idle);
        } else if std::mem::take(&mut signals.broker) {
            signals.broker |= broker.work();
            if let Some(rule) = broker.device().take_broken() {
                panic!("the guest broke a rule: {rule:?}");
            }
            signals.server |= broker.link().take_wake();
            if broker.device().take_wake() {
                signals.broker |= guest.interrupt();
            }
        } else {
            return false;
        }
    }
}
