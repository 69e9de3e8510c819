//! The boot tier: every `images/test-NAME/` on every machine that its `expect.toml` names, and its
//! `expect-VARIANT.toml` for the same appliance under other conditions.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regex::Regex;
use tempfile::TempDir;

use super::Options;
use super::expect::{Counted, Expect, Matcher, WantedEnd};
use super::flips::{self, Flips};
use super::flushes;
use super::harness;
use super::integrity;
use super::keys::Typist;
use super::rogue;
use super::tally::{Tally, Verdict};
use super::walk;
use crate::appliance::{Appliance, Line};
use crate::disk::check;
use crate::disk::file::MachineFile;
use crate::disk::make::{self, Keep, Made};
use crate::emulators::{self, BOCHS, Emulator, Wanted};
use crate::install::{Install, say};
use crate::machine::{Flow, Machine};
use crate::paths;

/// The versions of QEMU that CI insists on.
const EMULATORS: &[Wanted] = &[Wanted::V7_2, Wanted::V10_0];

/// How many of its last lines a failed test shows.
const SHOWN_LINES: usize = 40;

/// Runs of a test that are made again because the emulator has lost an interrupt.
const AGAIN_MAX: u32 = 2;

/// One test.
struct Test {
    name: String,
    folder: PathBuf,
    expect: Expect,
    install: Install,
}

/// The places that CI insists on.
pub fn places() -> Vec<String> {
    EMULATORS.iter().map(Wanted::label).chain([BOCHS.to_owned()]).collect()
}

/// Runs the tier.
pub fn run(options: &Options, tally: &mut Tally) -> Result<()> {
    for place in places() {
        tally.place(&place);
    }
    let tests = find(options)?;
    let mut qemus = BTreeMap::new();
    for wanted in EMULATORS {
        let place = wanted.label();
        match emulators::ensure(wanted, options.install) {
            Ok(qemu) => {
                harness::run(options, &place, &qemu, tally);
                walk::run(options, &place, &qemu, tally);
                rogue::run(options, &place, &qemu, tally);
                qemus.insert(place, qemu);
            }
            Err(failure) => {
                say(&format!("{place} is not here, its tests are skipped: {failure:#}"));
            }
        }
    }
    if tests.is_empty() {
        say("boot: no folder images/test-*/ with an expect.toml fits");
    }
    if let Some((place, qemu)) = qemus.first_key_value() {
        flushes::run(options, place, qemu, tally);
    }
    integrity::boots(options, &qemus, tally);
    let mut emulators: BTreeMap<String, Emulator> =
        qemus.into_iter().map(|(place, qemu)| (place, Emulator::Qemu(qemu))).collect();
    if tests.iter().any(|test| test.expect.places().iter().any(|place| place == BOCHS)) {
        match emulators::ensure_bochs(options.install) {
            Ok(bochs) => drop(emulators.insert(BOCHS.to_owned(), Emulator::Bochs(bochs))),
            Err(failure) => {
                say(&format!("{BOCHS} is not here, its tests are skipped: {failure:#}"));
            }
        }
    }
    for test in &tests {
        run_test(test, options, &emulators, tally);
    }
    Ok(())
}

