//! The compiler for bare-metal crates: any rustc of at least `rust-version` that has the sources
//! of `core` beside it.
//!
//! Looked for in this order: `$RUSTC`, `rustc` in `PATH`, rustup's toolchains, `/usr/bin/rustc`,
//! the private copy in the cache. When none has its sources, Debian's compiler is fetched into
//! the cache. Which one it is never changes the commands that a person types.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install::Install;
use crate::packages::{self, Set};
use crate::paths;
use crate::version::Version;

/// The command that fetches what is missing.
const NEXT: &str = "cargo xtask setup";

/// A compiler that can build `core` from its sources.
#[derive(Clone, Debug)]
pub struct BareCompiler {
    /// The program, or a script that runs it.
    pub rustc: PathBuf,
    /// What it says it is.
    pub version: Version,
    /// Where it came from, for people.
    pub origin: String,
}

/// The compiler, fetched now if there is none and `install` allows it.
pub fn bare_compiler(install: Install) -> Result<BareCompiler> {
    if let Some(compiler) = find()? {
        return Ok(compiler);
    }
    let tree = packages::ensure(&compiler_set()?, install, NEXT)?;
    private_compiler(&tree)?.with_context(|| {
        format!(
            "the compiler in {} is older than {} or lacks its sources\n  next: cargo xtask setup \
             --update",
            tree.folder().display(),
            minimum().map_or_else(|_| "needed".to_owned(), |version| version.to_string())
        )
    })
}

/// The compiler that would be used, if there is one already; needs no network.
pub fn find() -> Result<Option<BareCompiler>> {
    let minimum = minimum()?;
    for rustc in candidates() {
        if let Some(version) = usable(&rustc, minimum) {
            let origin = rustc.display().to_string();
            return Ok(Some(BareCompiler { rustc, version, origin }));
        }
    }
    match compiler_set().ok().map(|set| set.present()).transpose()?.flatten() {
        Some(tree) => private_compiler(&tree),
        None => Ok(None),
    }
}

/// The packages of the compiler, from this machine's own release: it runs on the system's
/// libraries.
pub fn compiler_set() -> Result<Set> {
    let Some(release) = packages::system_release() else {
        bail!(
            "no rustc here has its sources, and this is not Debian, whose compiler could be \
             fetched\n  next: rustup component add rust-src"
        );
    };
    Ok(Set {
        name: format!("compiler-{release}"),
        title: "the Rust compiler with its sources".to_owned(),
        release,
        prefer: None,
        packages: vec!["rustc-web".to_owned(), "rust-web-src".to_owned()],
        only: Vec::new(),
        on_system_libraries: true,
    })
}

/// The least version, as the workspace says it.
fn minimum() -> Result<Version> {
    let path = paths::root().join("Cargo.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: toml::Table = toml::from_str(&text)?;
    let version = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("package")?.get("rust-version")?.as_str())
        .and_then(Version::find);
    version.context("Cargo.toml has no `rust-version` of the form \"1.88\" in [workspace.package]")
}

/// Compilers that may be on this machine, best first.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env::var_os("RUSTC").map(PathBuf::from).into_iter().collect();
    found.extend(paths::program("rustc"));
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    if let Some(rustup) = rustup {
        let entries = fs::read_dir(rustup.join("toolchains")).into_iter().flatten().flatten();
        let mut installed: Vec<PathBuf> = entries
            .map(|entry| entry.path().join("bin/rustc"))
            .filter(|rustc| rustc.is_file())
            .collect();
        // Names sort `nightly-…` before `stable-…`; the stable ones are to come first.
        installed.sort();
        installed.reverse();
        found.extend(installed);
    }
    found.push(PathBuf::from("/usr/bin/rustc"));
    found
}

/// The compiler's version, if it is new enough and has the sources of `core`.
fn usable(rustc: &Path, minimum: Version) -> Option<Version> {
    let version = Version::find(&ask(rustc, &["--version"])?)?;
    let sysroot = ask(rustc, &["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    (version >= minimum && sources.is_file()).then_some(version)
}

fn ask(rustc: &Path, question: &[&str]) -> Option<String> {
    let output = Command::new(rustc).args(question).env_remove("LD_LIBRARY_PATH").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The compiler of the tree behind a script that finds its libraries.
fn private_compiler(tree: &packages::Tree) -> Result<Option<BareCompiler>> {
    let body = "export LD_LIBRARY_PATH=\"$d/usr/lib/x86_64-linux-gnu\"\n\
                exec \"$d/usr/bin/rustc\" \"$@\"";
    let rustc = tree.script("rustc", body)?;
    let package = tree.version_of("rustc-web").unwrap_or_default();
    let compiler = usable(&rustc, minimum()?).map(|version| BareCompiler {
        rustc,
        version,
        origin: format!("Debian's rustc-web {package}, in {}", tree.folder().display()),
    });
    Ok(compiler)
}

#[cfg(test)]
mod tests {
    use super::minimum;
    use crate::version::Version;

    #[test]
    fn the_workspace_names_a_least_version() {
        assert!(minimum().unwrap() >= Version::new(1, 88));
    }
}
