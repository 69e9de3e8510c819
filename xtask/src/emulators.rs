//! Which QEMU and which Bochs: the system's where it fits, else a private copy in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::install::Install;
use crate::packages::{self, Set, Tree};
use crate::paths;
use crate::version::Version;

/// The program's name, in `PATH` and in the packages.
const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest QEMU that Cloister supports.
pub const OLDEST: Version = Version::new(7, 2);

/// The QEMU of the reference machine, from which on nothing is reduced.
pub const REFERENCE: Version = Version::new(10, 0);

/// A QEMU that can be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program, or a script that runs it.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

/// Bochs, and what makes a disk for it.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// A script that runs it.
    pub program: PathBuf,
    /// GRUB's linker.
    pub grub_mkimage: PathBuf,
    /// The folder with GRUB's parts for BIOS machines.
    pub grub_modules: PathBuf,
}

/// An emulator that a test runs in.
#[derive(Clone, Debug)]
pub enum Emulator {
    /// A QEMU: AMD SVM.
    Qemu(Qemu),
    /// Bochs: Intel VMX.
    Bochs(Bochs),
}

/// The name that test results in Bochs carry.
pub const BOCHS: &str = "bochs-2.7";

/// Which QEMU somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best that is here, else the reference version.
    Best,
    /// Exactly the old one, 7.2.
    V7_2,
    /// The reference version or newer.
    V10_0,
    /// This program.
    Path(PathBuf),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "7.2" => Ok(Self::V7_2),
            "10.0" => Ok(Self::V10_0),
            path if path.contains('/') => Ok(Self::Path(PathBuf::from(path))),
            other => Err(format!("`{other}` is neither 7.2, 10.0 nor a path with a slash in it")),
        }
    }
}

impl Wanted {
    /// The name that test results carry.
    pub fn label(&self) -> String {
        match self {
            Self::Best => "qemu".to_owned(),
            Self::V7_2 => "qemu-7.2".to_owned(),
            Self::V10_0 => "qemu-10.0".to_owned(),
            Self::Path(path) => path.display().to_string(),
        }
    }

    fn accepts(&self, version: Version) -> bool {
        match self {
            Self::Best | Self::Path(_) => version >= OLDEST,
            Self::V7_2 => version == OLDEST,
            Self::V10_0 => version >= REFERENCE,
        }
    }
}

/// The QEMU asked for, fetched now if it is not here and `install` allows it.
pub fn ensure(wanted: &Wanted, install: Install) -> Result<Qemu> {
    if let Some(qemu) = find(wanted)? {
        return Ok(qemu);
    }
    let (set, command) = match wanted {
        Wanted::V7_2 => (old_set(), "cargo xtask setup --emulators"),
        Wanted::V10_0 => (reference_sets(), "cargo xtask setup --emulators"),
        Wanted::Best | Wanted::Path(_) => (reference_sets(), "cargo xtask setup"),
    };
    private(&ensure_one_of(&set, install, command)?)
}

/// The QEMU asked for, if it is on this machine; needs no network.
pub fn find(wanted: &Wanted) -> Result<Option<Qemu>> {
    if let Wanted::Path(path) = wanted {
        let qemu = probe(path)?;
        if !wanted.accepts(qemu.version) {
            bail!("{} is QEMU {}, {OLDEST} or newer is needed", path.display(), qemu.version);
        }
        return Ok(Some(qemu));
    }
    let system = paths::program(PROGRAM).and_then(|program| probe(&program).ok());
    let system = system.filter(|qemu| wanted.accepts(qemu.version));
    let best = *wanted == Wanted::Best;
    if system.is_some() && !(best && system.as_ref().is_some_and(|q| q.version < REFERENCE)) {
        return Ok(system);
    }
    let sets = if *wanted == Wanted::V7_2 { old_set() } else { reference_sets() };
    for set in sets {
        if let Some(tree) = set.present()? {
            return Ok(Some(private(&tree)?));
        }
    }
    Ok(system)
}

/// The QEMU of a tree.
fn private(tree: &Tree) -> Result<Qemu> {
    let extra = "-L \"$d/usr/share/qemu\" -L \"$d/usr/share/seabios\" -L \"$d/usr/lib/ipxe/qemu\"";
    probe(&tree.program(PROGRAM, &format!("usr/bin/{PROGRAM}"), extra)?)
}

/// Asks a program for its version.
fn probe(program: &Path) -> Result<Qemu> {
    let output = Command::new(program)
        .arg("--version")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = Version::find(&text).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("{} --version names no version but says `{}`", program.display(), said.trim())
    })?;
    Ok(Qemu { program: program.to_owned(), version })
}

