//! How long a direct read of 4 KiB takes in a Linux guest, against the same Linux on the emulated
//! machine itself: the same disk, kernel, initramfs, memory and job of `fio`, one CPU each.
//!
//! This is the only number in time: nothing is counted, the emulator runs freely, and the kernel's
//! own clock measures. Runs are in pairs, one right after the other, and the value is the median of
//! their ratios; what else the host does meanwhile is in both halves of a pair, more or less.

use anyhow::{Context, Result};

use super::{Bench, linux};
use crate::appliance::Appliance;
use crate::commands::build_image;
use crate::disk::file::MachineFile;
use crate::disk::make::Keep;
use crate::guest;
use crate::install::say;
use crate::machine::{Flow, Machine};
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["blk_latency_ratio"];
/// The appliance with one virtual CPU on a core of its own.
const APPLIANCE: &str = "bench-disk-linux";
/// Its root, and the same volume on the machine itself.
const ROOTS: [&str; 2] = ["root=/dev/vda ", "root=/dev/nvme0n1p1 "];
/// Pairs of runs.
const PAIRS: usize = 5;
/// What the job says before the microseconds.
const SAYS: &str = "mean read latency ";
/// What the TSC of the emulated machine counts in a millisecond.
const KHZ: u64 = 1_000_000;

/// All pairs.
pub fn measure(bench: &Bench) -> Result<Values> {
    let mut appliance = Appliance::build(APPLIANCE, bench.install)?;
    appliance.attach_disks("bench-disks", Keep::Fresh, bench.install)?;
    appliance.machine.timeout = Some(bench.timeout);
    let folder = tempfile::Builder::new().prefix("cloister-linux-").tempdir()?;
    let direct = direct(bench, &appliance, folder.path())?;
    let mut ratios = Vec::new();
    for number in 1..=PAIRS {
        let [under, without] = [latency(bench, &appliance)?, latency(bench, &direct)?];
        say(&format!("  pair {number} of {PAIRS}: {under:.1} us under Cloister, {without:.1} us"));
        ratios.push((under / without.max(0.001) * 1000.0).ceil() as u64);
    }
    ratios.sort_unstable();
    say(&format!("  {}: {ratios:?}", KEYS[0]));
    Ok(Values::from([(KEYS[0].to_owned(), ratios[PAIRS / 2])]))
}

/// The same Linux without Cloister, with its files in a folder.
fn direct(bench: &Bench, under: &Appliance, folder: &std::path::Path) -> Result<Appliance> {
    let system = build_image::load(APPLIANCE)?;
    let (_, _, vm) = system.vms().next().context("there is no virtual machine")?;
    let parts = guest::linux_parts(&vm.guest_file, KHZ, bench.install)?;
    let [kernel, initramfs] = [("vmlinux", &parts.kernel), ("initramfs", &parts.initramfs)]
        .map(|(name, bytes)| (folder.join(name), bytes));
    for (file, bytes) in [&kernel, &initramfs] {
        std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut machine = Machine::new(kernel.0);
    (machine.cpus, machine.iommu) = (1, false);
    machine.memory_mib = u32::try_from(*vm.memory.get_ref() >> 20)?;
    machine.timeout = Some(bench.timeout);
    machine.disks = under.machine.disks.clone();
    let line = parts.line.replace(ROOTS[0], ROOTS[1]);
    machine.extra = linux::arguments(&initramfs.0, &line);
    Ok(Appliance { machine, archive: None, file: MachineFile::default() })
}

/// The mean that `fio` tells, in microseconds.
fn latency(bench: &Bench, appliance: &Appliance) -> Result<f64> {
    let mut found = None;
    bench.listen(appliance, |line| {
        found = told(&line.text);
        Ok(if found.is_some() { Flow::Stop } else { Flow::Continue })
    })?;
    found.with_context(|| format!("{}: no latency was told", appliance.machine.image.display()))
}

fn told(line: &str) -> Option<f64> {
    line.split_once(SAYS)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn the_jobs_words_are_read() {
        let line = "debian | cloister-guest: mean read latency 183.294 us of 5190 IOPS";
        assert_eq!(told(line), Some(183.294));
        assert_eq!(told("mean read latency unknown"), None);
    }
}
