//! A rogue in the NVMe driver's place, judged from outside: with an IOMMU its disk has nothing of
//! anybody's memory and nobody's memory has anything of its attack; without one it gets everything.
//!
//! `images/test-rogue-nvme` runs on memory that is a file of the host, so that the judge finds the
//! rogue and the owners of canaries by their marked pages, answers them there, and compares memory
//! and disk page by page. Both runs are of one image. Invariant: without [`CANARIES`] pages that
//! stand before the attack, nothing is judged.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rogue_core::{
    ADDRESS, ATTACK, BATCH, CANARIES, CANARY, GO, GO_FOR_CANARIES, MARK, ORDER, PAGE, RAM, ROGUE,
    SHIFT, WHO, WORDS, attack, canary_of,
};

use super::Options;
use super::inspect::Session;
use super::tally::{Tally, Verdict};
use crate::appliance::Appliance;
use crate::disk::file::{Disk, Model, Throttle};
use crate::disk::make::Made;
use crate::emulators::{Qemu, REFERENCE};
use crate::machine::Machine;

const APPLIANCE: &str = "test-rogue-nvme";
/// Memory of the machine, in MiB.
const MEMORY_MIB: u32 = 320;
/// Owners of canaries.
const OWNERS: usize = 3;
/// How long any part may take, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the supervisor says of what the IOMMU has refused the rogue's function, which is 01:00.0.
const REFUSED: &str = "rogue: its device 01:00.0 may not ";

/// Whether the machine protects itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Protected,
    Control,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Findings {
    /// Pages of canaries before the attack.
    canaries: u64,
    /// Of these, pages whose content is on the disk afterwards.
    read: u64,
    /// Of these, pages that are not what they were.
    changed: u64,
    /// Other pages, not of the rogue's own, that have the attack in them or that are on the disk.
    others: Vec<u64>,
    /// Batches, and those of them in which no refusal of the right source was told.
    batches: usize,
    silent: Vec<usize>,
    /// What the owners themselves count as changed.
    told: u64,
}

/// Runs both on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    for (run, what) in [
        (Run::Protected, "rogue: an NVMe driver reaches no page but its own"),
        (Run::Control, "rogue: without an IOMMU the same driver reaches every canary"),
    ] {
        let name = format!("{what}, on {place}");
        if !options.wants(&name) {
            continue;
        }
        // Each batch takes more than a second, by the kernel's bound; one emulator is enough for CI.
        if run == Run::Protected && !options.long && qemu.version < REFERENCE {
            println!("skipped {name}: only with --long");
            tally.add(place, Verdict::Skipped);
            continue;
        }
        let start = Instant::now();
        let judged = attempt(options, qemu, run).and_then(|found| judge(&found, run));
        let verdict = match judged {
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
}

/// What was found against what has to be.
fn judge(found: &Findings, run: Run) -> Result<String> {
    let &Findings { canaries, read, changed, batches, ref silent, told, .. } = found;
    ensure!(canaries >= CANARIES, "only {canaries} pages of canaries stand");
    ensure!(told == changed, "the owners count {told} changed pages, and {changed} are");
    let counts = format!("{canaries} pages of canaries, {read} read, {changed} changed");
    match run {
        Run::Protected => {
            let others = &found.others;
            ensure!(read == 0 && changed == 0, "{counts}");
            ensure!(others.is_empty(), "pages {:x?} were reached", &others[..others.len().min(8)]);
            let wanted = (u64::from(MEMORY_MIB) << 8).div_ceil(BATCH) as usize;
            ensure!(batches == wanted, "{batches} of {wanted} batches were told of");
            ensure!(silent.is_empty(), "batches {silent:?} of {batches} left no record");
            Ok(format!("{counts}, {batches} batches with a refusal each"))
        }
        Run::Control => {
            ensure!(read == canaries && changed == canaries, "{counts}: the attack does not work");
            Ok(counts)
        }
    }
}

/// The machine of a run: its memory is a file, its disk has a page for each of memory and the
/// attack behind them.
fn machine(appliance: &Appliance, folder: &Path, run: Run) -> Result<Machine> {
    let (memory, image) = (folder.join("memory"), folder.join("disk.img"));
    let bytes = u64::from(MEMORY_MIB) << 20;
    let disk = File::create(&image)?;
    disk.set_len(bytes + (1 << 20))?;
    let page: Vec<u8> = (0..WORDS).flat_map(|word| attack(word).to_le_bytes()).collect();
    disk.write_all_at(&page, bytes)?;
    let made = Made {
        disk: Disk {
            name: "n0".to_owned(),
            model: Model::Nvme { functions: 0, detached: false },
            bytes: bytes + (1 << 20),
            sector: 512,
            volumes: None,
            faults: Vec::new(),
            throttle: Throttle::default(),
            options: Vec::new(),
        },
        image,
    };
    let file = memory.display().to_string().replace(',', ",,");
    let object = format!("memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={file}");
    let extra = ["-object", &object, "-machine", "memory-backend=ram"].map(str::to_owned);
    Ok(Machine {
        cpus: 4,
        memory_mib: MEMORY_MIB,
        iommu: run == Run::Protected,
        disks: vec![made],
        extra: extra.into(),
        ..appliance.machine.clone()
    })
}

fn attempt(options: &Options, qemu: &Qemu, run: Run) -> Result<Findings> {
    let appliance = Appliance::build(APPLIANCE, options.install)?;
    let folder = tempfile::Builder::new().prefix("cloister-rogue-").tempdir()?;
    let machine = machine(&appliance, folder.path(), run)?;
    let mut session = match Session::start(&machine, qemu)? {
        Ok(session) => session,
        Err(refused) => bail!("QEMU does not start: {}", refused.0),
    };
    let open = |name| File::options().read(true).write(true).open(folder.path().join(name));
    let (ram, disk) = (Paged(open("memory")?), Paged(open("disk.img")?));
    let mut log = Log { decoder: appliance.decoder(false)?, said: Said::default() };
    session.go()?;
    log.until(&mut session, "pages stand", OWNERS)?;
    log.until(&mut session, "rogue: waits", 1)?;

    let places = survey(&ram)?;
    let (rogue, shift) = places.rogue.context("the rogue has no marked page")?;
    ensure!(places.owners.len() == OWNERS, "{} owners are marked", places.owners.len());
    let pages = u64::from(MEMORY_MIB) << 8;
    let (order, shift) = match run {
        Run::Protected => (GO, 0),
        Run::Control => (GO_FOR_CANARIES, shift),
    };
    for (word, value) in [(SHIFT, shift), (RAM, pages), (ORDER, order)] {
        ram.set(rogue, word, value)?;
    }
    log.until(&mut session, "rogue: done", 1)?;
    places.owners.iter().try_for_each(|&page| ram.set(page, ORDER, GO))?;
    log.until(&mut session, "pages changed", OWNERS)?;
    session.stop()?;
    let own = rogue + 1 - OWN_PAGES..rogue + 1;
    let mut found = compare(&ram, &disk, &places.canaries, own, pages)?;
    drop(session);
    (found.batches, found.silent) = log.said.batches();
    found.told = log.said.told();
    Ok(found)
}

/// Pages of the rogue's region, of which the last is the marked one.
const OWN_PAGES: u64 = 64;

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
}

