//! Rogues in a driver's place, judged from outside: with an IOMMU their devices bring nothing of
//! anybody's memory and nobody's memory has anything of the attack; without one they get everything.
//!
//! The machine runs on memory that is a file of the host, so that the judge finds the rogue and the
//! owners of canaries by their marked pages, gives its orders there, and looks at memory page by
//! page. [`nvme`] tries every page of memory, [`edu`] a list of pages. Both runs of each are of one
//! image. Invariant: without [`CANARIES`] pages that stand before the attack, nothing is judged.

mod edu;
mod nvme;
pub mod said;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rogue_core::{
    ADDRESS, CANARIES, GO, MARK, ORDER, OWN, PAGE, ROGUE, SHIFT, WHO, WORDS, canary_of,
};
use tempfile::TempDir;

use self::said::Log;
use super::Options;
use super::inspect::Session;
use super::tally::{Tally, Verdict};
use crate::appliance::Appliance;
use crate::emulators::Qemu;
use crate::machine::Machine;

/// Memory of the machine, in MiB.
const MEMORY_MIB: u32 = 320;
/// Pages of it.
const MEMORY_PAGES: u64 = (MEMORY_MIB as u64) << 8;
/// Owners of canaries.
const OWNERS: usize = 3;

/// What the supervisor says of a rogue whose device is refused too often.
const STOPPED: &str = "rogue: its device 0100 went on reaching for memory that is not its own";

/// Whether the machine protects itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// It does, and the rogue rests between batches.
    Protected,
    /// It does, and the rogue never rests, for which the kernel stops it.
    Stopped,
    /// It does not.
    Control,
}

/// Runs all rogues on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    nvme::run(options, place, qemu, tally);
    edu::run(options, place, qemu, tally);
}

/// One test: `attempt` says what was found, in a line.
fn one(
    options: &Options,
    place: &str,
    tally: &mut Tally,
    what: &str,
    is_skipped: bool,
    attempt: impl FnOnce() -> Result<String>,
) {
    let name = format!("rogue: {what}, on {place}");
    if !options.wants(&name) {
        return;
    }
    if is_skipped {
        println!("skipped {name}: only with --long");
        tally.add(place, Verdict::Skipped);
        return;
    }
    let start = Instant::now();
    let verdict = match attempt() {
        Ok(summary) => {
            println!("ok      {name}: {summary} ({:.1} s)", start.elapsed().as_secs_f32());
            Verdict::Passed
        }
        Err(failure) => {
            println!("FAILED  {name}: {failure:#}");
            Verdict::Failed
        }
    };
    tally.add(place, verdict);
}

/// A machine whose programs wait for the judge.
struct Scene {
    session: Session,
    log: Log,
    folder: TempDir,
    ram: Paged,
    places: Places,
    /// The rogue's marked page, the last of its region.
    rogue: u64,
    /// What the rogue's addresses lack to be physical ones.
    shift: u64,
}

impl Scene {
    /// Starts a machine that `change` has made of the appliance's, and finds everybody.
    fn start(
        options: &Options,
        qemu: &Qemu,
        appliance: &str,
        patience: Duration,
        change: impl FnOnce(&mut Machine, &Path) -> Result<()>,
    ) -> Result<Scene> {
        let appliance = Appliance::build(appliance, options.install)?;
        let folder = tempfile::Builder::new().prefix("cloister-rogue-").tempdir()?;
        let memory = folder.path().join("memory");
        let file = memory.display().to_string().replace(',', ",,");
        let object =
            format!("memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={file}");
        let extra = ["-object", &object, "-machine", "memory-backend=ram"].map(str::to_owned);
        let (cpus, memory_mib) = (4, MEMORY_MIB);
        let mut machine =
            Machine { cpus, memory_mib, extra: extra.into(), ..appliance.machine.clone() };
        change(&mut machine, folder.path())?;
        let mut session = match Session::start(&machine, qemu)? {
            Ok(session) => session,
            Err(refused) => bail!("QEMU does not start: {}", refused.0),
        };
        let ram = Paged(File::options().read(true).write(true).open(memory)?);
        let mut log = Log::new(appliance.decoder(false)?, patience);
        session.go()?;
        log.until(&mut session, "pages stand", OWNERS)?;
        log.until(&mut session, "rogue: waits", 1)?;
        let places = survey(&ram)?;
        let (rogue, shift) = places.rogue.context("the rogue has no marked page")?;
        ensure!(places.owners.len() == OWNERS, "{} owners are marked", places.owners.len());
        let canaries = places.canaries.len();
        ensure!(canaries as u64 >= CANARIES, "only {canaries} pages of canaries stand");
        Ok(Scene { session, log, folder, ram, places, rogue, shift })
    }

