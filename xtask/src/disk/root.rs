//! Root filesystems: Debian's packages and files of ours, as an ext4 file system in a file.
//!
//! `images/roots/NAME/root.toml` names the packages, `images/roots/NAME/files/` lies over them. No
//! maintainer script runs, so what those would make (users, alternatives) stands in `files/`. The
//! result is kept in the cache folder by the hash of everything that decides on it. Invariant:
//! equal inputs give equal bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cloister_manifest::names::{did_you_mean, is_identifier, listed};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::e2fs::Tools;
use super::{extent, tar};
use crate::install::{Install, say};
use crate::packages::{self, Set, Tree};
use crate::paths;

/// Version of the file's format.
const FORMAT: u32 = 1;
/// Rises when this code makes other bytes of the same inputs.
const VERSION: u32 = 1;
/// How the packages' folders in the cache begin.
const PREFIX: &str = "root-";
/// What to type when packages may not be fetched.
const NEXT: &str = "the same command without --no-install";

/// `root.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: u32,
    release: String,
    packages: Vec<String>,
}

/// A root filesystem that can be built.
#[derive(Clone, Debug)]
pub struct Root {
    name: String,
    folder: PathBuf,
    set: Set,
}

/// Where root filesystems are described.
fn roots() -> PathBuf {
    paths::root().join("images/roots")
}

/// The names of all root filesystems.
fn names() -> Vec<String> {
    let folders = std::fs::read_dir(roots()).into_iter().flatten().flatten();
    let mut names: Vec<String> = folders
        .filter(|entry| entry.path().join("root.toml").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The sets of packages of all root filesystems, for the lock file.
pub fn sets() -> Result<Vec<Set>> {
    names().iter().map(|name| Root::open(name).map(|root| root.set)).collect()
}

impl Root {
    /// Reads the description of a root filesystem.
    pub fn open(name: &str) -> Result<Self> {
        let folder = roots().join(name);
        let file = folder.join("root.toml");
        if !is_identifier(name, 32) || !file.is_file() {
            let names = names();
            let known = || names.iter().map(String::as_str);
            bail!(
                "there is no root filesystem `{name}`: {}images/roots has {}",
                did_you_mean(name, known()),
                listed(known())
            );
        }
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", paths::shown(&file)))?;
        let set = parse(name, &text).with_context(|| paths::shown(&file))?;
        Ok(Self { name: name.to_owned(), folder, set })
    }

    /// The file system of this many bytes, built now unless the cache has it.
    pub fn build(&self, bytes: u64, tools: &Tools, install: Install) -> Result<PathBuf> {
        let tree = packages::ensure(&self.set, install, NEXT)?;
        if let Some(missing) =
            self.set.packages.iter().find(|package| tree.version_of(package).is_none())
        {
            bail!(
                "{} was made without the package {missing}, which {} names\n  next: rm -r {0}, \
                 then type the command again",
                tree.folder().display(),
                paths::shown(&self.folder.join("root.toml")),
            );
        }
        let cache = paths::cache()?.join("roots");
        std::fs::create_dir_all(&cache)
            .with_context(|| format!("cannot create {}", cache.display()))?;
        let files = self.folder.join("files");
        let hash = self.hash(bytes, tools, &tree, &files)?;
        let finished = cache.join(format!("{}-{hash}.ext4", self.name));
        if finished.is_file() {
            return Ok(finished);
        }
        say(&format!("building the root filesystem {} of {} MiB …", self.name, bytes >> 20));
        let work = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&cache)?;
        let archive = work.path().join("root.tar");
        let complaint = || format!("cannot write {}", archive.display());
        let mut out = BufWriter::new(File::create(&archive).with_context(complaint)?);
        tar::write(&[&tree.file(""), &files], &mut out)?;
        out.flush().with_context(complaint)?;
        let image = work.path().join("root.ext4");
        tools.make(&image, bytes, &self.name, &archive)?;
        std::fs::rename(&image, &finished)
            .with_context(|| format!("cannot write {}", finished.display()))?;
        Ok(finished)
    }

    /// Everything that decides on the bytes of the file system, as a short hash: size, programs,
    /// the packages with their own hashes, and our files.
    fn hash(&self, bytes: u64, tools: &Tools, tree: &Tree, files: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        for part in [&self.name, &bytes.to_string(), &tools.version(), &VERSION.to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(extent::sha256_of(&tree.folder().join("packages.toml"))?);
        let mut archive = Vec::new();
        tar::write(&[files], &mut archive)?;
        hash.update(&archive);
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The packages of a description.
fn parse(name: &str, text: &str) -> Result<Set> {
    let raw: Raw = toml::from_str(text)?;
    if raw.format != FORMAT {
        bail!("it has format {}, this xtask reads {FORMAT}; write: format = {FORMAT}", raw.format);
    }
    let words = raw.packages.iter().chain([&raw.release]);
    let is_name = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
    };
    if let Some(wrong) = words.into_iter().find(|word| !is_name(word)) {
        bail!("`{wrong}` is no name of a package or release of Debian");
    }
    if raw.packages.is_empty() {
        bail!("`packages` is empty; name at least the packages with a shell and its libraries");
    }
    Ok(Set {
        name: format!("{PREFIX}{name}"),
        title: format!("the root filesystem {name} of Debian {}", raw.release),
        release: raw.release,
        prefer: None,
        packages: raw.packages,
        only: Vec::new(),
        on_system_libraries: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_in_the_repository_is_read() {
        let sets = sets().expect("all are good");
        assert!(sets.iter().any(|set| set.name == "root-debian" && set.release == "trixie"));
    }

    #[test]
    fn wrong_descriptions_are_refused() {
        let good = "format = 1\nrelease = \"trixie\"\npackages = [\"bash\"]";
        assert!(parse("x", good).is_ok());
        for (text, expected) in [
            (good.replace("= 1", "= 2"), "it has format 2"),
            (good.replace("bash", "-o"), "`-o` is no name"),
            (good.replace("\"bash\"", ""), "`packages` is empty"),
            (good.replace("release", "relase"), "unknown field"),
        ] {
            let error = format!("{:#}", parse("x", &text).expect_err(expected));
            assert!(error.contains(expected), "{error}");
        }
        let error = Root::open("debain").expect_err("absent").to_string();
        assert!(error.contains("did you mean `debian`?"), "{error}");
        assert!(Root::open("../guests").is_err());
    }
}
