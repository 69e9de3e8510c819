//! `cargo xtask bench --check`: the numbers are those of what runs.
//!
//! A copy of the tree whose monitor executes [`PAD`] instructions more for each CPUID must give an
//! `exit_cpuid` that is [`PAD`] higher, and another build id. A number that comes from anywhere
//! else, or from another image than the one that was built, does not move.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, guests};
use crate::appliance::Appliance;
use crate::disk::file::MachineFile;
use crate::machine::Machine;
use crate::numbers::Values;
use crate::testing::copy_tree;

/// The key that is looked at.
const KEY: &str = "exit_cpuid";
/// How many instructions are added.
const PAD: u64 = 50;
/// Where they go: the first line of the monitor's answer to a CPUID.
const FILE: &str = "monitor/src/exits.rs";
const PLACE: &str = "    fn cpuid(&mut self) {\n";
/// The library's head, which must not forbid them.
const LIBRARY: &str = "monitor/src/lib.rs";
const FORBIDS: &str = "#![forbid(unsafe_code)]\n";

/// Measures with and without the pad. The line to print when all is well.
pub fn run(bench: &Bench) -> Result<String> {
    let plain = bench.appliance(guests::APPLIANCE)?;
    let without = value(&guests::measure_in(bench, &plain)?)?;
    let folder = tempfile::Builder::new().prefix("cloister-pad-").tempdir()?;
    let tree = folder.path();
    copy_tree(tree)?;
    let pad = format!(
        "{PLACE}        unsafe {{\n            core::arch::asm!(\".rept {PAD}\", \"nop\", \".endr\", \
         options(nomem, nostack, preserves_flags))\n        }};\n"
    );
    replace(&tree.join(FILE), PLACE, &pad)?;
    replace(&tree.join(LIBRARY), FORBIDS, "")?;
    let padded = build(bench, tree)?;
    let ids = [plain.monitor_build_id()?, padded.monitor_build_id()?];
    ensure!(ids[0] != ids[1], "the padded monitor has the build id of the other one: {ids:?}");
    let with = value(&guests::measure_in(bench, &padded)?)?;
    if with != without + PAD {
        bail!(
            "{PAD} instructions more in the monitor move {KEY} from {without} to {with}, not to \
             {}: look at how `{KEY}` is measured (xtask/src/bench/guests.rs)",
            without + PAD
        );
    }
    Ok(format!("ok: {PAD} instructions more in the monitor move {KEY} from {without} to {with}"))
}

fn value(values: &Values) -> Result<u64> {
    values.get(KEY).copied().with_context(|| format!("{KEY} was not measured"))
}

/// Replaces a text that stands in a file once.
fn replace(file: &Path, old: &str, new: &str) -> Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let count = text.matches(old).count();
    ensure!(
        count == 1,
        "{} has {count} times `{}`, which the check changes; name another place in \
         xtask/src/bench/check.rs",
        file.display(),
        old.trim()
    );
    std::fs::write(file, text.replacen(old, new, 1)).context("cannot write the copy")
}

/// Builds the copy with a target folder of its own.
fn build(bench: &Bench, tree: &Path) -> Result<Appliance> {
    let program = std::env::current_exe().context("cannot find xtask's own program")?;
    let output = Command::new(program)
        .args(["build-image", guests::APPLIANCE, "--no-install"])
        .current_dir(tree)
        // xtask takes this for its place, and builds the tree around it.
        .env("CARGO_MANIFEST_DIR", tree.join("xtask"))
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .output()
        .context("cannot start xtask")?;
    if !output.status.success() {
        bail!("the copy does not build: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let archive = tree.join("build").join(guests::APPLIANCE);
    let image = archive.join(guests::APPLIANCE).with_extension("elf");
    bench.counted(Appliance {
        machine: Machine::new(image),
        archive: Some(archive),
        file: MachineFile::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::{FILE, FORBIDS, LIBRARY, PLACE};
    use crate::paths;

    #[test]
    fn the_places_that_the_check_changes_are_there_once() {
        for (file, text) in [(FILE, PLACE), (LIBRARY, FORBIDS)] {
            let source = std::fs::read_to_string(paths::root().join(file)).unwrap();
            assert_eq!(source.matches(text).count(), 1, "{file}: {text}");
        }
    }
}
