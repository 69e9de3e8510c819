//! A walk of every address space of a sealed system, from outside.
//!
//! `images/test-walk` runs for ever with every kind of mapping. The machine is stopped again and
//! again: each processor must have its protections on and run in one of the spaces that were found
//! in memory. The last time, physical memory is copied and [`rules::judge`] looks at every space,
//! [`domains::judge`] at what PCI functions reach, and [`remaps::judge`] at what they raise.
//! Then the copy is spoiled in every way that matters, and each way must be noticed: a walk that
//! finds nothing wrong proves nothing unless it can. [`stopped`] looks at one virtual machine's memory.

mod domains;
mod guests;
mod remaps;
mod rules;
mod spaces;
mod stopped;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cloister_abi::layout::{CORE_WINDOW, FRAME, IO_BITMAP, KERNEL_BASE, PAGE, STACK_TOP};
use cloister_abi::payload::{Header, PAYLOAD_BASE, STUB_BASE};
use cloister_core::table::Table;
use serde_json::json;
use zerocopy::IntoBytes;

use self::domains::{Guests, Reach, Unit};
use self::rules::{Findings, System};
use self::spaces::{Memory, Space, roots};
use super::Options;
use super::inspect::{Registers, Session};
use super::tally::{Tally, Verdict};
use crate::appliance::Appliance;
use crate::disk::file::MachineFile;
use crate::disk::make::Keep;
use crate::emulators::Qemu;
use crate::image::elf::Elf;
use crate::image::payload;

/// An appliance that is walked.
struct Walked {
    appliance: &'static str,
    /// What its busy part says once the system is sealed and every virtual CPU has run.
    started: &'static str,
    /// Memory, instead of the manifest's: all of it is copied.
    memory_mib: Option<u32>,
    /// What functions are to reach of guests.
    guests: Guests,
}

const APPLIANCES: [Walked; 4] = [
    Walked {
        appliance: "test-walk",
        started: "storm: seed",
        memory_mib: None,
        guests: Guests::Any,
    },
    Walked {
        appliance: "test-walk-guests",
        started: "ok every vCPU starts",
        memory_mib: None,
        guests: Guests::Any,
    },
    Walked {
        appliance: "test-walk-disk",
        started: "disk: started",
        memory_mib: None,
        guests: Guests::Whole,
    },
    Walked {
        appliance: "test-disk-window-nvme",
        started: "disk: started",
        memory_mib: Some(96),
        guests: Guests::Apart,
    },
];
/// Not executable, in an entry of a page table.
const NO_EXEC: u64 = 1 << 63;
/// How often the machine is stopped.
const STOPS: usize = 40;
/// How long the appliance may take to start, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Protection, monitor coprocessor, numeric errors, write protection, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
/// Long mode active, no-execute.
const EFER: u64 = 1 << 10 | 1 << 11;
/// QEMU's names of protections and their bits in CR4.
const CR4: [(&str, u64); 3] = [("umip", 1 << 11), ("smep", 1 << 20), ("smap", 1 << 21)];

/// Walks on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    for walked in &APPLIANCES {
        let appliance = walked.appliance;
        let name = format!("walk: every address space of {appliance} after the seal, on {place}");
        if options.wants(&name) {
            one(&name, place, tally, || walk(options, qemu, walked));
        }
    }
    let name = format!("{}, on {place}", stopped::NAME);
    if options.wants(&name) {
        one(&name, place, tally, || stopped::walk(options, qemu));
    }
}

