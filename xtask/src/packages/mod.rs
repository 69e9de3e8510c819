//! Debian packages in a private folder: found by a private apt state, unpacked into the cache,
//! never installed into the system and never as root.
//!
//! [`Set`] names what is wanted, [`ensure`] makes it so. Neighbours: `sources` (which mirror),
//! `apt` (the private state), `lock` (versions and hashes), `tree` (the unpacked folder).
//! A tree is complete or absent: it is unpacked beside its place and renamed.

mod apt;
mod lock;
mod sources;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::install::{Install, megabytes, say};
use crate::paths;
pub use lock::{LockFile, Package};
pub use sources::system_release;
pub use tree::Tree;

/// What Debian's package lists and apt's digest of them take while xtask reads them.
const PACKAGE_LISTS_BYTES: u64 = 200_000_000;

/// One group of packages that lives in one folder of the cache.
#[derive(Clone, Debug)]
pub struct Set {
    /// The folder's name in the cache and the section of the lock file, like `qemu-10.0`.
    pub name: String,
    /// What a person calls it.
    pub title: String,
    /// The release whose packages are taken; its security suite comes with it.
    pub release: String,
    /// A further suite that is preferred, like `bookworm-backports`.
    pub prefer: Option<String>,
    /// The packages asked for; what they depend on follows.
    pub packages: Vec<String>,
    /// Of all these, only the packages whose names begin so; empty for all. A kernel depends on
    /// much that only an installed system needs.
    pub only: Vec<String>,
    /// Leave out what the system has installed: the programs then run on the system's libraries.
    pub on_system_libraries: bool,
}

/// Whether the committed lock file is followed or rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// Take the versions of `xtask/packages.lock` where they can be had.
    Follow,
    /// Take the newest and rewrite the file.
    Rewrite,
}

impl Set {
    /// Where the set's tree is or will be.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(paths::cache()?.join(&self.name))
    }

    /// The tree, when it was unpacked before; needs no network.
    pub fn present(&self) -> Result<Option<Tree>> {
        Tree::open(&self.folder()?)
    }
}

/// The set's tree, fetched now if it is not there yet and `install` allows it.
pub fn ensure(set: &Set, install: Install, command: &str) -> Result<Tree> {
    if let Some(tree) = set.present()? {
        return Ok(tree);
    }
    install.require(&set.title, command)?;
    fetch(set, Pins::Follow).with_context(|| format!("{} could not be fetched", set.title))
}

/// Fetches the set, whether or not it is there.
pub fn fetch(set: &Set, pins: Pins) -> Result<Tree> {
    let cache = paths::cache()?;
    std::fs::create_dir_all(&cache).with_context(|| {
        format!("cannot create the cache folder {} (CLOISTER_CACHE names another)", cache.display())
    })?;
    let _alone = tree::lock_cache(&cache)?;
    if pins == Pins::Follow
        && let Some(tree) = set.present()?
    {
        return Ok(tree); // Another xtask fetched it while this one waited.
    }
    tree::remove_unfinished(&cache);
    require_space(set, &cache, PACKAGE_LISTS_BYTES)?;
    let suites = sources::suites_for(set)?;
    let state = tempfile::Builder::new().prefix(tree::UNFINISHED).tempdir_in(&cache)?;
    let apt = apt::PrivateApt::open(state.path(), &suites)?;
    say(&format!("reading Debian's package lists for {} …", set.title));
    apt.update()?;
    let packages = resolve(set, &apt, pins)?;
    announce(set, &packages, &cache)?;
    let tree = tree::build(set, &apt, &packages)?;
    say(&format!("{} is in {}", set.title, tree.folder().display()));
    Ok(tree)
}

/// What is to be unpacked, with versions chosen by the lock file where it can be followed.
fn resolve(set: &Set, apt: &apt::PrivateApt, pins: Pins) -> Result<Vec<Package>> {
    let newest = apt.closure(&set.packages, set.prefer.as_deref())?;
    let mut lock = LockFile::read()?;
    let locked = lock.section(&set.name);
    let mut all = match pins {
        Pins::Rewrite => newest,
        Pins::Follow => follow(set, apt, newest, &locked)?,
    };
    let wanted = |name: &str| set.only.iter().any(|start| name.starts_with(start));
    all.retain(|(name, _)| set.only.is_empty() || wanted(name));
    let all = apt.describe(&all)?;
    if pins == Pins::Rewrite {
        lock.replace(&set.name, &all);
        lock.write()?;
    } else {
        report_differences(set, &all, &locked);
    }
    if !set.on_system_libraries {
        return Ok(all);
    }
    let installed = apt::installed_packages()?;
    let missing = |package: &Package| {
        set.packages.contains(&package.name) || !installed.contains(&package.name)
    };
    Ok(all.into_iter().filter(missing).collect())
}

/// The closure again, with the lock file's versions wherever the mirror still has them.
fn follow(
    set: &Set,
    apt: &apt::PrivateApt,
    newest: Vec<(String, String)>,
    locked: &BTreeMap<String, Package>,
) -> Result<Vec<(String, String)>> {
    let differing: Vec<(String, String)> = newest
        .iter()
        .filter_map(|(name, version)| {
            let pin = locked.get(name).filter(|pin| pin.version != *version)?;
            Some((name.clone(), pin.version.clone()))
        })
        .collect();
    if differing.is_empty() {
        return Ok(newest);
    }
    let offered = apt.offered(&differing)?;
    if offered.is_empty() {
        return Ok(newest);
    }
    let mut wanted = set.packages.clone();
    wanted.extend(offered.iter().map(|(name, version)| format!("{name}={version}")));
    // Pins that no longer fit together are not worth failing for: the newest are taken instead.
    Ok(apt.closure(&wanted, set.prefer.as_deref()).unwrap_or(newest))
}

/// Says in one line when what is taken is not what the lock file records.
fn report_differences(set: &Set, taken: &[Package], locked: &BTreeMap<String, Package>) {
    let differing: Vec<&Package> =
        taken.iter().filter(|p| locked.get(&p.name).is_none_or(|l| l.sha256 != p.sha256)).collect();
    if let Some(first) = differing.first() {
        let recorded = locked.get(&first.name).map_or("none", |pin| pin.version.as_str());
        say(&format!(
            "note: {} of {} packages of {} are not those of xtask/packages.lock; the mirror's \
             newest are taken (first: {} {}, recorded: {recorded})",
            differing.len(),
            taken.len(),
            set.name,
            first.name,
            first.version,
        ));
    }
}

/// Says what comes, how large it is and where it goes; fails when the disk is too full.
fn announce(set: &Set, packages: &[Package], cache: &Path) -> Result<()> {
    let download: u64 = packages.iter().map(|package| package.bytes).sum();
    let unpacked: u64 = packages.iter().map(|package| package.unpacked_bytes).sum();
    say(&format!(
        "installing {}: {} Debian packages, {} to fetch, {} on disk, into {} (nothing else on \
         this machine changes)",
        set.title,
        packages.len(),
        megabytes(download),
        megabytes(unpacked),
        set.folder()?.display(),
    ));
    require_space(set, cache, download + unpacked + unpacked / 10)
}

/// Fails, before anything is written, when the disk is too full.
fn require_space(set: &Set, cache: &Path, needed: u64) -> Result<()> {
    let free = tree::free_bytes(cache)?;
    if free < needed {
        bail!(
            "{} has {} free, {} needs {} for a moment\n  next: free some space, or \
             CLOISTER_CACHE=/another/folder cargo xtask setup",
            cache.display(),
            megabytes(free),
            set.title,
            megabytes(needed),
        );
    }
    Ok(())
}
