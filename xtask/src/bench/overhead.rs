//! The memory that a virtual machine takes besides its own.
//!
//! Two parts. What the kernel makes for it is the difference of the kernel's own account between
//! `images/bench-one` and the same appliance without its virtual machine: control blocks, stacks,
//! the threads' page tables and frames, permission maps, the pages of the CPU. What its monitor
//! has is every region of the compiled table that the monitor maps, and the page of doorbells.
//!
//! Left out: RAM and nested tables of the guest, its image, and the page that all tasks share.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use cloister_abi::table::{NONE, RegionKind};
use cloister_manifest::compile::Compiled;

use super::Bench;
use crate::commands::build_image;
use crate::machine::Flow;
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["vm_overhead_bytes", "vm_pristine_bytes"];
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
    let system = build_image::load(ONE)?;
    let programs = build_image::programs(&system, &[], &[], bench.install)?;
    let guests = build_image::guests(&system, bench.install)?;
    let compiled = build_image::compiled(&system, &programs, &guests)?;
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
    Ok(Values::from([(KEYS[0].to_owned(), kernel + monitor), (KEYS[1].to_owned(), pristine)]))
}

/// The regions of the first virtual machine's monitor, each once, and its doorbells.
fn monitor_bytes(compiled: &Compiled) -> Result<u64> {
    let vm = compiled.vms.first().context("the table has no virtual machine")?;
    let task = compiled.tasks.get(usize::from(vm.task)).context("the table has no monitor")?;
    let first = task.first_map as usize;
    let maps = compiled.maps.get(first..first + usize::from(task.maps));
    let maps = maps.context("the monitor's maps are not in the table")?;
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