fn one(name: &str, place: &str, tally: &mut Tally, walk: impl FnOnce() -> Result<String>) {
    let start = Instant::now();
    let verdict = match walk() {
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

/// An appliance, and what the kernel is told of it.
struct Built {
    appliance: Appliance,
    header: Header,
    /// The system table.
    words: Vec<u64>,
    /// Pages of the payload.
    pages: u32,
}

impl Built {
    /// Builds it, and makes its disks as `change` wants them.
    fn new(
        options: &Options,
        name: &str,
        memory_mib: Option<u32>,
        change: impl FnOnce(&mut MachineFile),
    ) -> Result<Built> {
        let mut appliance = Appliance::build(name, options.install)?;
        if let Some(mib) = memory_mib {
            appliance.machine.memory_mib = mib;
        }
        change(&mut appliance.file);
        appliance.attach_disks("walk-disks", Keep::Fresh, options.install)?;
        let elf = Elf::read(&appliance.machine.image)?;
        let loaded = elf.segments.iter().find(|segment| segment.pa == PAYLOAD_BASE);
        let payload = &loaded.context("the image has no payload segment")?.bytes;
        let header = match payload::check(payload) {
            Ok(header) => header,
            Err(damage) => bail!("the image as it was built is refused: {damage}"),
        };
        let words = table_words(payload, &header)?;
        Ok(Built { appliance, header, words, pages: (payload.len() as u64 / PAGE) as u32 })
    }

    fn system(&self) -> Result<System<'_>> {
        let bytes = &self.words.as_bytes()[..self.header.system_table_len as usize];
        let table = Table::new(bytes, self.pages)
            .map_err(|error| anyhow::anyhow!("the system table breaks {:?}", error.rule))?;
        Ok(System { header: &self.header, table })
    }

    fn start(&self, qemu: &Qemu) -> Result<Session> {
        match Session::start(&self.appliance.machine, qemu)? {
            Ok(session) => Ok(session),
            Err(refused) => bail!("QEMU does not start: {}", refused.0),
        }
    }

    /// Bytes of the machine's memory.
    fn memory(&self) -> u64 {
        u64::from(self.appliance.machine.memory_mib) << 20
    }
}

/// The top tables of all spaces, and the stub's own, which leads to the kernel too and on which no
/// processor may be any more.
fn all_roots(memory: &Memory, samples: &[Registers]) -> Result<(Vec<u64>, Vec<u64>)> {
    let ours = samples.iter().find(|sample| sample.rip >= KERNEL_BASE);
    let found = roots(memory, ours.context("no processor was seen in the kernel")?.cr3);
    Ok(found.into_iter().partition(|root| !(STUB_BASE..PAYLOAD_BASE).contains(root)))
}

fn walk(options: &Options, qemu: &Qemu, walked: &Walked) -> Result<String> {
    let built = Built::new(options, walked.appliance, walked.memory_mib, |_| {})?;
    let system = built.system()?;
    let mut session = built.start(qemu)?;
    until_started(&built.appliance, &mut session, walked.started)?;
    parallel_threads(&mut session)?;
    let cr4 = protections(&mut session)?;
    let (samples, memory) = look(&mut session, built.memory())?;
    let unit = Unit::read(&mut session)?;
    drop(session);
    let (found, stub) = all_roots(&memory, &samples)?;
    let mut seen = BTreeSet::new();
    for sample in &samples {
        let root = sample.cr3;
        if found.contains(&root) {
            is_protected(sample, cr4).map_err(anyhow::Error::msg)?;
            seen.insert(root);
        } else if !is_in_guest(&system, sample) {
            bail!("a processor runs on {root:#x}, none of {found:x?} (the stub has {stub:x?})");
        }
    }
    let (findings, reach) = judge(&system, &memory, &found, unit);
    if !findings.complaints.is_empty() {
        bail!("{}", findings.complaints.join("\n        | "));
    }
    let of_guests = domains::guest_pages(&system, &findings);
    reach.check(walked.guests, of_guests.len())?;
    let spoiled = spoil(&system, &memory, &found, unit, &of_guests)?;
    let Reach { functions, pages, guests, large, interrupts, .. } = reach;
    Ok(format!(
        "{} spaces, {} of them seen on processors, {} pages with one use each, \
         {functions} functions reach {pages} pages, {guests} of the {} of guests, by {large} large \
         entries, {interrupts} interrupts, {spoiled} of {spoiled} spoiled copies noticed",
        found.len(),
        seen.len(),
        findings.uses.len(),
        of_guests.len()
    ))
}

/// The system table of the payload in words, aligned as the kernel's view of it is.
fn table_words(payload: &[u8], header: &Header) -> Result<Vec<u64>> {
    let (at, len) = (header.system_table as usize, header.system_table_len as usize);
    let table = payload.get(at..at + len).context("the payload has no system table")?;
    let mut words = vec![0_u64; len.div_ceil(8)];
    words.as_mut_bytes()[..len].copy_from_slice(table);
    Ok(words)
}

fn until_started(appliance: &Appliance, session: &mut Session, started: &str) -> Result<()> {
    let mut decoder = appliance.decoder(false)?;
    session.go()?;
    let end = Instant::now() + PATIENCE;
    let mut last = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let complaint = || format!("the appliance does not say `{started}`; its last line: {last}");
        let bytes = session.serial(left).with_context(complaint)?;
        let lines = decoder.feed(&bytes);
        if lines.iter().any(|line| line.text.contains(started)) {
            return Ok(());
        }
        last = lines.last().map_or(last, |line| line.text.clone());
    }
}

