//! Test task: an NVMe driver gone bad. It brings its controller up as the driver does, and then has
//! it read and write every page of the machine's memory.
//!
//! What the controller reads from page N goes to the disk, to page N there; what it writes is the
//! page of the attack, which lies on the disk behind all of these. The judge (`rogue-core`) says
//! which pages, and where this task's own memory is for the device, and compares disk and memory
//! afterwards. On a machine without protection, where most writes would end it, the rogue looks at
//! what it has read first and writes to canaries alone. The controller may be a virtual function.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod hardware;

use core::ops::Range;

use cloister_block::{Command, Controller as _, Disk, Operation, PAGE, Segment, Tag};
use cloister_dma::{Memory, Region};
use cloister_nvme_core::{Controller, Failure, wait_for_physical};
use cloister_rt::{Deadline, Duration, Instant, Irq, PciDevice, grants, sleep_until, wait};
use hardware::{Clock, Registers, Shifted};
use rogue_core::{
    ADDRESS, BATCH, CANARY, FROM, GO, GO_FOR_CANARIES, MARK, ORDER, OWN, RAM, ROGUE, SHIFT, TO,
    WAIT, WHO,
};

cloister_rt::entry!(main);

/// Pages that are attacked at a time.
const GROUP: u64 = 32;
/// How long the controller rests after a batch.
const SECOND: Duration = Duration::from_millis(1_050);
/// How long commands may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at completions: where idle time passes at once, a disk answers late.
const LOOK: Duration = Duration::from_micros(100);
/// Between two looks at what the judge wants.
const PAUSE: Duration = Duration::from_millis(50);

/// What a run has come to.
#[derive(Default)]
struct Tally {
    /// Pages that were tried.
    tried: u64,
    /// Pages that turned out to be canaries.
    canaries: u64,
    /// Commands that the controller says failed.
    failed: u64,
}

/// What the judge wants.
struct Orders {
    is_careful: bool,
    has_rests: bool,
    shift: u64,
    /// Pages of the machine's memory.
    ram: u64,
    /// The pages to attack.
    pages: Range<u64>,
}

struct Rogue<'m> {
    controller: Controller<Registers, Shifted<'m>>,
    device: PciDevice,
    irq: Irq,
    memory: Shifted<'m>,
    /// Where the pages begin that the disk's pages are read back into.
    buffers: u64,
    orders: Orders,
    tally: Tally,
}

fn main() -> u32 {
    let Ok(region) = grants().dma("queues") else { return 2 };
    let region = region.memory();
    let Some(orders) = ask(&region) else { return 3 };
    let memory = Shifted { region: &region, shift: orders.shift };
    let pages = orders.pages.clone();
    let Some(mut rogue) = find(memory, orders) else { return 4 };
    if let Err(failure) = rogue.start() {
        defmt::error!(
            "rogue: FAILED, the controller does not start ({})",
            defmt::Debug2Format(&failure)
        );
        return 5;
    }
    defmt::info!(
        "rogue: its memory is at {=u64:#x}, pages {=u64} to {=u64} to go",
        memory.address(0),
        pages.start,
        pages.end
    );
    if !rogue.run() {
        defmt::error!("rogue: FAILED, the controller does not answer");
        return 6;
    }
    if !rogue.orders.has_rests && !rogue.orders.is_careful {
        defmt::error!("rogue: FAILED, nobody has stopped it");
        return 7;
    }
    let Tally { tried, canaries, failed } = rogue.tally;
    defmt::info!(
        "rogue: done, {=u64} pages tried, {=u64} canaries seen, {=u64} commands failed",
        tried,
        canaries,
        failed
    );
    0
}

/// Marks the last page of the region and waits for the judge.
fn ask(region: &Region) -> Option<Orders> {
    let page = region.len().checked_sub(PAGE)?;
    let at = |word: u64| page + word * 8;
    region.clear(page, PAGE)?;
    region.store_u64(at(WHO), ROGUE)?;
    region.store_u64(at(ADDRESS), region.address(0))?;
    region.store_u64(at(OWN), region.len() / PAGE)?;
    (0..).zip(MARK).try_for_each(|(word, value)| region.store_u64(at(word), value))?;
    defmt::info!("rogue: waits");
    loop {
        let order = region.load_u64(at(ORDER))?;
        if order != WAIT {
            cloister_dma::observe();
            let word = |word: u64| region.load_u64(at(word));
            return Some(Orders {
                is_careful: order == GO_FOR_CANARIES,
                has_rests: order == GO,
                shift: word(SHIFT)?,
                ram: word(RAM)?,
                pages: word(FROM)?..word(TO)?,
            });
        }
        sleep_until(Instant::now() + PAUSE);
    }
}

