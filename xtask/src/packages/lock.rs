//! `xtask/packages.lock`: version and hash of every package that xtask fetches, by set.
//!
//! The file records; it does not forbid. A mirror keeps few old versions, so when one is gone the
//! newest is taken and said. `cargo xtask setup --update` rewrites it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::paths;

/// One Debian package of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version with epoch and revision.
    pub version: String,
    /// The hash of the archive file, from the signed package list.
    pub sha256: String,
    /// The size of the archive file.
    pub bytes: u64,
    /// The size on disk after unpacking, as the package says.
    pub unpacked_bytes: u64,
}

/// A package as the file writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: String,
    sha256: String,
}

/// The whole file: set, then package.
#[derive(Clone, Debug, Default)]
pub struct LockFile {
    sets: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// Where the committed file is.
fn path() -> PathBuf {
    paths::root().join("xtask/packages.lock")
}

impl LockFile {
    /// Reads the committed file; an absent one is empty.
    pub fn read() -> Result<Self> {
        match fs::read_to_string(path()) {
            Ok(text) => Self::parse(&text).with_context(|| {
                "xtask/packages.lock is not what xtask writes\n  next: cargo xtask setup --update"
            }),
            Err(_) => Ok(Self::default()),
        }
    }

    /// The file's text as a value.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { sets: toml::from_str(text)? })
    }

    /// The packages of one set, by name.
    pub fn section(&self, set: &str) -> BTreeMap<String, Package> {
        let entries = self.sets.get(set).cloned().unwrap_or_default();
        let package = |(name, entry): (String, Entry)| {
            let Entry { version, sha256 } = entry;
            let (bytes, unpacked_bytes) = (0, 0);
            (name.clone(), Package { name, version, sha256, bytes, unpacked_bytes })
        };
        entries.into_iter().map(package).collect()
    }

    /// Puts the packages in the place of the set's old ones.
    pub fn replace(&mut self, set: &str, packages: &[Package]) {
        let entry = |package: &Package| {
            let (version, sha256) = (package.version.clone(), package.sha256.clone());
            (package.name.clone(), Entry { version, sha256 })
        };
        self.sets.insert(set.to_owned(), packages.iter().map(entry).collect());
    }

    /// The file's text: a section for a set, a line for a package, sorted.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Debian packages that xtask fetches: version and hash. Written by\n\
             # `cargo xtask setup --update`; followed where the mirror still has the version.\n",
        );
        for (set, packages) in &self.sets {
            text.push_str(&format!("\n[\"{set}\"]\n"));
            for (name, Entry { version, sha256 }) in packages {
                text.push_str(&format!(
                    "\"{name}\" = {{ version = \"{version}\", sha256 = \"{sha256}\" }}\n"
                ));
            }
        }
        text
    }

    /// Writes the committed file.
    pub fn write(&self) -> Result<()> {
        fs::write(path(), self.render())
            .with_context(|| format!("cannot write {}", path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{LockFile, Package};

    fn package(name: &str, version: &str) -> Package {
        let (name, version) = (name.to_owned(), version.to_owned());
        Package { name, version, sha256: "ab".into(), bytes: 0, unpacked_bytes: 0 }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut lock = LockFile::default();
        lock.replace("qemu-10.0", &[package("libstdc++6", "1:12.2~x"), package("a", "1")]);
        lock.replace("bochs", &[package("bochs", "2.7")]);
        let again = LockFile::parse(&lock.render()).unwrap();
        assert_eq!(again.render(), lock.render());
        assert_eq!(again.section("qemu-10.0")["libstdc++6"], package("libstdc++6", "1:12.2~x"));
        assert!(again.section("qemu-7.2").is_empty());
    }

    #[test]
    fn other_text_is_refused() {
        assert!(LockFile::parse("x = 1").is_err());
        assert!(LockFile::parse("[s]\na = { version = \"1\" }").is_err());
    }
}