/// The processors are threads of their own, as everything that is said about races assumes.
fn parallel_threads(session: &mut Session) -> Result<()> {
    let answer = session.command("query-cpus-fast", json!({}))?;
    let cpus = answer.as_array().context("QEMU names no processors")?;
    let threads: BTreeSet<String> = cpus.iter().map(|cpu| cpu["thread-id"].to_string()).collect();
    if threads.len() != cpus.len() {
        bail!("{} processors run on {} threads of the host", cpus.len(), threads.len());
    }
    Ok(())
}

/// The bits of CR4 that this QEMU's processor model can set.
fn protections(session: &mut Session) -> Result<u64> {
    let model = json!({ "type": "full", "model": { "name": "max" } });
    let answer = session.command("query-cpu-model-expansion", model)?;
    let has = |name: &str| answer["model"]["props"][name].as_bool();
    let mut bits = 0;
    for (name, bit) in CR4 {
        let has = has(name).with_context(|| format!("QEMU does not say whether it has {name}"))?;
        bits |= if has { bit } else { 0 };
    }
    Ok(bits)
}

/// Stops the machine again and again; every processor's registers at each stop, and memory as it
/// was the last time.
fn look(session: &mut Session, len: u64) -> Result<(Vec<Registers>, Memory)> {
    let mut samples = Vec::new();
    for _ in 0..STOPS {
        std::thread::sleep(Duration::from_millis(7));
        session.stop()?;
        samples.extend(session.registers()?);
        session.go()?;
    }
    session.stop()?;
    Ok((samples, Memory(session.memory(0, len)?)))
}

/// Whether these registers can be a guest's: QEMU shows what is loaded, and not whose it is. The
/// guests here run where their memory or their image is, and never in the kernel's half.
fn is_in_guest(system: &System, sample: &Registers) -> bool {
    let (table, rip) = (&system.table, sample.rip);
    let is_mapped = |at: u64| {
        table.guest_maps.iter().any(|map| {
            let pages = u64::from(table.regions[usize::from(map.region)].pages);
            (map.gpa..map.gpa + pages * PAGE).contains(&at)
        })
    };
    is_mapped(rip) && is_mapped(sample.cr3)
}

fn is_protected(registers: &Registers, cr4: u64) -> Result<(), String> {
    let missing = |name: &str, has: u64, wanted: u64| {
        let missing = wanted & !has;
        if missing == 0 { Ok(()) } else { Err(format!("{name} is {has:#x}, without {missing:#x}")) }
    };
    missing("CR0", registers.cr0, CR0)?;
    missing("CR4", registers.cr4, cr4)?;
    missing("EFER", registers.efer, EFER)
}

/// Everything that is wrong, and what functions reach.
fn judge(system: &System, memory: &Memory, roots: &[u64], unit: Unit) -> (Findings, Reach) {
    let mut findings = rules::judge(system, memory, roots);
    let reach = domains::judge(system, memory, roots, unit, &mut findings);
    (findings, reach)
}

