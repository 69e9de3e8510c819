//! The memory that a virtual machine takes besides its own, and that of a disk's driver.
//!
//! A virtual machine has two parts. What the kernel makes for it is the difference of the kernel's own account between
//! `images/bench-one` and the same appliance without its virtual machine: control blocks, stacks,
//! the threads' page tables and frames, permission maps, the pages of the CPU. What its monitor
//! has is every region of the compiled table that the monitor maps, and the page of doorbells.
//!
//! A driver has every region that its task maps. Left out there: registers, the guests' memory and
//! doorbells, and the records of requests in flight.
//!
//! Left out of both: RAM and nested tables of the guest, its image, and the page that all tasks
//! share.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cloister_abi::info::GRANT_MEMORY;
use cloister_abi::name_str;
use cloister_abi::table::{Map, NONE, RegionKind, Task};
use cloister_manifest::compile::Compiled;
use cloister_manifest::system::System;

use super::Bench;
use crate::commands::build_image;
use crate::image::elf::Elf;
use crate::machine::Flow;
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["vm_overhead_bytes", "vm_pristine_bytes", DRIVER_KEY];
const DRIVER_KEY: &str = "driver_memory_bytes";
/// The appliance with a disk, and the task that drives it.
const DISK: (&str, &str) = ("bench-disk", "nvme");
/// How the grants of in-flight records end.
const IN_FLIGHT: &str = "/inflight";
/// The appliance with one virtual machine of two virtual CPUs, and the same without it.
const ONE: &str = "bench-one";
const BARE: &str = "bench-none";
/// How the kernel begins and ends its account.
const ACCOUNT: (&str, &str) = ("sealed: ", " bytes for the kernel");
const PAGE: u64 = 4096;

/// One run.
pub fn measure(bench: &Bench) -> Result<Values> {
    let kernel = kernel_bytes(bench, ONE)?
        .checked_sub(kernel_bytes(bench, BARE)?)
        .context("the kernel needs less memory with a virtual machine than without one")?;
    let (system, programs, compiled) = table(bench, ONE)?;
    let (_, monitor, _) = system.vms().next().context("there is no virtual machine")?;
    let program = programs.get(monitor.program.get_ref()).context("there is no monitor")?;
    let pristine: u64 = program
        .program()
        .segments
        .iter()
        .filter(|segment| segment.is_writable)
        .map(|segment| (segment.bytes.len() as u64).next_multiple_of(PAGE))
        .sum();
    let monitor = monitor_bytes(&compiled)?.checked_sub(pristine).context("no pristine pages")?;
    crate::install::say(&format!("  {kernel} bytes of the kernel's, {monitor} of the monitor's"));
    let (_, _, compiled) = table(bench, DISK.0)?;
    Ok(Values::from([
        (KEYS[0].to_owned(), kernel + monitor),
        (KEYS[1].to_owned(), pristine),
        (DRIVER_KEY.to_owned(), driver_bytes(&compiled, DISK.1)?),
    ]))
}

/// An appliance as it is compiled, with the programs that are in it.
fn table(bench: &Bench, appliance: &str) -> Result<(System, BTreeMap<String, Elf>, Compiled)> {
    let system = build_image::load(appliance)?;
    let programs = build_image::programs(&system, &[], &[], bench.install)?;
    let guests = build_image::guests(&system, bench.install)?;
    let compiled = build_image::compiled(&system, &programs, &guests)?;
    Ok((system, programs, compiled))
}

/// The regions of a disk's driver, each once, but for what is its guests' and the records.
fn driver_bytes(compiled: &Compiled, name: &str) -> Result<u64> {
    let mut tasks = compiled.tasks.iter();
    let index = tasks.position(|task| name_str(&task.name) == name);
    let index = index.with_context(|| format!("the table has no task `{name}`"))?;
    let grants = compiled.grants.get(index).context("a task without grants")?;
    let records: BTreeSet<u64> = grants
        .iter()
        .filter(|grant| grant.kind == GRANT_MEMORY && name_str(&grant.name).ends_with(IN_FLIGHT))
        .map(|grant| grant.va)
        .collect();
    let own = maps(compiled, &compiled.tasks[index])?.iter();
    let regions: BTreeSet<u16> =
        own.filter(|map| !records.contains(&map.va)).map(|map| map.region).collect();
    let kinds = regions.iter().map(|region| &compiled.regions[usize::from(*region)]);
    let counted = |kind| matches!(kind, Some(RegionKind::Payload | RegionKind::Ram));
    let pages = kinds.filter(|region| counted(region.kind())).map(|region| u64::from(region.pages));
    Ok(pages.sum::<u64>() * PAGE)
}

/// What a task maps.
fn maps<'a>(compiled: &'a Compiled, task: &Task) -> Result<&'a [Map]> {
    let first = task.first_map as usize;
    let maps = compiled.maps.get(first..first + usize::from(task.maps));
    maps.context("the maps of a task are not in the table")
}

/// The regions of the first virtual machine's monitor, each once, and its doorbells.
fn monitor_bytes(compiled: &Compiled) -> Result<u64> {
    let vm = compiled.vms.first().context("the table has no virtual machine")?;
    let task = compiled.tasks.get(usize::from(vm.task)).context("the table has no monitor")?;
    let maps = maps(compiled, task)?;
    let bells = Some(vm.counters).filter(|&region| region != NONE);
    let regions: BTreeSet<u16> = maps.iter().map(|map| map.region).chain(bells).collect();
    let mut pages = 0;
    for region in regions {
        let region = &compiled.regions[usize::from(region)];
        pages += match region.kind() {
            Some(RegionKind::Payload | RegionKind::Ram | RegionKind::Doorbells) => region.pages,
            Some(RegionKind::SystemPage) => 0,
            kind => bail!("a monitor maps {kind:?}, which nobody has counted so far"),
        };
    }
    Ok(u64::from(pages) * PAGE)
}

/// What the kernel says that it uses, at the seal.
fn kernel_bytes(bench: &Bench, appliance: &str) -> Result<u64> {
    let mut bytes = None;
    bench.listen(&bench.appliance(appliance)?, |line| {
        bytes = account(&line.text);
        Ok(if bytes.is_some() { Flow::Stop } else { Flow::Continue })
    })?;
    bytes.with_context(|| format!("the kernel of images/{appliance} told no account of its memory"))
}

/// The number in the kernel's line.
fn account(line: &str) -> Option<u64> {
    let (_, tail) = line.split_once(ACCOUNT.0)?;
    tail.split_once(ACCOUNT.1)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::account;

    #[test]
    fn the_kernels_account_is_read() {
        let line = "[    0.001200] c0  kernel  INFO  sealed: 536576 bytes for the kernel, 7 KiB of \
                    memory left over";
        assert_eq!(account(line), Some(536_576));
        assert_eq!(account("sealed: many bytes for the kernel"), None);
    }
}
