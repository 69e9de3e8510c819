//! The programs for ext4: mke2fs, e2fsck and debugfs, from Debian's packages in the cache folder.
//!
//! Not the system's own: mke2fs reads an archive (so that files belong to root although nobody
//! here is root) only from version 1.47.1 on, and equal versions give equal bytes everywhere.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::install::Install;
use crate::packages::{self, Set, Tree};

/// The moment that every time in a file system shows: 2026-01-01.
pub const TIME: u64 = 1_767_225_600;
/// What to type when the programs may not be fetched.
const NEXT: &str = "the same command without --no-install";

/// The packages of the programs.
pub fn set() -> Set {
    Set {
        name: "e2fsprogs-trixie".to_owned(),
        title: "e2fsprogs of Debian trixie".to_owned(),
        release: "trixie".to_owned(),
        prefer: None,
        packages: ["e2fsprogs", "libarchive13t64"].map(str::to_owned).to_vec(),
        only: Vec::new(),
        on_system_libraries: false,
    }
}

/// The programs.
#[derive(Clone, Debug)]
pub struct Tools {
    tree: Tree,
}

impl Tools {
    /// The programs, fetched now if they are not here and `install` allows it.
    pub fn ensure(install: Install) -> Result<Self> {
        Ok(Self { tree: packages::ensure(&set(), install, NEXT)? })
    }

    /// The version of the package, which decides on the bytes of a file system.
    pub fn version(&self) -> String {
        self.tree.version_of("e2fsprogs").unwrap_or_default()
    }

    fn command(&self, program: &str) -> Result<Command> {
        let script = self.tree.program(program, &format!("usr/sbin/{program}"), "")?;
        let mut command = Command::new(script);
        command.env("MKE2FS_CONFIG", self.tree.file("etc/mke2fs.conf")).env("LC_ALL", "C");
        command.env("E2FSPROGS_FAKE_TIME", TIME.to_string());
        command.env("SOURCE_DATE_EPOCH", TIME.to_string());
        Ok(command)
    }

    /// Makes a file system of this many bytes in a new file, with the files of an archive.
    pub fn make(&self, image: &Path, bytes: u64, label: &str, archive: &Path) -> Result<()> {
        let file =
            File::create(image).with_context(|| format!("cannot write {}", image.display()))?;
        file.set_len(bytes).with_context(|| format!("cannot write {}", image.display()))?;
        drop(file);
        let id = super::table::guid(&["file system", label]).to_string();
        // Nothing is left for the guest's kernel to fill in the background.
        let extended =
            format!("lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={id}");
        let mut command = self.command("mke2fs")?;
        command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-U", &id]);
        command.args(["-E", &extended, "-d"]).arg(archive).arg(image);
        let output = command.output().context("cannot start mke2fs")?;
        if !output.status.success() || !output.stderr.is_empty() {
            bail!("mke2fs cannot make the file system `{label}`: {}", said(&output));
        }
        Ok(())
    }

    /// Checks the file system in a file of its own, writing nothing. The error says what is wrong.
    pub fn check(&self, image: &Path) -> Result<()> {
        let mut command = self.command("e2fsck")?;
        let output = command.args(["-f", "-n"]).arg(image).output();
        let output = output.context("cannot start e2fsck")?;
        if !output.status.success() {
            bail!("e2fsck -fn finds a damaged file system: {}", said(&output));
        }
        Ok(())
    }

    /// The bytes of a file in the file system.
    pub fn read(&self, image: &Path, name: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().context("no folder for temporary files")?;
        let out = folder.path().join("file");
        if name.contains(['"', '\n']) || out.display().to_string().contains(['"', '\n']) {
            bail!("debugfs has no way to write the name `{name}`");
        }
        let request = format!("dump \"{name}\" \"{}\"", out.display());
        let mut command = self.command("debugfs")?;
        let output = command.args(["-R", &request]).arg(image).output();
        let output = output.context("cannot start debugfs")?;
        std::fs::read(&out)
            .with_context(|| format!("the file system has no file {name}: {}", said(&output)))
    }
}

/// What a program said, in one line.
fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}
