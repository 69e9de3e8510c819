//! Test task: a driver of QEMU's `edu` gone bad. It has the device copy pages of others into its own
//! memory, and the attack onto them (QEMU, "EDU device": 0x80 is the source, 0x88 the target, 0x90
//! the length, 0x98 the command of a copy, 0x24 and 0x64 show and end an interrupt; the device's
//! own page is at 0x40000).
//!
//! The device says nothing of a copy that was refused; it holds zeros then, or what it held before.
//! Anything else that it brings is somebody's memory. The judge (`rogue-core`) says which pages, and
//! compares what was brought and what memory holds.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_dma::{Memory, Region, observe, publish};
use cloister_rt::{
    Deadline, Duration, Instant, Irq, PciDevice, Registers, grants, sleep_until, wait,
};
use rogue_core::sweep::{BATCH, BROUGHT, IS_WRITTEN, MOST, SOURCE, entry_at, loot_at};
use rogue_core::{ADDRESS, LISTED, MARK, ORDER, OWN, PAGE, ROGUE, SHIFT, WAIT, WHO, WORDS, attack};

cloister_rt::entry!(main);

/// The device's own page.
const INSIDE: u64 = 0x4_0000;
/// Bytes of a copy: a page but for its last word, because older versions of the device take a copy
/// that ends where their page ends for one that is too long.
const LEN: u64 = PAGE - 8;
/// Of a command: start, out of the device, interrupt at the end.
const START: u32 = 1;
const OUT: u32 = 2;
const INTERRUPT: u32 = 4;
/// A copy takes a tenth of a second; the host may be loaded.
const PATIENCE: Duration = Duration::from_secs(20);
/// The supervisor tells of refusals twice a second at most.
const REST: Duration = Duration::from_millis(600);
/// Between two looks at what the judge wants.
const PAUSE: Duration = Duration::from_millis(50);

struct Rogue<'m> {
    registers: Registers,
    function: PciDevice,
    irq: Irq,
    region: &'m Region,
    /// What its own addresses lack to be those of its device.
    shift: u64,
    /// Copies that the IOMMU is to refuse, so far.
    attempts: u64,
    /// Pages that were brought.
    brought: u64,
}

fn main() -> u32 {
    let Ok(region) = grants().dma("pages") else { return 2 };
    let region = region.memory();
    let Some((shift, listed)) = ask(&region) else { return 3 };
    let Some(mut rogue) = find(&region, shift) else { return 4 };
    defmt::info!("rogue: {=u64} pages to go", listed);
    if rogue.run(listed).is_none() {
        defmt::error!("rogue: FAILED after {=u64} attempts", rogue.attempts);
        return 5;
    }
    defmt::info!(
        "rogue: done, {=u64} attempts, {=u64} pages brought",
        rogue.attempts,
        rogue.brought
    );
    0
}

/// Marks the last page of the region and waits for the judge: the shift of addresses and the length
/// of the list.
fn ask(region: &Region) -> Option<(u64, u64)> {
    (0..WORDS).try_for_each(|word| region.store_u64(SOURCE * PAGE + word * 8, attack(word)))?;
    let page = region.len().checked_sub(PAGE)?;
    let at = |word: u64| page + word * 8;
    region.clear(page, PAGE)?;
    region.store_u64(at(WHO), ROGUE)?;
    region.store_u64(at(ADDRESS), region.address(0))?;
    region.store_u64(at(OWN), region.len() / PAGE)?;
    (0..).zip(MARK).try_for_each(|(word, value)| region.store_u64(at(word), value))?;
    defmt::info!("rogue: waits");
    while region.load_u64(at(ORDER))? == WAIT {
        sleep_until(Instant::now() + PAUSE);
    }
    observe();
    Some((region.load_u64(at(SHIFT))?, region.load_u64(at(LISTED))?.min(MOST)))
}

fn find(region: &Region, shift: u64) -> Option<Rogue<'_>> {
    let found = grants().function().ok()?;
    let registers = found.registers(0).ok()?;
    let irq = found.irq(0)?;
    found.device.finish_reset().ok()?;
    irq.ack().ok()?;
    Some(Rogue { registers, function: found.device, irq, region, shift, attempts: 0, brought: 0 })
}

impl Rogue<'_> {
    /// Tries every page of the list, batch by batch. `None`: the device does not answer.
    fn run(&mut self, listed: u64) -> Option<()> {
        self.load()?;
        for first in (0..listed).step_by(BATCH as usize) {
            for index in first..listed.min(first + BATCH) {
                self.page(index)?;
            }
            // Once more after a rest, so that the supervisor tells of all that was refused.
            sleep_until(Instant::now() + REST);
            let knock = self.region.load_u64(entry_at(first))? & !IS_WRITTEN;
            self.copy(knock * PAGE, INSIDE, 0)?;
            self.attempts += 1;
            self.load()?;
            defmt::info!("rogue: batch is over, {=u64} attempts", self.attempts);
        }
        self.function.begin_reset(false).ok()
    }

    /// Reads a page of the list, and writes the attack to it.
    fn page(&mut self, index: u64) -> Option<()> {
        let entry = self.region.load_u64(entry_at(index))?;
        let target = (entry & !IS_WRITTEN) * PAGE;
        self.copy(target, INSIDE, 0)?;
        self.copy(INSIDE, self.own(BROUGHT), OUT)?;
        self.attempts += 1;
        let word = |word: u64| self.region.load_u64(BROUGHT * PAGE + word * 8).unwrap_or(0);
        if (0..LEN / 8).any(|n| word(n) != attack(n)) {
            let strange = (0..LEN / 8).find(|&n| word(n) != 0);
            let loot = match strange {
                None => [0, 0],
                Some(0 | 1) => [word(0), word(1)],
                Some(n) => [u64::MAX, n],
            };
            (0..)
                .zip(loot)
                .try_for_each(|(n, value)| self.region.store_u64(loot_at(index) + n * 8, value))?;
            self.brought += u64::from(strange.is_some());
            self.load()?;
        }
        if entry & IS_WRITTEN != 0 {
            self.copy(INSIDE, target, OUT)?;
            self.attempts += 1;
        }
        Some(())
    }

    /// Has the device hold the attack.
    fn load(&self) -> Option<()> {
        self.copy(self.own(SOURCE), INSIDE, 0)
    }

    /// The address of a page of its own, for the device.
    fn own(&self, page: u64) -> u64 {
        self.region.address(page * PAGE).wrapping_add(self.shift)
    }

    /// Copies a page, as far as the device can.
    fn copy(&self, from: u64, to: u64, way: u32) -> Option<()> {
        publish();
        for (register, value) in [(0x80, from), (0x88, to), (0x90, LEN)] {
            self.registers.write(register, value as u32)?;
        }
        self.registers.write(0x98, START | way | INTERRUPT)?;
        let end = Instant::now() + PATIENCE;
        while self.registers.read(0x98)? & START != 0 {
            if Instant::now() > end {
                return None;
            }
            wait(self.irq.bits(), Deadline::At(end));
            self.registers.write(0x64, self.registers.read(0x24)?)?;
            self.irq.ack().ok()?;
        }
        observe();
        Some(())
    }
}