/// The tests that the options ask for, by name.
fn find(options: &Options) -> Result<Vec<Test>> {
    let images = paths::root().join("images");
    let mut tests = Vec::new();
    for entry in std::fs::read_dir(&images).context("cannot read images/")? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("test-") || !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&folder)? {
            let file = file?.file_name().to_string_lossy().into_owned();
            let Some(variant) = variant(&file) else { continue };
            let name = format!("{name}{variant}");
            if options.wants(&name) {
                let expect = Expect::read(&folder.join(file))?;
                let install = options.install;
                tests.push(Test { name, folder: folder.clone(), expect, install });
            }
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// What `expect.toml` adds to a test's name (nothing), or `expect-VARIANT.toml`: the same
/// appliance, run otherwise.
fn variant(file: &str) -> Option<String> {
    let rest = file.strip_prefix("expect")?.strip_suffix(".toml")?;
    match rest.strip_prefix('-') {
        Some(variant) => Some(format!(" ({variant})")),
        None => rest.is_empty().then(String::new),
    }
}

fn run_test(
    test: &Test,
    options: &Options,
    emulators: &BTreeMap<String, Emulator>,
    tally: &mut Tally,
) {
    let manifest = test.folder.join("appliance.toml");
    let skipped = test.expect.long && !options.long;
    let built = if skipped {
        Ok(None)
    } else {
        let features: Vec<&str> = test.expect.features.iter().map(String::as_str).collect();
        let manifest = manifest.display().to_string();
        Appliance::build_with(&manifest, &features, options.install).map(Some)
    };
    for place in test.expect.places() {
        for &cpus in &test.expect.cpus {
            let name = format!("{} on {place}, {cpus} processors", test.name);
            let verdict = match (&built, emulators.get(&place)) {
                (Err(failure), _) => {
                    println!("FAILED  {name}: it cannot be built: {failure:#}");
                    Verdict::Failed
                }
                (Ok(None), _) => {
                    println!("skipped {name}: only with --long");
                    Verdict::Skipped
                }
                (Ok(Some(_)), None) => {
                    println!("skipped {name}: {place} is not here");
                    Verdict::Skipped
                }
                (Ok(Some(appliance)), Some(emulator)) => {
                    repeat(test, appliance, emulator, cpus, &name)
                }
            };
            tally.add(&place, verdict);
        }
    }
}

/// Runs a test as often as it asks for, on one machine; the first failure decides.
fn repeat(
    test: &Test,
    appliance: &Appliance,
    emulator: &Emulator,
    cpus: u32,
    name: &str,
) -> Verdict {
    let start = Instant::now();
    let rounds = test.expect.flips.map_or(test.expect.repeat.max(1), |flips| flips.count);
    let mut so_far = SoFar::default();
    let (mut round, mut again) = (1, 0);
    while round <= rounds {
        let counted = so_far.counted.clone();
        so_far.last.clear();
        so_far.is_last_round = round == rounds;
        let result = match test.expect.flips {
            None => once(test, appliance, emulator, cpus, &mut so_far),
            Some(flips) => {
                damaged(test, appliance, flips, round).and_then(|(machine, _folder, what)| {
                    let (archive, file) = (appliance.archive.clone(), appliance.file.clone());
                    let appliance = Appliance { machine, archive, file };
                    let result = once(test, &appliance, emulator, cpus, &mut so_far)?;
                    Ok(result.map_err(|why| format!("{what} turned over: {why}")))
                })
            }
        };
        let failure = match result {
            Ok(Ok(())) => {
                round += 1;
                continue;
            }
            Ok(Err(why)) if so_far.is_emulators_fault && again < AGAIN_MAX => {
                println!("again   {name}, round {round}: {why}");
                (again, so_far.counted) = (again + 1, counted);
                continue;
            }
            Ok(Err(why)) => why,
            Err(failure) => format!("{failure:#}"),
        };
        println!("FAILED  {name}, round {round}: {failure}");
        for line in so_far.last {
            println!("        | {line}");
        }
        return Verdict::Failed;
    }
    if let Some(counted) = so_far.counted.describe() {
        println!("        {}: {counted}", test.name);
    }
    let seconds = start.elapsed().as_secs_f32();
    if rounds == 1 {
        println!("ok      {name} ({seconds:.1} s)");
    } else {
        println!("ok      {name} ({rounds} rounds, {seconds:.1} s)");
    }
    Verdict::Passed
}

/// The machine of one damaged image, the folder that holds the image, and what is damaged.
fn damaged(
    test: &Test,
    appliance: &Appliance,
    flips: Flips,
    round: u32,
) -> Result<(Machine, TempDir, String)> {
    let whole = &appliance.machine.image;
    let bytes = std::fs::read(whole).with_context(|| format!("cannot read {}", whole.display()))?;
    let (bytes, what) = flips::flipped(&bytes, flips, round)?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join(format!("{}.elf", test.name));
    std::fs::write(&image, bytes).with_context(|| format!("cannot write {}", image.display()))?;
    Ok((Machine { image, ..appliance.machine.clone() }, folder, what))
}

/// What a test's runs on one machine have said.
#[derive(Default)]
struct SoFar {
    /// The last lines of the latest.
    last: VecDeque<String>,
    /// What all have counted.
    counted: Counted,
    /// The latest is the last, so the counts have to suffice.
    is_last_round: bool,
    /// The latest says nothing: see [`crate::machine::Outcome::is_emulators_fault`].
    is_emulators_fault: bool,
}

/// One run: nothing, or why it is not what was expected.
fn once(
    test: &Test,
    appliance: &Appliance,
    emulator: &Emulator,
    cpus: u32,
    so_far: &mut SoFar,
) -> Result<Result<(), String>> {
    let expect = &test.expect;
    let disks = fresh_disks(test, appliance)?;
    let machine = Machine {
        cpus,
        memory_mib: expect.memory_mib.unwrap_or(appliance.machine.memory_mib),
        iommu: expect.iommu,
        icount: expect.icount,
        timeout: Some(Duration::from_secs(expect.timeout_s)),
        nmi_every: expect.nmi_every_ms.map(Duration::from_millis),
        disks: disks.clone(),
        extra: expect.extra.clone(),
        ..appliance.machine.clone()
    };
    let SoFar { last, counted, is_last_round, is_emulators_fault } = so_far;
    let mut matcher = Matcher::new(expect, std::mem::take(counted))?;
    let mut decoder = appliance.decoder(false)?;
    let (mut typist, keys) = Typist::new(&expect.keys)?;
    let shown = expect.show.as_deref().map(Regex::new).transpose()?;
    let mut take = |lines: Vec<Line>, matcher: &mut Matcher| {
        let mut flow = Flow::Continue;
        for line in lines.iter().flat_map(|line| line.text.lines()) {
            if last.len() == SHOWN_LINES {
                last.pop_front();
            }
            last.push_back(line.to_owned());
            typist.line(line);
            if shown.as_ref().is_some_and(|shown| shown.is_match(line)) {
                println!("        {line}");
            }
            if !matcher.line(line) {
                flow = Flow::Stop;
            }
        }
        flow
    };
    let outcome =
        machine.run_in(emulator, Some(keys), |bytes| take(decoder.feed(bytes), &mut matcher))?;
    take(decoder.finish(), &mut matcher);
    *is_emulators_fault = outcome.is_emulators_fault();
    let mut judged = matcher.judge(&outcome);
    if *is_last_round {
        judged = judged.and_then(|()| matcher.judge_counts());
    }
    *counted = matcher.into_counted();
    if let Some(missing) = typist.missing() {
        judged = Err(judged.err().map_or(missing.clone(), |why| format!("{why}; {missing}")));
    }
    if judged.is_err() || expect.end != WantedEnd::Shutdown {
        return Ok(judged);
    }
    // What a guest left in order has to be in order.
    Ok(check::all(&disks, test.install).map(drop).map_err(|failure| format!("{failure:#}")))
}

/// The disks of a test, made anew: those of the file that it names, or the appliance's.
fn fresh_disks(test: &Test, appliance: &Appliance) -> Result<Vec<Made>> {
    let named = test.expect.machine.as_ref();
    let read = named.map(|name| MachineFile::read(&test.folder.join(name))).transpose()?;
    let file = read.as_ref().unwrap_or(&appliance.file);
    if file.disks.is_empty() {
        return Ok(Vec::new());
    }
    let built = appliance.archive.as_ref().context("an image alone has no disks")?;
    make::all(&file.disks, &built.join("test-disks"), Keep::Fresh, test.install)
}
