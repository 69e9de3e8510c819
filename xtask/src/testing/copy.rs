//! A copy of the tree: changed and built beside the tree itself, to see what a change leads to.
//!
//! Neighbours: `flushes` takes calls out of the kernel, `bench --check` pads the monitor.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;

/// What is copied.
const PARTS: &[&str] = &[
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "drivers",
    "guest-abi",
    "images",
    "kernel",
    "lib",
    "monitor",
    "tests",
    "xtask",
];

/// Copies all that is needed to build appliances into a folder.
pub fn copy_tree(to: &Path) -> Result<()> {
    PARTS.iter().try_for_each(|part| copy(&paths::root().join(part), &to.join(part)))
}

/// Copies a file or a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let complaint = || format!("cannot copy {}", paths::shown(from));
    if from.is_dir() {
        std::fs::create_dir_all(to).with_context(complaint)?;
        for entry in std::fs::read_dir(from).with_context(complaint)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    std::fs::copy(from, to).with_context(complaint).map(drop)
}

/// Builds an appliance of a copy, with a target folder of its own. `more` are further arguments of
/// `build-image`.
pub fn build_copy(tree: &Path, appliance: &str, more: &[&OsStr]) -> Result<()> {
    let program = std::env::current_exe().context("cannot find xtask's own program")?;
    let output = Command::new(program)
        .args(["build-image", appliance, "--no-install"])
        .args(more)
        .current_dir(tree)
        // xtask takes this for its place, and builds the tree around it.
        .env("CARGO_MANIFEST_DIR", tree.join("xtask"))
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .output()
        .context("cannot start xtask")?;
    if !output.status.success() {
        bail!("the copy does not build: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
