//! The disk's driver at the other end of the window: [`Server`], on the device's side of
//! `lib/virtio`. It completes in any order, fails what touches a bad block, and can die.

use cloister_virtio::block::{Kind, Parsed, Request, Shape, Status};
use cloister_virtio::{Chain, Change, Device, Head, Offer, Worker, features};
use cloister_virtio_testing::TestRam;

use super::{BLOCKS, Rng, World};

const BLOCK: usize = 4096;

struct Pending {
    head: Head,
    chain: Chain<34>,
    done: Option<Status>,
}

pub struct Server<'w> {
    world: &'w World,
    device: Device<'w, &'w TestRam, 4>,
    pub disk: Vec<u8>,
    pub blocks: u64,
    /// Requests that touch it fail.
    pub bad: Option<u64>,
    pending: Vec<Pending>,
    rng: Rng,
    pub deaths: u32,
    pub requests: u32,
    pub flushes: u32,
}

fn shape(blocks: u64) -> Shape {
    Shape {
        blocks,
        block_size: 4096,
        size_max: 0,
        seg_max: 32,
        has_topology: false,
        queues: 4,
        is_read_only: false,
        discard_blocks_max: 4096,
        zeroes_blocks_max: 4096,
    }
}

fn device<'w>(world: &'w World, blocks: u64) -> Device<'w, &'w TestRam, 4> {
    let config = shape(blocks).config();
    let features = shape(blocks).features() | features::ALL_RINGS;
    let offer = Offer { features, queue_size: 128, config: &config };
    let worker = Worker::adopt(&world.window_page, &world.window_bells, 0, &offer);
    let worker = worker.expect("a large page");
    Device::adopting(worker, &world.window, 128, &world.window_records).expect("large records")
}

impl<'w> Server<'w> {
    pub fn new(world: &'w World, seed: u64) -> Server<'w> {
        Server {
            world,
            device: device(world, BLOCKS),
            disk: vec![0; BLOCKS as usize * BLOCK],
            blocks: BLOCKS,
            bad: None,
            pending: Vec::new(),
            rng: Rng(seed),
            deaths: 0,
            requests: 0,
            flushes: 0,
        }
    }

    /// Whether the disk has something to do.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Dies, and comes back as a new instance with the same disk, perhaps of another size.
    pub fn die(&mut self) {
        self.pending.clear();
        self.device = device(self.world, self.blocks);
        self.deaths += 1;
    }

    /// Gives up on its client.
    pub fn refuse(&mut self) {
        self.pending.clear();
        self.device.refuse();
    }

    /// Looks around; if it `is_signalled` only, the disk need not complete anything. Whether it
    /// signals.
    pub fn step(&mut self, is_signalled: bool) -> bool {
        match self.device.follow() {
            Change::None => {}
            // A real one waits until the disk has ended what it has.
            Change::Reset | Change::Live => self.pending.clear(),
            Change::Adopted => {
                let mut chain = Chain::default();
                while let Some((queue, head)) = self.device.readopt(&mut chain) {
                    assert_eq!(queue, 0);
                    self.pending.push(Pending { head, chain: chain.clone(), done: None });
                }
            }
        }
        assert_eq!(self.device.take_broken(), None, "the broker broke a rule");
        loop {
            let mut chain = Chain::default();
            while let Some(head) = self.device.fetch(0, &mut chain) {
                self.requests += 1;
                self.pending.push(Pending { head, chain: chain.clone(), done: None });
                if self.rng.below(2) == 0 {
                    self.execute(self.pending.len() - 1);
                }
            }
            let count = if is_signalled { self.rng.below(3) } else { 1 + self.rng.below(4) };
            for _ in 0..count.min(self.pending.len()) {
                let index = self.rng.below(self.pending.len());
                let status = self.execute(index);
                let Pending { head, chain, .. } = self.pending.swap_remove(index);
                let written = Request::finish(self.device.ram(), &chain, status);
                self.device.complete(0, head, written.expect("a status"));
            }
            self.device.interrupt(0);
            if !self.device.listen(0) {
                break;
            }
        }
        self.device.take_wake()
    }

    /// Does what a request wants, if that was not done yet.
    fn execute(&mut self, index: usize) -> Status {
        let pending = &mut self.pending[index];
        if let Some(done) = pending.done {
            return done;
        }
        let (ram, chain) = (self.device.ram(), &pending.chain);
        let features = self.device.features();
        let parsed = Request::parse(ram, chain, &shape(self.blocks), features);
        let status = match parsed.expect("a request by the rules") {
            Parsed::Done(status) => status,
            Parsed::Work(request) => {
                let blocks = request.block..request.block + u64::from(request.count);
                let range = request.block as usize * BLOCK..blocks.end as usize * BLOCK;
                let at = request.data.offset;
                match request.kind {
                    _ if self.bad.is_some_and(|bad| blocks.contains(&bad)) => Status::Error,
                    Kind::Read => {
                        chain.write(ram, at, &self.disk[range]).expect("RAM");
                        Status::Ok
                    }
                    Kind::Write => {
                        chain.read(ram, at, &mut self.disk[range]).expect("RAM");
                        Status::Ok
                    }
                    Kind::Discard | Kind::WriteZeroes { .. } => {
                        self.disk[range].fill(0);
                        Status::Ok
                    }
                    Kind::Identity => {
                        chain.write(ram, at, b"a disk in the window").expect("RAM");
                        Status::Ok
                    }
                    Kind::Flush => {
                        self.flushes += 1;
                        Status::Ok
                    }
                }
            }
        };
        self.pending[index].done = Some(status);
        status
    }
}