/// Finds the controller.
fn find(memory: Shifted<'_>, orders: Orders) -> Option<Rogue<'_>> {
    let function = grants().function().ok()?;
    let registers = Registers(function.registers(0).ok()?);
    wait_for_physical(&registers, &Clock);
    let irq = function.irq(0)?;
    let controller = Controller::new(registers, memory, 1).ok()?;
    let (_, buffers) = controller.memory();
    let tally = Tally::default();
    Some(Rogue { controller, device: function.device, irq, memory, buffers, orders, tally })
}

impl Rogue<'_> {
    /// As the driver does.
    fn start(&mut self) -> Result<(), Failure> {
        self.device.begin_reset(false).map_err(|_| Failure::Gone)?;
        self.controller.stop(&Clock)?;
        self.device.finish_reset().map_err(|_| Failure::Gone)?;
        self.controller.start(&Clock)?;
        self.irq.ack().map_err(|_| Failure::Gone)
    }

    /// Attacks every page, batch by batch. `false`: the controller does not answer.
    fn run(&mut self) -> bool {
        let pages = self.orders.pages.clone();
        for (batch, first) in (0u64..).zip(pages.clone().step_by(BATCH as usize)) {
            let end = pages.end.min(first + BATCH);
            for group in (first..end).step_by(GROUP as usize) {
                if !self.group(group, end.min(group + GROUP)) {
                    return false;
                }
            }
            // The kernel counts what it refuses by the second, and its second may begin in the midst of
            // a batch. Without protection it refuses nothing.
            if self.orders.has_rests {
                sleep_until(Instant::now() + SECOND);
            }
            defmt::info!("rogue: batch {=u64} is over, pages {=u64} to {=u64}", batch, first, end);
        }
        true
    }

    /// Reads pages of memory onto the disk, and writes the attack to them.
    fn group(&mut self, first: u64, end: u64) -> bool {
        let own = self.memory.address(0) / PAGE..self.memory.address(self.memory.len()) / PAGE;
        let mut wanted = [false; GROUP as usize];
        let mut targets = wanted;
        for (page, target) in (first..end).zip(&mut targets) {
            *target = !own.contains(&page);
            self.tally.tried += u64::from(*target);
        }
        let address = |page: u64| page * PAGE;
        if !self.all(Operation::Write, first, &targets, address, |page| page) {
            return false;
        }
        wanted = targets;
        if self.orders.is_careful {
            let (view, buffers) = (self.memory, self.buffers);
            let buffer = move |page: u64| buffers + page % GROUP * PAGE;
            let place = move |page: u64| view.address(buffer(page));
            if !self.all(Operation::Read, first, &targets, place, |page| page) {
                return false;
            }
            for (page, wanted) in (first..end).zip(&mut wanted) {
                *wanted &= view.load_u64(buffer(page)) == Some(CANARY);
            }
        }
        self.tally.canaries +=
            wanted.iter().filter(|_| self.orders.is_careful).filter(|&&is| is).count() as u64;
        let behind = self.orders.ram;
        self.all(Operation::Read, first, &wanted, address, |_| behind)
    }

    /// One command for each page that is wanted, and all answers.
    fn all(
        &mut self,
        operation: Operation,
        first: u64,
        wanted: &[bool],
        address: impl Fn(u64) -> u64,
        on_disk: impl Fn(u64) -> u64,
    ) -> bool {
        let per_page = PAGE / u64::from(self.controller.limits().block_size);
        let mut left = 0;
        for (slot, page) in
            (first..).zip(wanted).filter(|(_, is)| **is).map(|(page, _)| page).enumerate()
        {
            let segments = [Segment { address: address(page), len: PAGE }];
            let command = Command {
                operation,
                block: on_disk(page) * per_page,
                blocks: per_page as u32,
                segments: &segments,
            };
            let tag = Tag { slot: slot as u8, generation: 0, client: 0 };
            if self.controller.submit(tag, &command).is_err() {
                return false;
            }
            left += 1;
        }
        self.controller.ring();
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some((_, outcome)) = self.controller.poll() {
                left -= 1;
                self.tally.failed += u64::from(outcome == cloister_block::Outcome::Failed);
            }
            if left == 0 {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            wait(self.irq.bits(), Deadline::after(LOOK));
            if self.irq.ack().is_err() {
                return false;
            }
        }
    }
}
