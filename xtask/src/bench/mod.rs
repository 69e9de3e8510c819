//! How the numbers of `cargo xtask bench` come about: [`GROUPS`], each with its keys and the way
//! to measure them.
//!
//! `guests` reads what micro-guests print, `start` how guests begin, `overhead` what a virtual
//! machine takes of memory, `linux` a stock kernel under Cloister and without it, `disk` and `restart`
//! what the host side of a disk executes (as `trace` sees it), `latency` what Linux sees of that in
//! time; `check` shows that the numbers move when the code does. Invariant: a group either gives all of its keys or
//! an error.

pub mod check;
mod disk;
mod guests;
mod latency;
mod linux;
mod overhead;
mod restart;
mod start;
mod trace;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Line};
use crate::checks::lines;
use crate::disk::make::Keep;
use crate::emulators::Qemu;
use crate::install::{Install, say};
use crate::machine::{End, Flow};
use crate::numbers::{self, Promises, Values};

/// The appliance whose tasks measure.
pub const TASKS: &str = "bench";
/// The appliance whose guests measure.
pub use guests::APPLIANCE as GUESTS;
/// The appliance that encrypts.
const CIPHER: &str = "bench-cipher";
/// The appliance whose image is weighed.
const WEIGHED: &str = "default";

/// What all measurements need.
pub struct Bench {
    /// Where they run.
    pub qemu: Qemu,
    /// Whether what is missing may be fetched.
    pub install: Install,
    /// The longest that a run may take.
    pub timeout: Duration,
    /// What is promised.
    pub promises: Promises,
}

/// Numbers that one measurement gives.
pub struct Group {
    /// What is measured, for people.
    pub name: &'static str,
    /// Its keys; none for those that no other group has.
    keys: &'static [&'static str],
    /// One run.
    pub measure: fn(&Bench) -> Result<Values>,
    /// It is not measured again: nothing of it runs, or it compares runs of its own.
    pub is_once: bool,
}

/// All measurements.
pub const GROUPS: &[Group] = &[
    Group { name: "the kernel", keys: &[], measure: tasks, is_once: false },
    Group { name: "guests", keys: guests::KEYS, measure: guests::measure, is_once: false },
    Group { name: "starts", keys: start::KEYS, measure: start::measure, is_once: false },
    Group { name: "the cipher", keys: &["aes_xts_4k"], measure: cipher, is_once: false },
    Group { name: "memory", keys: overhead::KEYS, measure: overhead::measure, is_once: false },
    Group { name: "Linux", keys: linux::KEYS, measure: linux::measure, is_once: false },
    Group { name: "disks", keys: disk::DIRECT, measure: disk::direct, is_once: true },
    Group { name: "windows", keys: disk::WINDOW, measure: disk::window, is_once: true },
    Group { name: "encrypted disks", keys: disk::SEALED, measure: disk::sealed, is_once: true },
    Group { name: "restarts", keys: restart::KEYS, measure: restart::measure, is_once: true },
    Group { name: "latency", keys: latency::KEYS, measure: latency::measure, is_once: true },
    Group { name: "sizes", keys: SIZES, measure: sizes, is_once: true },
];

/// What is counted without running anything.
const SIZES: &[&str] = &["kernel_lines", "kernel_lines_both", "monitor_lines", "image_bytes"];

impl Group {
    /// This group is where a key comes from.
    pub fn has(&self, key: &str) -> bool {
        match self.keys {
            [] => !GROUPS.iter().any(|group| group.keys.contains(&key)),
            keys => keys.contains(&key),
        }
    }
}

impl Bench {
    /// An appliance on the reference machine, its instructions counted.
    pub fn appliance(&self, name: &str) -> Result<Appliance> {
        let mut appliance = Appliance::build(name, self.install)?;
        appliance.attach_disks("bench-disks", Keep::Fresh, self.install)?;
        self.counted(appliance)
    }

    /// The same for an appliance that was built.
    fn counted(&self, mut appliance: Appliance) -> Result<Appliance> {
        appliance.machine.icount = true;
        appliance.machine.timeout = Some(self.timeout);
        Ok(appliance)
    }

    /// Runs it to its end in order, or until `hear` has heard enough.
    pub fn listen(
        &self,
        appliance: &Appliance,
        mut hear: impl FnMut(&Line) -> Result<Flow>,
    ) -> Result<()> {
        let mut decoder = appliance.decoder(false)?;
        let (mut last, mut heard) = (Vec::new(), Ok(Flow::Continue));
        let outcome = appliance.machine.run(&self.qemu, None, |bytes| {
            for line in decoder.feed(bytes) {
                if matches!(heard, Ok(Flow::Continue)) {
                    heard = hear(&line);
                }
                last.push(line.text);
            }
            if matches!(heard, Ok(Flow::Continue)) { Flow::Continue } else { Flow::Stop }
        })?;
        let stopped = heard? == Flow::Stop;
        if outcome.in_order() || stopped && outcome.end == End::Stopped {
            return Ok(());
        }
        for text in last.iter().rev().take(20).rev() {
            say(&format!("  | {text}"));
        }
        bail!("{}: {}", appliance.machine.image.display(), outcome.describe())
    }
}

/// What `images/bench` reports.
fn tasks(bench: &Bench) -> Result<Values> {
    reported(bench, TASKS)
}

/// What `images/bench-cipher` reports.
fn cipher(bench: &Bench) -> Result<Values> {
    reported(bench, CIPHER)
}

/// All numbers in the log of an appliance.
fn reported(bench: &Bench, appliance: &str) -> Result<Values> {
    let mut found = Vec::new();
    bench.listen(&bench.appliance(appliance)?, |line| {
        found.extend(line.number.clone());
        Ok(Flow::Continue)
    })?;
    numbers::values(&found, &bench.promises)
}

/// What is counted in sources and files.
fn sizes(bench: &Bench) -> Result<Values> {
    let image = Appliance::build(WEIGHED, bench.install)?.machine.image;
    let size = std::fs::metadata(&image)
        .with_context(|| format!("cannot read the size of {}", image.display()))?
        .len();
    Ok(Values::from([
        ("kernel_lines".to_owned(), lines::KERNEL.count()? as u64),
        ("kernel_lines_both".to_owned(), lines::KERNEL_BOTH.count()? as u64),
        ("monitor_lines".to_owned(), lines::MONITOR.count()? as u64),
        ("image_bytes".to_owned(), size),
    ]))
}

/// The number behind the word that a line has after `NAME | bench KEY`.
fn guest_number(line: &str) -> Option<(&str, &str, u64)> {
    let mut words = line.split_whitespace();
    let guest = words.next()?;
    (words.next()? == "|" && words.next()? == "bench").then_some(())?;
    Some((guest, words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{GROUPS, guest_number};

    #[test]
    fn every_promised_key_has_one_group() {
        let promises = crate::numbers::promises().unwrap();
        for key in promises.keys() {
            assert_eq!(GROUPS.iter().filter(|group| group.has(key)).count(), 1, "{key}");
        }
        for key in GROUPS.iter().flat_map(|group| group.keys) {
            assert!(promises.contains_key(*key), "{key} is not in xtask/bench.toml");
        }
    }

    #[test]
    fn guests_numbers_are_read() {
        assert_eq!(guest_number("a | bench exit_cpuid 310 400"), Some(("a", "exit_cpuid", 310)));
        for odd in ["a | bench done", "bench exit_cpuid 310", "a | exit 1 2", "a | bench x y"] {
            assert_eq!(guest_number(odd), None, "{odd}");
        }
    }
}
