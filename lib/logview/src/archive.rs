//! The archive folder that `cargo xtask build-image` leaves beside an image: `archive.json` and
//! the ELF of everything in the image.
//!
//! Invariant: after [`Archive::read`] every path lies in the folder and every task index is
//! named once.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// `archive.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Archive {
    /// The kernel's ELF.
    pub kernel: PathBuf,
    /// The tasks.
    #[serde(default)]
    pub tasks: Vec<Task>,
}

/// A task of the image.
#[derive(Debug, Deserialize)]
pub(crate) struct Task {
    /// Its index in the system table.
    pub index: u16,
    /// Its name in the manifest.
    pub name: String,
    /// Its ELF.
    pub elf: PathBuf,
}

impl Archive {
    /// Reads `archive.json` in `folder` and makes its paths absolute.
    pub fn read(folder: &Path) -> Result<Archive> {
        let file = folder.join("archive.json");
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "cannot read {}; `cargo xtask build-image APPLIANCE` makes the archive",
                file.display()
            )
        })?;
        let mut archive: Archive = serde_json::from_str(&text)
            .with_context(|| format!("{} is no archive of this version", file.display()))?;
        let mut seen = BTreeSet::new();
        archive.kernel = inside(folder, &archive.kernel)?;
        for task in &mut archive.tasks {
            task.elf = inside(folder, &task.elf)?;
            if !seen.insert(task.index) {
                bail!("{}: two tasks have index {}", file.display(), task.index);
            }
        }
        Ok(archive)
    }
}

/// `name` in `folder`; names that lead elsewhere are refused.
fn inside(folder: &Path, name: &Path) -> Result<PathBuf> {
    if !name.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("{}: `{}` lies outside the archive", folder.display(), name.display());
    }
    Ok(folder.join(name))
}
