//! Debian's kernels and a static busybox, fetched by package name into the cache folder.
//!
//! They come through the same private apt state as the emulators; `xtask/packages.lock` records
//! version and hash. A package like `linux-image-cloud-amd64` only depends on the kernel of the
//! day, which therefore comes with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::install::Install;
use crate::packages::{self, Set, Tree};

/// The release that is taken unless the guest file says another.
pub const RELEASE: &str = "trixie";
/// The kernel that `cargo xtask setup --update` records.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The package of the static busybox.
const BUSYBOX: &str = "busybox-static";
/// How the names of packages begin that hold a kernel or its modules.
const KERNELS: &[&str] = &["linux-image-", "linux-binary-", "linux-modules-"];
/// What to type when something may not be fetched.
const NEXT: &str = "the same command without --no-install";

/// A kernel's package in a folder.
#[derive(Clone, Debug)]
pub struct Stock {
    tree: Tree,
}

impl Stock {
    /// The kernel's package, fetched now if it is not here and `install` allows it.
    pub fn ensure(package: &str, release: &str, install: Install) -> Result<Self> {
        if !is_name(package) || !package.starts_with("linux-image-") {
            bail!("`{package}` is no package of a kernel; their names begin with linux-image-");
        }
        Ok(Self { tree: ensure(package, release, install)? })
    }

    /// The kernel's file.
    pub fn kernel(&self) -> Result<PathBuf> {
        one_file(&self.tree.file("boot"), "vmlinuz-")
    }

    /// The folder of the kernel's modules, with `modules.dep` or at least `kernel/` in it.
    pub fn modules(&self) -> Result<PathBuf> {
        for place in ["lib/modules", "usr/lib/modules"] {
            let folder = self.tree.file(place);
            if folder.is_dir() {
                return one_file(&folder, "");
            }
        }
        bail!("{} holds no modules", self.tree.folder().display())
    }
}

/// The static busybox, fetched now if it is not here and `install` allows it.
pub fn busybox(release: &str, install: Install) -> Result<PathBuf> {
    let tree = ensure(BUSYBOX, release, install)?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|place| tree.file(place));
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("{} holds no busybox", tree.folder().display()))
}

/// The sets that the default appliances use, for the lock file.
pub fn sets() -> Vec<Set> {
    vec![set(KERNEL, RELEASE), set(BUSYBOX, RELEASE)]
}

fn ensure(package: &str, release: &str, install: Install) -> Result<Tree> {
    if !is_name(release) {
        bail!("`{release}` is no release of Debian; write one like `{RELEASE}`");
    }
    packages::ensure(&set(package, release), install, NEXT)
}

fn set(package: &str, release: &str) -> Set {
    let name = package.trim_end_matches("-static");
    let only: &[&str] = if package == BUSYBOX { &[BUSYBOX] } else { KERNELS };
    Set {
        name: format!("{name}-{release}"),
        title: format!("{package} of Debian {release}"),
        release: release.to_owned(),
        prefer: None,
        packages: vec![package.to_owned()],
        only: only.iter().map(|&start| start.to_owned()).collect(),
        on_system_libraries: false,
    }
}

/// True for the letters of package names (Debian Policy Manual, "Package"), so that a name is
/// never an option or a path.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// The only entry of a folder whose name begins so.
fn one_file(folder: &Path, start: &str) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .collect();
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        _ => bail!("{} does not hold exactly one `{start}…`", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_neither_options_nor_paths() {
        for good in ["linux-image-amd64", "linux-image-6.12.1+deb13-cloud-amd64", "trixie"] {
            assert!(is_name(good), "{good}");
        }
        for wrong in ["", "-o", "a/b", "A", "a b", "../x", "a_b"] {
            assert!(!is_name(wrong), "{wrong}");
        }
        let error = Stock::ensure("bash", RELEASE, Install::Forbidden).expect_err("no kernel");
        assert!(error.to_string().contains("no package of a kernel"), "{error}");
    }

    #[test]
    fn a_folder_with_two_kernels_is_ambiguous() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("vmlinuz-1"), "").expect("written");
        assert!(one_file(folder.path(), "vmlinuz-").is_ok());
        std::fs::write(folder.path().join("vmlinuz-2"), "").expect("written");
        assert!(one_file(folder.path(), "vmlinuz-").is_err());
        assert!(one_file(folder.path(), "config-").is_err());
    }
}
