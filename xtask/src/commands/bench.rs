//! `cargo xtask bench`: measures the promised numbers on the reference machine.
//!
//! Instructions are counted, so every run gives the same values; one that does not is an error.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Line};
use crate::checks::lines;
use crate::emulators::{self, Qemu, Wanted};
use crate::install::{Install, say};
use crate::machine::Flow;
use crate::numbers::{self, Promises, Values};

/// The appliance that measures.
const APPLIANCE: &str = "bench";

/// The appliance whose guests measure, and what they call what: the guest, its word, our key.
const GUESTS: &str = "bench-vm";
const GUEST_KEYS: &[(&str, &str, &str)] = &[
    ("bench", "exit_cpuid", "exit_cpuid"),
    ("bench", "exit_port", "exit_port"),
    ("bench", "doorbell", "doorbell"),
    ("bench", "x2apic_self_ipi_eoi", "x2apic_self_ipi_eoi"),
    ("bench", "self_ipi_to_handler", "interrupt_to_guest_handler"),
    ("paged", "mmio_read", "mmio_read"),
    ("paged", "mmio_write", "mmio_write"),
];

/// The appliance whose image is weighed.
const WEIGHED: &str = "default";

/// Measures the numbers that docs/promises.md promises
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these keys; all unless given
    keys: Vec<String>,
    /// Write the numbers to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many runs have to agree
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// End a run after this many seconds
    #[arg(long, default_value_t = 300, value_name = "S")]
    timeout: u64,
    /// Fetch nothing: if something is missing, print the command that would fetch it and fail
    #[arg(long)]
    no_install: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let install = Install::unless(args.no_install);
    let promises = numbers::promises()?;
    if let Some(odd) = args.keys.iter().find(|key| !promises.contains_key(*key)) {
        let known: Vec<&str> = promises.keys().map(String::as_str).collect();
        bail!("`{odd}` is no key of xtask/bench.toml; it has {}", known.join(", "));
    }
    let qemu = emulators::ensure(&Wanted::V10_0, install)?;
    let mut appliance = Appliance::build(APPLIANCE, install)?;
    appliance.machine.icount = true;
    appliance.machine.timeout = Some(Duration::from_secs(args.timeout));

    let mut runs = Vec::new();
    for number in 1..=args.runs {
        say(&format!("measuring, run {number} of {} …", args.runs));
        runs.push(measure(&appliance, &qemu, &promises)?);
    }
    let mut values = numbers::identical(&runs)?;
    let mut guests = Appliance::build(GUESTS, install)?;
    guests.machine.icount = true;
    guests.machine.timeout = appliance.machine.timeout;
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        say(&format!("measuring guests, run {number} of {} …", args.runs));
        runs.push(measure_guests(&guests, &qemu)?);
    }
    values.append(&mut numbers::identical(&runs)?);
    values.insert("kernel_lines".to_owned(), lines::KERNEL.count()? as u64);
    values.insert("monitor_lines".to_owned(), lines::MONITOR.count()? as u64);
    values.insert("image_bytes".to_owned(), image_bytes(install)?);
    let wanted = |key: &String| args.keys.is_empty() || args.keys.contains(key);
    values.retain(|key, _| wanted(key));

    for line in numbers::table(&values, &promises) {
        println!("{line}");
    }
    if let Some(path) = &args.json {
        let build_id = appliance.kernel_build_id()?;
        let entries = numbers::entries(&values, &promises, appliance.machine.cpus, &build_id);
        let text = serde_json::to_string_pretty(&entries)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missing: Vec<&str> = promises
        .keys()
        .filter(|key| wanted(key) && !values.contains_key(*key))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        bail!("not measured by images/{APPLIANCE} and images/{GUESTS}: {}", missing.join(", "));
    }
    Ok(())
}

/// One run of the appliance.
fn measure(appliance: &Appliance, qemu: &Qemu, promises: &Promises) -> Result<Values> {
    let found: Vec<_> = lines_of(appliance, qemu)?.into_iter().filter_map(|l| l.number).collect();
    numbers::values(&found, promises)
}

/// One run with guests, which print `bench WORD LEAST MOST`. The least is what the path takes: with
/// instructions counted all processors share one counter, and what another one did in between is
/// in the others.
fn measure_guests(appliance: &Appliance, qemu: &Qemu) -> Result<Values> {
    let mut values = Values::new();
    for line in lines_of(appliance, qemu)? {
        let mut words = line.text.split_whitespace();
        let (Some(guest), Some("|"), Some("bench"), Some(word), Some(least)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let known = GUEST_KEYS.iter().find(|(vm, name, _)| (*vm, *name) == (guest, word));
        if let (Some((_, _, key)), Ok(least)) = (known, least.parse()) {
            values.insert((*key).to_owned(), least);
        }
    }
    Ok(values)
}

/// What one run says.
fn lines_of(appliance: &Appliance, qemu: &Qemu) -> Result<Vec<Line>> {
    let mut decoder = appliance.decoder(false)?;
    let mut lines = Vec::new();
    let outcome = appliance.machine.run(qemu, None, |bytes| {
        lines.extend(decoder.feed(bytes));
        Flow::Continue
    })?;
    lines.extend(decoder.finish());
    if !outcome.in_order() {
        for line in lines.iter().rev().take(20).rev() {
            say(&format!("  | {}", line.text));
        }
        bail!("{}: {}", appliance.machine.image.display(), outcome.describe());
    }
    Ok(lines)
}

/// The size of the image that a person gets without guests.
fn image_bytes(install: Install) -> Result<u64> {
    let image = Appliance::build(WEIGHED, install)?.machine.image;
    let size = std::fs::metadata(&image).map(|file| file.len());
    size.with_context(|| format!("cannot read the size of {}", image.display()))
}
