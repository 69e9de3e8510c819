//! `role=verify`: random writes, reads, zeroes, discards and flushes with many in flight. What was
//! written is read back at once, and at the end all of it; every block that is read is checked
//! against the model.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_guest_rt::virtio::disk::{Buffer, Disk, Done, Refused, Request, Token};
use cloister_guest_rt::{clock, cpu, memory, println};
use guest_common::rng::Rng;
use guest_disk_core::{BLOCK, Choice, Kind, Limits, Model, Plan, ReadId, content, stamp};

use crate::options::{Failed, Options, RUN};

/// How long a device may be silent: longer than any restart of a driver.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a silent device is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Marks of progress in a run.
const MARKS: u64 = 8;
/// Most requests of a queue.
const SLOTS: usize = 128;

/// A request in flight.
struct Pending {
    token: Token,
    choice: Choice,
    sequence: u64,
    reads: Vec<ReadId>,
}

/// The run.
struct Run<'d> {
    disk: &'d mut Disk,
    options: Options,
    model: Model,
    free: Vec<Buffer>,
    pending: Vec<Vec<Option<Pending>>>,
    /// Written and to be read back.
    unread: Vec<(u64, u32)>,
    in_flight: usize,
    sequence: u64,
    writes: u64,
    reads: u64,
}

/// Runs it to its end.
pub fn run(disk: &mut Disk, options: &Options) -> Result<(), Failed> {
    let blocks = options.blocks.min(disk.geometry().blocks);
    let mut free = Vec::new();
    for _ in 0..options.depth {
        let pages = RUN as usize * BLOCK / memory::PAGE;
        free.push(memory::leak_pages(pages).ok_or(Failed::Other("no memory", pages as u64))?);
    }
    let queues = disk.queues();
    let pending = (0..queues).map(|_| (0..SLOTS).map(|_| None).collect()).collect();
    let model = Model::new(blocks as usize);
    let (in_flight, sequence, writes, reads) = (0, 0, 0, 0);
    let options = *options;
    let unread = Vec::new();
    let mut run =
        Run { disk, options, model, free, pending, unread, in_flight, sequence, writes, reads };
    run.work(blocks)?;
    run.drain()?;
    run.sweep(blocks)?;
    println!("disk: {} writes, {} reads, ok", run.writes, run.reads);
    Ok(())
}

