//! A stock kernel's way to user space under Cloister, against the same kernel, initramfs, command
//! line and memory on the emulated machine itself.
//!
//! Both run one CPU with every instruction counted, so a nanosecond of the machine's time is one
//! instruction. The kernel stamps the marker of its first program with its own clock, the TSC
//! since the kernel began to use it in `setup_arch`; that clock begins behind firmware, zeroing
//! and the copying of segments, so the two stamps count the same work. Time that the CPU sleeps
//! counts on both sides: nothing else runs then.

use std::path::Path;

use anyhow::{Context, Result};

use super::Bench;
use crate::appliance::Appliance;
use crate::commands::build_image;
use crate::disk::file::MachineFile;
use crate::guest;
use crate::machine::{Flow, Machine};
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["linux_boot_ratio", "linux_boot_guest", "linux_boot_direct"];
/// The appliance with one virtual CPU on a core of its own.
const APPLIANCE: &str = "bench-linux";
/// What the first program says, behind the kernel's stamp.
const MARKER: &str = "] cloister-guest: user space reached";
/// What the TSC of the emulated machine counts in a millisecond.
const KHZ: u64 = 1_000_000;
/// Nanoseconds of the last digit of a stamp.
const STAMP_NS: u64 = 1000;

/// One run of each side.
pub fn measure(bench: &Bench) -> Result<Values> {
    let guest = marker(bench, &bench.appliance(APPLIANCE)?)?;
    let direct = direct(bench)?;
    let ratio = (guest * 1000).div_ceil(direct.max(1));
    let values = [ratio, guest, direct];
    Ok(KEYS.iter().map(|key| (*key).to_owned()).zip(values).collect())
}

/// The same kernel without Cloister.
fn direct(bench: &Bench) -> Result<u64> {
    let system = build_image::load(APPLIANCE)?;
    let (_, _, vm) = system.vms().next().context("there is no virtual machine")?;
    let parts = guest::linux_parts(&vm.guest_file, KHZ, bench.install)?;
    let folder = tempfile::Builder::new().prefix("cloister-linux-").tempdir()?;
    let put = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        let complaint = || format!("cannot write {}", file.display());
        std::fs::write(&file, bytes).with_context(complaint).map(|()| file.clone())
    };
    let kernel = put("vmlinux", &parts.kernel)?;
    let initramfs = put("initramfs", &parts.initramfs)?;
    let mut machine = Machine::new(kernel);
    (machine.cpus, machine.iommu) = (1, false);
    machine.memory_mib = u32::try_from(*vm.memory.get_ref() >> 20)?;
    machine.extra = arguments(&initramfs, &parts.line);
    marker(
        bench,
        &bench.counted(Appliance { machine, archive: None, file: MachineFile::default() })?,
    )
}

/// What QEMU is told of initramfs and command line.
pub(super) fn arguments(initramfs: &Path, line: &str) -> Vec<String> {
    let initramfs = initramfs.display().to_string();
    ["-initrd", &initramfs, "-append", line].map(str::to_owned).to_vec()
}

/// Nanoseconds of the kernel's clock at the marker.
fn marker(bench: &Bench, appliance: &Appliance) -> Result<u64> {
    let mut at = None;
    bench.listen(appliance, |line| {
        at = stamp(&line.text);
        Ok(if at.is_some() { Flow::Stop } else { Flow::Continue })
    })?;
    at.with_context(|| format!("{}: user space was not reached", appliance.machine.image.display()))
}

/// The kernel's stamp of the marker's line, `[ SECONDS.MICROSECONDS] MARKER`, in nanoseconds.
fn stamp(line: &str) -> Option<u64> {
    let (head, _) = line.split_once(MARKER)?;
    let (seconds, micros) = head.rsplit_once('[')?.1.trim().split_once('.')?;
    (micros.len() == 6).then_some(())?;
    let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
    Some((seconds * 1_000_000 + micros) * STAMP_NS)
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn the_kernels_stamp_is_read_from_both_sides() {
        let text = "[    1.204311] cloister-guest: user space reached";
        assert_eq!(stamp(text), Some(1_204_311_000));
        assert_eq!(stamp(&format!("linux | {text}")), Some(1_204_311_000));
        assert_eq!(stamp("cloister-guest: user space reached"), None);
        assert_eq!(stamp("[    1.2] cloister-guest: user space reached"), None);
    }
}