/// A way to spoil memory: what it is, the place of a word, its new value.
type Damage = (&'static str, u64, u64);

/// Spoils the copy in each way, one at a time; the number of ways, all of which were noticed.
fn spoil(
    system: &System,
    memory: &Memory,
    roots: &[u64],
    unit: Unit,
    of_guests: &BTreeSet<u64>,
) -> Result<usize> {
    let mut ways = damages(system, memory, roots)?;
    ways.extend(domains::damages(memory, roots, unit, of_guests)?);
    ways.extend(remaps::damages(system, memory, unit.interrupts)?);
    let mut copy = memory.clone();
    for (what, at, value) in &ways {
        let old = copy.word(*at).with_context(|| format!("{what}: no word at {at:#x}"))?;
        if old == *value {
            bail!("spoiling changes nothing: {what}");
        }
        copy.set_word(*at, *value);
        if judge(system, &copy, roots, unit).0.complaints.is_empty() {
            bail!("the walk does not notice: {what}");
        }
        copy.set_word(*at, old);
    }
    Ok(ways.len())
}

fn damages(system: &System, memory: &Memory, roots: &[u64]) -> Result<Vec<Damage>> {
    const PRESENT_WRITE: u64 = 3;
    let spaces: Result<Vec<Space>, String> =
        roots.iter().map(|&root| Space::walk(memory, root)).collect();
    let spaces = spaces.map_err(anyhow::Error::msg)?;
    let [first, .., last] = spaces.as_slice() else { bail!("there are less than two spaces") };
    let entry = |space: &Space, va: u64| -> Result<(u64, u64, u64)> {
        let leaf = space.leaf(va).with_context(|| format!("nothing is mapped at {va:#x}"))?;
        let value = memory.word(leaf.entry_at).context("an entry lies outside memory")?;
        Ok((leaf.entry_at, value, leaf.phys))
    };
    let (stack, stack_entry, stack_page) = entry(first, STACK_TOP - PAGE)?;
    let (_, _, other_stack_page) = entry(last, STACK_TOP - PAGE)?;
    let (frame, frame_entry, frame_page) = entry(first, FRAME)?;
    let (kernel_stack, kernel_stack_entry, _) = entry(first, CORE_WINDOW + PAGE)?;
    let (_, _, other_kernel_stack) = entry(last, CORE_WINDOW + PAGE)?;
    let (text, text_entry, _) = entry(first, KERNEL_BASE)?;
    let ports =
        spaces.iter().find_map(|space| space.leaf(IO_BITMAP)).context("no task has ports")?;
    let moved = |entry: u64, from: u64, to: u64| entry & !from | to;
    let mut ways = guests::damages(system, memory, &spaces)?;
    ways.extend([
        ("physical memory in the kernel's reach", first.root + 256 * 8, first.root | PRESENT_WRITE),
        ("a stack that is executable", stack, stack_entry & !NO_EXEC),
        ("a stack that is read-only", stack, stack_entry & !2),
        ("a stack that is missing", stack, 0),
        ("another task's stack", stack, moved(stack_entry, stack_page, other_stack_page)),
        ("a task that maps a page table", stack, moved(stack_entry, stack_page, first.root)),
        ("a task that maps a frame", stack, moved(stack_entry, stack_page, frame_page)),
        ("a frame that ring 3 can reach", frame, frame_entry | 4),
        ("a frame in task memory", frame, moved(frame_entry, frame_page, stack_page)),
        ("another thread's frame in a guard page", stack - 8 * 32, frame_entry),
        (
            "a kernel stack in task memory",
            kernel_stack,
            kernel_stack_entry & 0xfff | NO_EXEC | stack_page,
        ),
        (
            "another core's kernel stack",
            kernel_stack,
            kernel_stack_entry & 0xfff | NO_EXEC | other_kernel_stack,
        ),
        (
            "task memory in the core's window",
            kernel_stack - 8,
            stack_page | PRESENT_WRITE | NO_EXEC,
        ),
        ("kernel text that is writable", text, text_entry | 2),
        (
            "task memory in the kernel's half",
            text + 8 * 0x100,
            stack_page | PRESENT_WRITE | NO_EXEC,
        ),
        ("a port that nobody granted", ports.phys + 8, 0xffff_ffff_ffff_fffe),
        ("an absent entry with a value", stack - 8 * 32, 0x1000),
        ("a second half of the kernel", last.root + 511 * 8, first.tables[1] | PRESENT_WRITE),
    ]);
    Ok(ways)
}