    /// The pages of the rogue's region.
    fn own(&self) -> Result<Range<u64>> {
        let pages = self.ram.page(self.rogue)?[OWN as usize];
        Ok(self.rogue + 1 - pages..self.rogue + 1)
    }

    /// Lets the rogue go with words for its marked page, and its device's addresses shifted if it is
    /// not protected. Then the owners count, and the machine stops.
    fn attack(&mut self, run: Run, words: &[(u64, u64)], order: u64) -> Result<()> {
        let shift = if run == Run::Control { self.shift } else { 0 };
        let last = [(SHIFT, shift), (ORDER, order)];
        for &(word, value) in words.iter().chain(&last) {
            self.ram.set(self.rogue, word, value)?;
        }
        if run == Run::Stopped {
            // The machine goes off with the rogue; its memory stays.
            self.log.until(&mut self.session, STOPPED, 1)?;
            return Ok(());
        }
        self.log.until(&mut self.session, "rogue: done", 1)?;
        self.places.owners.iter().try_for_each(|&page| self.ram.set(page, ORDER, GO))?;
        self.log.until(&mut self.session, "pages changed", OWNERS)?;
        self.session.stop()
    }
}

/// Pages of a file of the host.
struct Paged(File);

impl Paged {
    fn page(&self, number: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; PAGE as usize];
        self.0.read_exact_at(&mut bytes, number * PAGE)?;
        let word = |at: &[u8]| at.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Ok(bytes.chunks(8).map(word).collect())
    }

    fn set(&self, page: u64, word: u64, value: u64) -> Result<()> {
        Ok(self.0.write_all_at(&value.to_le_bytes(), page * PAGE + word * 8)?)
    }

    fn pages(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len() / PAGE)
    }
}

/// What is where before the attack.
#[derive(Default)]
struct Places {
    /// The rogue's marked page, and what its addresses lack to be physical ones.
    rogue: Option<(u64, u64)>,
    /// The marked pages of owners.
    owners: Vec<u64>,
    /// Each page of canaries: whose it is and which.
    canaries: BTreeMap<u64, (u64, u64)>,
    /// Other pages that hold anything.
    others: Vec<u64>,
}

fn survey(ram: &Paged) -> Result<Places> {
    let mut places = Places::default();
    for number in 0..ram.pages()? {
        let page = ram.page(number)?;
        let word = |at: u64| page[at as usize];
        if page[..2] == MARK && word(WHO) == ROGUE {
            let end = (number + 1) * PAGE;
            let shift = (end - word(OWN) * PAGE).wrapping_sub(word(ADDRESS));
            ensure!(places.rogue.is_none(), "two pages are marked as the rogue's");
            places.rogue = Some((number, shift));
        } else if page[..2] == MARK {
            places.owners.push(number);
        } else if let Some(which) = canary_of(word) {
            places.canaries.insert(number, which);
        } else if page.iter().any(|&word| word != 0) {
            places.others.push(number);
        }
    }
    Ok(places)
}

const _: () = assert!(WORDS * 8 == PAGE);
