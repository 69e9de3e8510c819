//! `cargo xtask bench`: measures the promised numbers on the reference machine.
//!
//! How each comes about is in `bench/`. Instructions are counted, so every run gives the same
//! values; one that does not is an error.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::appliance::Appliance;
use crate::bench::{Bench, GROUPS, GUESTS, TASKS, check};
use crate::emulators::{self, Wanted};
use crate::install::{Install, say};
use crate::numbers::{self, Builds, Values};

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
    /// Measure nothing; show that 50 instructions more in the monitor move `exit_cpuid` by 50
    #[arg(long, conflicts_with_all = ["keys", "json", "runs"])]
    check: bool,
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
    let timeout = Duration::from_secs(args.timeout);
    let bench = Bench { qemu, install, timeout, promises };
    if args.check {
        println!("{}", check::run(&bench)?);
        return Ok(());
    }
    let values = measure(args, &bench)?;
    for line in numbers::table(&values, &bench.promises) {
        println!("{line}");
    }
    if let Some(path) = &args.json {
        let (cores, builds) = builds(install)?;
        let entries = numbers::entries(&values, &bench.promises, cores, &builds);
        let text = serde_json::to_string_pretty(&entries)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missing: Vec<&str> = bench
        .promises
        .keys()
        .filter(|key| args.wants(key) && !values.contains_key(*key))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        bail!("not measured by images/{TASKS}: {}", missing.join(", "));
    }
    Ok(())
}

impl Args {
    fn wants(&self, key: &str) -> bool {
        self.keys.is_empty() || self.keys.iter().any(|wanted| wanted == key)
    }
}

/// Every group with a key that is wanted, as often as runs have to agree.
fn measure(args: &Args, bench: &Bench) -> Result<Values> {
    let mut all = Values::new();
    for group in GROUPS {
        let mut keys = bench.promises.keys();
        if !keys.any(|key| args.wants(key) && group.has(key)) {
            continue;
        }
        let times = if group.is_once { 1 } else { args.runs };
        let mut runs = Vec::new();
        for number in 1..=times {
            say(&format!("measuring {}, run {number} of {times} …", group.name));
            runs.push((group.measure)(bench)?);
        }
        all.append(&mut numbers::identical(&runs)?);
    }
    all.retain(|key, _| args.wants(key));
    Ok(all)
}

/// Cores of the reference machine and the builds that were measured.
fn builds(install: Install) -> Result<(u32, Builds)> {
    let appliance = Appliance::build(GUESTS, install)?;
    let kernel_build_id = appliance.kernel_build_id()?;
    let monitor_build_id = appliance.monitor_build_id()?.context("no monitor was measured")?;
    Ok((appliance.machine.cpus, Builds { kernel_build_id, monitor_build_id }))
}