fn survey(ram: &Paged) -> Result<Places> {
    let mut places = Places::default();
    for number in 0..ram.pages()? {
        let page = ram.page(number)?;
        let word = |at: u64| page[at as usize];
        if page[..2] == MARK && word(WHO) == ROGUE {
            let end = (number + 1) * PAGE;
            let shift = (end - OWN_PAGES * PAGE).wrapping_sub(word(ADDRESS));
            ensure!(places.rogue.is_none(), "two pages are marked as the rogue's");
            places.rogue = Some((number, shift));
        } else if page[..2] == MARK {
            places.owners.push(number);
        } else if let Some(which) = canary_of(word) {
            places.canaries.insert(number, which);
        }
    }
    Ok(places)
}

/// Memory and disk after the attack.
fn compare(
    ram: &Paged,
    disk: &Paged,
    canaries: &BTreeMap<u64, (u64, u64)>,
    own: std::ops::Range<u64>,
    pages: u64,
) -> Result<Findings> {
    let mut found = Findings { canaries: canaries.len() as u64, ..Findings::default() };
    for number in (0..pages).filter(|number| !own.contains(number)) {
        let (page, copy) = (ram.page(number)?, disk.page(number)?);
        let known = canaries.get(&number);
        if let Some(&which) = known {
            found.changed += u64::from(canary_of(|word| page[word as usize]) != Some(which));
            found.read += u64::from(canary_of(|word| copy[word as usize]) == Some(which));
        }
        let is_reached = page.contains(&ATTACK) && known.is_none();
        let is_copied = copy.contains(&CANARY) && known.is_none();
        let is_same = known.is_none() && page == copy && page.iter().any(|&word| word != 0);
        if is_reached || is_copied || is_same {
            found.others.push(number);
        }
    }
    Ok(found)
}

/// What the machine has said so far.
struct Log {
    decoder: crate::appliance::Decoder,
    said: Said,
}

/// Its lines.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
}

impl Log {
    /// Reads on until so many lines have a text in them.
    fn until(&mut self, session: &mut Session, text: &str, count: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.said.lines.iter().filter(|line| line.contains(text)).count() < count {
            let bad = self.said.lines.iter().find(|line| {
                ["FAILED", "panic", "fault:", "is given up"].iter().any(|bad| line.contains(bad))
            });
            let last = self.said.lines.last().cloned().unwrap_or_default();
            if let Some(bad) = bad {
                bail!("before `{text}`: {bad}");
            }
            let left = end.saturating_duration_since(Instant::now());
            let bytes = session.serial(left);
            let bytes = bytes.with_context(|| format!("no line has `{text}`; the last: {last}"))?;
            let lines = self.decoder.feed(&bytes).into_iter().map(|line| line.text);
            self.said.lines.extend(lines);
        }
        Ok(())
    }
}