impl Run<'_> {
    /// The random part.
    fn work(&mut self, blocks: u64) -> Result<(), Failed> {
        let mut rng = Rng::new(self.options.seed);
        let limits = Limits { blocks, run: RUN, flush: self.options.flush };
        let mut plan = Plan::new(move || rng.number(), limits);
        let (step, mut mark) = (self.options.writes.div_ceil(MARKS).max(1), 1);
        while self.writes < self.options.writes {
            while self.in_flight < self.options.depth {
                let queue = plan.below(self.pending.len() as u64) as usize;
                // Before anything else may be written there.
                let again = self.unread.last().map(|(block, run)| Choice::Read(*block, *run));
                if !self.submit(queue, again.unwrap_or_else(|| plan.choose()))? {
                    break;
                }
                if again.is_some() {
                    self.unread.pop();
                }
            }
            self.collect()?;
            if self.writes >= step * mark && mark < MARKS {
                println!("disk: progress {} writes, {} reads", self.writes, self.reads);
                mark = self.writes / step + 1;
            }
        }
        Ok(())
    }

    /// Makes a request; false if the queue is full.
    fn submit(&mut self, queue: usize, choice: Choice) -> Result<bool, Failed> {
        let sequence = self.sequence + 1;
        let (request, blocks) = match choice {
            Choice::Write(block, run) => (Request::Write { block }, run),
            Choice::Read(block, run) => (Request::Read { block }, run),
            Choice::Zeroes(block, blocks) => (Request::WriteZeroes { block, blocks }, 0),
            Choice::Discard(block, blocks) => (Request::Discard { block, blocks }, 0),
            Choice::Flush => (Request::Flush, 0),
        };
        let mut whole = if blocks == 0 { None } else { self.free.pop() };
        if blocks != 0 && whole.is_none() {
            return Ok(false);
        }
        if let (Choice::Write(first, run), Some(buffer)) = (choice, &mut whole) {
            for (block, bytes) in (first..first + u64::from(run)).zip(buffer.chunks_mut(BLOCK)) {
                stamp(bytes, block, sequence, self.options.seed);
            }
        }
        let data = whole.map(|buffer| (buffer, blocks as usize * BLOCK));
        match self.disk.submit(queue, request, data) {
            Ok(token) => {
                self.sequence = sequence;
                let reads = self.note(choice, sequence);
                self.pending[queue][token.slot()] =
                    Some(Pending { token, choice, sequence, reads });
                self.in_flight += 1;
                Ok(true)
            }
            Err((Refused::Full, buffer)) => {
                self.free.extend(buffer);
                Ok(false)
            }
            Err((why, _)) => Err(Failed::Refused(why)),
        }
    }

    /// Tells the model. The device may be at it already, but no completion was looked at.
    fn note(&mut self, choice: Choice, sequence: u64) -> Vec<ReadId> {
        let mut reads = Vec::new();
        let kind = match choice {
            Choice::Write(..) => Kind::Stamp,
            Choice::Zeroes(..) => Kind::Zero,
            _ => Kind::Discard,
        };
        for block in choice.blocks() {
            match choice {
                Choice::Read(..) => reads.push(self.model.read(block)),
                _ => self.model.write(block, sequence, kind),
            }
        }
        reads
    }

    /// Rings, waits for at least one completion, and takes all that are there.
    fn collect(&mut self) -> Result<(), Failed> {
        (0..self.pending.len()).for_each(|queue| self.disk.ring(queue));
        let end = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
        if self.options.is_polled {
            while !self.disk.has_done() && cpu::tsc() < end {
                core::hint::spin_loop();
            }
        } else if self.in_flight > 0 {
            // A device that needs a reset completes nothing, so it is looked at now and then.
            let next = || cpu::tsc().saturating_add(clock::ticks(LOOK)).min(end);
            while !self.disk.wait_until(next()) && cpu::tsc() < end {
                self.disk.check()?;
            }
        }
        let before = self.in_flight;
        for queue in 0..self.pending.len() {
            while let Some(done) = self.disk.poll(queue)? {
                self.take(queue, done)?;
            }
        }
        self.disk.check()?;
        if before > 0 && self.in_flight == before {
            return Err(Failed::Silence(before));
        }
        Ok(())
    }

    /// Checks a completion.
    fn take(&mut self, queue: usize, done: Done) -> Result<(), Failed> {
        let pending = self.pending[queue].get_mut(done.token.slot()).and_then(Option::take);
        let pending = pending.filter(|pending| pending.token == done.token);
        let unknown = Failed::Other("a completion of nothing", done.token.slot() as u64);
        let Pending { choice, sequence, reads, .. } = pending.ok_or(unknown)?;
        self.in_flight -= 1;
        let first = choice.blocks().start;
        done.outcome.map_err(|fault| Failed::Request(choice.name(), first, fault))?;
        let wrong = |block| move |wrong| Failed::Block(block, wrong);
        match choice {
            Choice::Read(..) => {
                let buffer = done.buffer.as_deref().unwrap_or_default();
                for ((block, id), bytes) in choice.blocks().zip(reads).zip(buffer.chunks(BLOCK)) {
                    let found = content(bytes, block, self.options.seed);
                    self.model.found(block, id, found).map_err(wrong(block))?;
                }
                self.reads += 1;
            }
            _ => {
                for block in choice.blocks() {
                    self.model.written(block, sequence).map_err(wrong(block))?;
                }
                if let Choice::Write(block, run) = choice {
                    self.writes += 1;
                    self.unread.push((block, run));
                }
            }
        }
        self.free.extend(done.buffer);
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Failed> {
        while self.in_flight > 0 {
            self.collect()?;
        }
        Ok(())
    }

    /// Keeps everything and reads every block once more.
    fn sweep(&mut self, blocks: u64) -> Result<(), Failed> {
        self.submit(0, Choice::Flush)?;
        self.drain()?;
        for block in 0..blocks {
            let queue = block as usize % self.pending.len();
            while !self.submit(queue, Choice::Read(block, 1))? {
                self.collect()?;
            }
        }
        self.drain()
    }
}
