//! An unpacked set of packages: one folder with `root/` (the packages' files), `packages.toml`
//! (what they were) and `bin/` (wrapper scripts).
//!
//! The folder is made under another name and renamed when it is whole; what an interrupted run
//! left is removed by the next. One lock file in the cache keeps two xtasks apart.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Set;
use super::apt::PrivateApt;
use super::lock::{LockFile, Package};
use crate::install::{Progress, megabytes};

/// How the names of folders begin that are still being made.
pub const UNFINISHED: &str = ".unfinished-";

/// What about this many bytes are fetched with one call of apt, for progress to be seen.
const FETCH_BYTES: u64 = 8_000_000;

/// A complete tree.
#[derive(Clone, Debug)]
pub struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// The tree in this folder, if one was completed there.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        if folder.join("packages.toml").is_file() {
            return Ok(Some(Self { folder: folder.to_owned() }));
        }
        if folder.exists() {
            bail!(
                "{} exists but holds no packages.toml, so xtask did not make it\n  next: move it \
                 away, then cargo xtask setup",
                folder.display()
            );
        }
        Ok(None)
    }

    /// The tree's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the unpacked packages, by its path in a Debian system without the first slash.
    pub fn file(&self, path: &str) -> PathBuf {
        self.folder.join("root").join(path)
    }

    /// The version of one of the tree's packages.
    pub fn version_of(&self, package: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("packages.toml")).ok()?;
        let lock = LockFile::parse(&text).ok()?;
        lock.section("installed").get(package).map(|package| package.version.clone())
    }

    /// Writes an executable script `bin/NAME`; in it `$d` is the folder with the packages' files.
    pub fn script(&self, name: &str, body: &str) -> Result<PathBuf> {
        let file = self.folder.join("bin").join(name);
        let text = format!(
            "#!/bin/sh\n# Written by `cargo xtask setup`.\nd='{}'\n{body}\n",
            self.folder.join("root").display().to_string().replace('\'', "'\\''")
        );
        if fs::read_to_string(&file).is_ok_and(|present| present == text) {
            return Ok(file);
        }
        fs::create_dir_all(self.folder.join("bin"))?;
        // Written beside and renamed: another xtask may be running the script.
        let fresh = file.with_extension(format!("new{}", std::process::id()));
        fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
        fs::rename(&fresh, &file)?;
        Ok(file)
    }

    /// A script that runs a program of the tree with the tree's own loader and libraries, so that
    /// it does not matter which C library the system has.
    pub fn program(&self, name: &str, path: &str, extra: &str) -> Result<PathBuf> {
        let places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
        let loader = places.iter().map(|place| format!("{place}/ld-linux-x86-64.so.2"));
        let Some(loader) = loader.into_iter().find(|loader| self.file(loader).is_file()) else {
            bail!("{} holds no program loader (package libc6)", self.folder.display());
        };
        let body = format!(
            "unset LD_LIBRARY_PATH\nexport QEMU_MODULE_DIR=\"$d/usr/lib/x86_64-linux-gnu/qemu\"\n\
             exec \"$d/{loader}\" --library-path \"$d/{}:$d/{}\" \"$d/{path}\" {extra} \"$@\"",
            places[0], places[1]
        );
        self.script(name, &body)
    }
}

/// Free space where this folder is, for a user without privileges.
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot read the free space of {}", folder.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Waits until no other xtask installs; the lock ends with the returned file.
pub fn lock_cache(cache: &Path) -> Result<File> {
    let path = cache.join("install.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let try_lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&file, try_lock).is_err() {
        crate::install::say("waiting for another xtask that installs …");
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Fetches and unpacks the packages, then puts the whole folder in its place.
pub fn build(set: &Set, apt: &PrivateApt, packages: &[Package]) -> Result<Tree> {
    let folder = set.folder()?;
    let parent = folder.parent().context("the cache folder has no parent")?;
    let work = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(parent)
        .with_context(|| format!("cannot write into {}", parent.display()))?;
    let archives = work.path().join("archives");
    let fresh = work.path().join("tree");
    fs::create_dir_all(&archives)?;
    fs::create_dir_all(fresh.join("root"))?;
    fetch_all(apt, packages, &archives)?;
    unpack_all(&archives, &fresh.join("root"), packages.len())?;
    let mut record = LockFile::default();
    record.replace("installed", packages);
    fs::write(fresh.join("packages.toml"), record.render())?;
    if folder.exists() {
        fs::rename(&folder, work.path().join("old"))?;
    }
    fs::rename(&fresh, &folder)
        .with_context(|| format!("cannot put the finished tree at {}", folder.display()))?;
    Ok(Tree { folder })
}

/// Removes what an interrupted run left; failing to is not worth stopping for. The caller holds
/// the cache's lock, so nobody else is at work there.
pub fn remove_unfinished(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn fetch_all(apt: &PrivateApt, packages: &[Package], archives: &Path) -> Result<()> {
    let total: u64 = packages.iter().map(|package| package.bytes).sum();
    let mut progress = Progress::new("fetching ");
    let (mut done, mut start, mut batch) = (0, 0, 0);
    for (index, package) in packages.iter().enumerate() {
        batch += package.bytes;
        if batch < FETCH_BYTES && index + 1 < packages.len() {
            continue;
        }
        apt.download(&packages[start..=index], archives)?;
        done += batch;
        progress.at(done, total, &format!("{} of {}", megabytes(done), megabytes(total)));
        (start, batch) = (index + 1, 0);
    }
    Ok(())
}

fn unpack_all(archives: &Path, root: &Path, count: usize) -> Result<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(archives)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    if files.len() != count {
        bail!("apt fetched {} package files, {count} were asked for", files.len());
    }
    let mut progress = Progress::new("unpacking");
    for (index, file) in files.iter().enumerate() {
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .args([file.as_path(), root])
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .context("cannot start dpkg-deb")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("dpkg-deb cannot unpack {}: {}", file.display(), why.trim());
        }
        fs::remove_file(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('_').next().unwrap_or_default();
        progress.at(index as u64 + 1, count as u64, name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn a_folder_without_its_record_is_not_taken_for_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Tree::open(folder.path()).is_err());
        assert!(Tree::open(&folder.path().join("absent")).unwrap().is_none());
        std::fs::write(folder.path().join("packages.toml"), "").unwrap();
        assert!(Tree::open(folder.path()).unwrap().is_some());
    }

    #[test]
    fn scripts_are_executable_and_name_their_root() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("packages.toml"), "").unwrap();
        let tree = Tree::open(folder.path()).unwrap().unwrap();
        let script = tree.script("hello", "echo \"$d\"").unwrap();
        assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        let output = std::process::Command::new(&script).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).trim().ends_with("/root"));
    }
}
