//! Damaged images are refused: every byte of the payload on the host, 200 seeded ones in QEMU,
//! images that are cut off, machines with too little memory.
//!
//! A refusal is taken for one only if the stub's line is the last thing that the machine says and
//! its processor then lies halted, interrupts off, inside the stub: it can never reach the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cloister_abi::payload::{BLOCK, PAYLOAD_BASE, STUB_BASE};

use super::Options;
use super::inspect::{Refused, Session};
use super::tally::{Tally, Verdict};
use crate::appliance::Appliance;
use crate::emulators::Qemu;
use crate::image::elf::Elf;
use crate::image::payload;
use crate::machine::Machine;

/// The appliance whose image is damaged.
const APPLIANCE: &str = "default";
/// Damaged images that are booted, shared out among the emulators.
const FLIPS: usize = 200;
/// Images that are cut off, shared out likewise.
const CUTS: usize = 20;
/// Decides which bytes; `CLOISTER_TEST_SEED` overrides it.
const SEED: u64 = 0x0c10_15fe_0000_0002;
/// How long a machine may take to refuse, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(30);
/// Begins the line of a refusal.
const REFUSED: &str = "cloister: refused: ";
/// What the stub says before it checks.
const CHECKING: &str = "cloister: checking the image";
/// The interrupt flag.
const RFLAGS_IF: u64 = 1 << 9;

/// SplitMix64 (Steele, Lea, Flood, 2014): seeded numbers that are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// An image file and where its payload lies in it.
struct Image {
    file: Vec<u8>,
    payload: std::ops::Range<usize>,
}

impl Image {
    fn build(options: &Options) -> Result<Self> {
        let appliance = Appliance::build(APPLIANCE, options.install)?;
        let elf = Elf::read(&appliance.machine.image)?;
        let mut segments = elf.segments.iter();
        let segment = segments
            .find(|segment| segment.pa == PAYLOAD_BASE)
            .context("the image has no payload segment")?;
        // The payload is what the file ends with; `check` below would notice if it were not.
        let start = elf.file.len() - segment.bytes.len();
        let image = Self { payload: start..elf.file.len(), file: elf.file };
        if let Err(damage) = payload::check(image.payload()) {
            bail!("the image as it was built is refused: {damage}");
        }
        Ok(image)
    }

    fn payload(&self) -> &[u8] {
        &self.file[self.payload.clone()]
    }
}

/// What a damaged image must lead to.
enum Wanted {
    /// The stub's line with this reason.
    Reason(String),
    /// A line of the stub, or QEMU's own refusal to load the file.
    AnyRefusal,
    /// A line that says how much memory is missing, of the stub or of the kernel, which then
    /// resets the machine.
    TooLittleMemory,
}

/// One boot.
struct Case {
    what: String,
    bytes: Vec<u8>,
    memory_mib: u32,
    wanted: Wanted,
}

/// Host: each byte of the default image's payload is flipped, each against its own block.
pub fn every_byte(options: &Options, tally: &mut Tally) {
    let name = "every flipped byte of the payload is refused";
    if !options.wants(name) {
        return;
    }
    let start = Instant::now();
    let verdict = match Image::build(options).and_then(|image| flip_every_byte(&image)) {
        Ok(count) => {
            let seconds = start.elapsed().as_secs_f32();
            println!("ok      {name}: {count} of {count} ({seconds:.1} s)");
            Verdict::Passed
        }
        Err(failure) => {
            println!("FAILED  {name}: {failure:#}");
            Verdict::Failed
        }
    };
    tally.add("host", verdict);
}

/// The number of bytes, all of which were noticed.
fn flip_every_byte(image: &Image) -> Result<usize> {
    let mut bytes = image.payload().to_vec();
    let header = match payload::check(&bytes) {
        Ok(header) => header,
        Err(damage) => bail!("the whole payload is refused: {damage}"),
    };
    let mut random = Random(SEED);
    for at in 0..bytes.len() {
        let mask = 1 + random.below(255) as u8;
        bytes[at] ^= mask;
        if payload::check_block(&bytes, &header, at as u64 / BLOCK).is_ok() {
            bail!("byte {at:#x} with {mask:#x} turned over is not noticed");
        }
        bytes[at] ^= mask;
    }
    if payload::check(&bytes) != Ok(header) {
        bail!("the test did not restore what it damaged");
    }
    Ok(bytes.len())
}