impl Said {
    /// Batches, and those of them in which nothing was refused to the right source. By the time
    /// that each line names: the rings of two tasks are not shipped in that order.
    fn batches(&self) -> (usize, Vec<usize>) {
        let events = self.lines.iter().filter_map(|line| {
            let is_batch = line.contains("rogue: batch");
            (is_batch || line.contains(REFUSED)).then(|| Some((time(line)?, is_batch)))?
        });
        let mut events: Vec<(u64, bool)> = events.collect();
        events.sort_unstable();
        let (mut batches, mut silent, mut refused) = (0, Vec::new(), false);
        for (_, is_batch) in events {
            if is_batch {
                if !refused {
                    silent.push(batches);
                }
                batches += 1;
            }
            refused = !is_batch;
        }
        (batches, silent)
    }

    /// Changed pages, as their owners count them.
    fn told(&self) -> u64 {
        let lines = self.lines.iter().filter(|line| line.contains("pages changed"));
        let count = |line: &String| {
            let (head, _) = line.rsplit_once(" of ")?;
            head.rsplit(' ').next()?.parse::<u64>().ok()
        };
        lines.filter_map(count).sum()
    }
}

/// The time at the beginning of a line, in microseconds.
fn time(line: &str) -> Option<u64> {
    let (seconds, _) = line.strip_prefix('[')?.split_once(']')?;
    seconds.trim().replace('.', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_belongs_to_its_time_and_not_to_its_place_in_the_stream() {
        let batch = |at: &str| format!("[   {at}] c1  rogue  INFO  rogue: batch");
        let refusal = |at: &str| format!("[   {at}] c0  supervisor  WARN  {REFUSED}read");
        assert_eq!(time(&batch("12.345678")), Some(12_345_678));
        let counted = |lines: &[String]| Said { lines: lines.to_vec() }.batches();
        let lines =
            [refusal("1.000000"), batch("1.900000"), batch("3.100000"), refusal("2.500000")];
        assert_eq!(counted(&lines), (2, vec![]));
        assert_eq!(counted(&lines[..3]), (2, vec![1]));
    }

    fn clean() -> Findings {
        let batches = (u64::from(MEMORY_MIB) << 8).div_ceil(BATCH) as usize;
        Findings { canaries: CANARIES, batches, ..Findings::default() }
    }

    #[test]
    fn one_page_is_enough_to_fail_a_protected_run() {
        assert!(judge(&clean(), Run::Protected).is_ok());
        let spoiled = [
            Findings { canaries: CANARIES - 1, ..clean() },
            Findings { read: 1, ..clean() },
            Findings { changed: 1, told: 1, ..clean() },
            Findings { told: 1, ..clean() },
            Findings { others: vec![7], ..clean() },
            Findings { silent: vec![3], ..clean() },
            Findings { batches: 1, ..clean() },
        ];
        for found in spoiled {
            assert!(judge(&found, Run::Protected).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_control_run_reaches_every_canary_or_fails() {
        let all = || Findings { read: CANARIES, changed: CANARIES, told: CANARIES, ..clean() };
        assert!(judge(&all(), Run::Control).is_ok());
        let less = [
            Findings { read: CANARIES - 1, ..all() },
            Findings { changed: CANARIES - 1, told: CANARIES - 1, ..all() },
            clean(),
        ];
        for found in less {
            assert!(judge(&found, Run::Control).is_err(), "{found:?}");
        }
    }

    #[test]
    fn memory_and_disk_are_compared_page_by_page() {
        let file = |pages: [&dyn Fn(u64) -> u64; 5]| {
            let file = tempfile::tempfile().unwrap();
            let words = pages.iter().flat_map(|page| (0..WORDS).map(page));
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            file.write_all_at(&bytes, 0).unwrap();
            Paged(file)
        };
        let nothing: &dyn Fn(u64) -> u64 = &|_| 0;
        let kernel: &dyn Fn(u64) -> u64 = &|word| word + 1;
        let (one, two) =
            (|word| rogue_core::canary(2, 1, word), |word| rogue_core::canary(2, 2, word));
        let canaries = BTreeMap::from([(0, (2, 1)), (1, (2, 2))]);
        let ram = file([&one, &attack, kernel, &attack, kernel]);
        let disk = file([&one, nothing, kernel, nothing, kernel]);
        let found = compare(&ram, &disk, &canaries, 4..5, 5).unwrap();
        assert_eq!((found.canaries, found.read, found.changed), (2, 1, 1));
        assert_eq!(found.others, [2, 3], "the rogue's own page is nobody else's");
        let ram = file([&one, &two, kernel, nothing, kernel]);
        let disk = file([nothing; 5]);
        let found = compare(&ram, &disk, &canaries, 4..5, 5).unwrap();
        assert_eq!((found.read, found.changed, found.others.len()), (0, 0, 0));
    }
}