fn set(name: &str, title: &str, release: &str, prefer: Option<&str>, packages: &[&str]) -> Set {
    Set {
        name: name.to_owned(),
        title: title.to_owned(),
        release: release.to_owned(),
        prefer: prefer.map(str::to_owned),
        packages: packages.iter().map(|&package| package.to_owned()).collect(),
        only: Vec::new(),
        on_system_libraries: false,
    }
}

/// QEMU 7.2, from Debian bookworm.
pub fn old_set() -> Vec<Set> {
    vec![set("qemu-7.2", "QEMU 7.2", "bookworm", None, &["qemu-system-x86"])]
}

/// QEMU 10.0: two places that offer it, the first that works is taken.
pub fn reference_sets() -> Vec<Set> {
    let packages = ["qemu-system-x86"];
    vec![
        set("qemu-10.0", "QEMU 10.0", "bookworm", Some("bookworm-backports"), &packages),
        set("qemu-10.0-trixie", "QEMU 10.0", "trixie", None, &packages),
    ]
}

/// Bochs 2.7, from Debian bookworm.
pub fn bochs_set() -> Set {
    set("bochs-2.7", "Bochs 2.7", "bookworm", None, &["bochs", "bochsbios", "vgabios"])
}

/// GRUB for BIOS machines and the program that links its images: Bochs loads no kernel by itself.
pub fn grub_set() -> Set {
    let packages = ["grub-common", "grub-pc-bin"];
    let needed = ["grub-", "libc6", "liblzma", "libdevmapper", "libselinux", "libudev", "libpcre2"];
    Set {
        only: needed.map(str::to_owned).into(),
        ..set("grub-2.06", "GRUB 2.06", "bookworm", None, &packages)
    }
}

/// Bochs and GRUB, fetched now if they are not here and `install` allows it.
pub fn ensure_bochs(install: Install) -> Result<Bochs> {
    let command = "cargo xtask setup --emulators";
    let tree = packages::ensure(&bochs_set(), install, command)?;
    let grub = packages::ensure(&grub_set(), install, command)?;
    Ok(Bochs {
        program: bochs(&tree)?,
        grub_mkimage: grub.program("grub-mkimage", "usr/bin/grub-mkimage", "")?,
        grub_modules: grub.file("usr/lib/grub/i386-pc"),
    })
}

/// The Bochs program of a tree. Its configuration names BIOS files by `$BXSHARE`.
fn bochs(tree: &Tree) -> Result<PathBuf> {
    let inner = tree.program("bochs-loaded", "usr/bin/bochs-bin", "")?;
    let body = format!(
        "export BXSHARE=\"$d/usr/share/bochs\"\n\
         export LTDL_LIBRARY_PATH=\"$d/usr/lib/x86_64-linux-gnu/bochs/plugins\"\n\
         exec '{}' \"$@\"",
        inner.display()
    );
    tree.script("bochs", &body)
}

/// The first of the sets that is here or can be had.
pub fn ensure_one_of(sets: &[Set], install: Install, command: &str) -> Result<Tree> {
    let mut first_failure = None;
    for set in sets {
        match packages::ensure(set, install, command) {
            Ok(tree) => return Ok(tree),
            Err(failure) if install == Install::Forbidden => return Err(failure),
            Err(failure) => first_failure = first_failure.or(Some(failure)),
        }
    }
    Err(first_failure.unwrap_or_else(|| anyhow::anyhow!("no package set was named")))
}

#[cfg(test)]
mod tests {
    use super::{Wanted, find};
    use crate::version::Version;
    use std::path::PathBuf;

    #[test]
    fn names_and_paths_are_told_apart() {
        assert_eq!("7.2".parse(), Ok(Wanted::V7_2));
        assert_eq!("./q".parse(), Ok(Wanted::Path(PathBuf::from("./q"))));
        assert!("8.1".parse::<Wanted>().is_err());
    }

    #[test]
    fn the_old_one_is_exact_and_the_reference_a_minimum() {
        assert!(!Wanted::V7_2.accepts(Version::new(10, 0)));
        assert!(Wanted::V10_0.accepts(Version::new(11, 1)));
        assert!(!Wanted::V10_0.accepts(Version::new(9, 2)));
    }

    #[test]
    fn a_program_that_is_no_emulator_is_an_error() {
        assert!(find(&Wanted::Path(PathBuf::from("/absent/qemu"))).is_err());
    }
}