/// Boot: damaged images, cut images, small machines.
pub fn boots(options: &Options, qemus: &BTreeMap<String, Qemu>, tally: &mut Tally) {
    type Make = fn(&Image, u64) -> Vec<Case>;
    let groups: [(&str, Make); 3] = [
        ("integrity: images with a flipped byte", flipped),
        ("integrity: images cut off", cut_off),
        ("integrity: machines with too little memory", too_small),
    ];
    let groups: Vec<_> = groups.into_iter().filter(|(name, _)| options.wants(name)).collect();
    if groups.is_empty() || qemus.is_empty() {
        return;
    }
    let seed = std::env::var("CLOISTER_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(SEED);
    let image = match Image::build(options) {
        Ok(image) => image,
        Err(failure) => {
            println!("FAILED  integrity: {failure:#}");
            tally.add("integrity", Verdict::Failed);
            return;
        }
    };
    for (name, cases) in groups {
        let start = Instant::now();
        let cases = cases(&image, seed);
        let failures = run_all(&cases, qemus);
        let (count, seconds) = (cases.len(), start.elapsed().as_secs_f32());
        for failure in &failures {
            println!("FAILED  {name}, seed {seed}: {failure}");
        }
        let places: Vec<&str> = qemus.keys().map(String::as_str).collect();
        let places = places.join(" and ");
        if failures.is_empty() {
            println!("ok      {name}: {count} on {places}, seed {seed} ({seconds:.1} s)");
        }
        let passed = failures.is_empty();
        tally.add("integrity", if passed { Verdict::Passed } else { Verdict::Failed });
    }
}

fn flipped(image: &Image, seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    let case = |_| {
        let (at, mask) = (random.below(image.payload.len()), 1 + random.below(255) as u8);
        let mut bytes = image.file.clone();
        bytes[image.payload.start + at] ^= mask;
        let wanted = match payload::check(&bytes[image.payload.clone()]) {
            Err(damage) => Wanted::Reason(damage.to_string()),
            // Cannot be, and is a failure then: no line contains this.
            Ok(_) => Wanted::Reason("the host's check finds no damage".to_owned()),
        };
        let what = format!("byte {at:#x} of the payload with {mask:#x} turned over");
        Case { what, bytes, memory_mib: 64, wanted }
    };
    (0..FLIPS).map(case).collect()
}

fn cut_off(image: &Image, seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    let case = |_| {
        let len = random.below(image.file.len());
        let bytes = image.file[..len].to_vec();
        let what = format!("the image cut off at byte {len:#x} of {:#x}", image.file.len());
        Case { what, bytes, memory_mib: 64, wanted: Wanted::AnyRefusal }
    };
    (0..CUTS).map(case).collect()
}

fn too_small(image: &Image, _seed: u64) -> Vec<Case> {
    let case = |memory_mib| Case {
        what: format!("{memory_mib} MiB of memory"),
        bytes: image.file.clone(),
        memory_mib,
        wanted: Wanted::TooLittleMemory,
    };
    // The payload begins at 2 MiB: the first is too small for it, the second for what the kernel
    // builds behind it. Twice each, so that each of two emulators gets one.
    [2, 2, 3, 3].map(case).into()
}

/// Boots every case, the emulators taking turns, two machines at a time. What failed.
fn run_all(cases: &[Case], qemus: &BTreeMap<String, Qemu>) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let qemus: Vec<(&String, &Qemu)> = qemus.iter().collect();
    let work = || {
        while let Some((index, case)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            cases.get(index).map(|case| (index, case))
        } {
            let (place, qemu) = qemus[index % qemus.len()];
            let result = boot(case, qemu).and_then(|seen| judge(case, &seen));
            if let Err(failure) = result {
                let text = format!("{} on {place}: {failure:#}", case.what);
                failures.lock().unwrap_or_else(|lock| lock.into_inner()).push(text);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    failures.into_inner().unwrap_or_else(|lock| lock.into_inner())
}

/// What a machine did with an image.
enum Seen {
    /// QEMU did not load it, and said this.
    NotLoaded(String),
    /// It said these lines and then lies halted in the stub (`Ok`) or does something else.
    Said(Vec<String>, Result<(), String>),
}

fn boot(case: &Case, qemu: &Qemu) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let image: PathBuf = folder.path().join("damaged.elf");
    std::fs::write(&image, &case.bytes).context("cannot write the damaged image")?;
    let mut session = match Session::start(&machine(&image, case.memory_mib), qemu)? {
        Ok(session) => session,
        Err(Refused(text)) => return Ok(Seen::NotLoaded(text)),
    };
    session.go()?;
    let (end, mut text) = (Instant::now() + PATIENCE, String::new());
    while !says_refused(&text) && !text.contains("panic") {
        let left = end.saturating_duration_since(Instant::now());
        let Some(bytes) = session.serial(left) else { break };
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    let state = if says_refused(&text) {
        until_halted(&mut session)?
    } else {
        Err("it does not refuse".to_owned())
    };
    while let Some(bytes) = session.serial(Duration::from_millis(5)) {
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    let lines = text.split(['\r', '\n', '\0']).filter(|line| line.contains("cloister"));
    Ok(Seen::Said(lines.map(str::to_owned).collect(), state))
}

/// Waits until the processor has halted; the stub's line is out a moment before.
fn until_halted(session: &mut Session) -> Result<Result<(), String>> {
    let mut state = Ok(());
    for _ in 0..100 {
        session.stop()?;
        state = is_halted(&session.registers()?);
        if state.is_ok() {
            break;
        }
        session.go()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(state)
}

fn machine(image: &Path, memory_mib: u32) -> Machine {
    let mut machine = Machine::new(image.to_owned());
    (machine.cpus, machine.memory_mib) = (1, memory_mib);
    machine
}

fn says_refused(text: &str) -> bool {
    text.split_once(REFUSED).is_some_and(|(_, rest)| rest.contains('\n'))
}

fn is_halted(processors: &[super::inspect::Registers]) -> Result<(), String> {
    for registers in processors {
        let in_stub = (STUB_BASE..PAYLOAD_BASE).contains(&registers.rip);
        if !registers.is_halted || !in_stub || registers.rflags & RFLAGS_IF != 0 {
            let rip = registers.rip;
            return Err(format!("it is not halted in the stub for good, but at {rip:#x}"));
        }
    }
    Ok(())
}

fn judge(case: &Case, seen: &Seen) -> Result<()> {
    let (lines, state) = match (seen, &case.wanted) {
        (Seen::NotLoaded(text), Wanted::AnyRefusal) if !text.is_empty() => return Ok(()),
        (Seen::NotLoaded(text), _) => bail!("QEMU does not load it and says `{text}`"),
        (Seen::Said(lines, state), _) => (lines, state),
    };
    let short = "too little memory: ";
    if let (Wanted::TooLittleMemory, [checking, line]) = (&case.wanted, lines.as_slice()) {
        let reason = line.strip_prefix("cloister: kernel panic: ");
        if checking == CHECKING && reason.is_some_and(|reason| reason.starts_with(short)) {
            return Ok(());
        }
    }
    let reason = match lines.as_slice() {
        [checking, refused] if checking == CHECKING => refused.strip_prefix(REFUSED),
        _ => None,
    };
    let Some(reason) = reason else {
        bail!("not `{CHECKING}` and one line `{REFUSED}…` alone, but {lines:?}");
    };
    let wanted = match &case.wanted {
        Wanted::Reason(wanted) => wanted,
        Wanted::AnyRefusal => "",
        Wanted::TooLittleMemory => short,
    };
    if !reason.starts_with(wanted) {
        bail!("the stub says `{reason}`, but the reason is `{wanted}`");
    }
    state.clone().map_err(anyhow::Error::msg)
}
