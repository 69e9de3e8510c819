//! Where things are: the repository, the cache folder, the target folders.
//!
//! Everything that xtask installs goes below the cache folder, everything that it builds below
//! the target folder; nothing else on the machine is written.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the repository that this xtask belongs to.
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder for toolchains, emulators and package lists: `$CLOISTER_CACHE`, else
/// `$XDG_CACHE_HOME/cloister`, else `~/.cache/cloister`.
pub fn cache() -> Result<PathBuf> {
    let named = |key: &str| env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named("CLOISTER_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|base| base.join("cloister")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/cloister")));
    match folder {
        Some(folder) if folder.is_absolute() => Ok(folder),
        Some(folder) => bail!(
            "the cache folder `{}` is a relative path, an absolute one is needed\n  \
             next: CLOISTER_CACHE=$PWD/{} cargo xtask setup",
            folder.display(),
            folder.display()
        ),
        None => bail!(
            "none of CLOISTER_CACHE, XDG_CACHE_HOME and HOME is set, so there is no cache folder\n  \
             next: CLOISTER_CACHE=/some/folder cargo xtask setup"
        ),
    }
}

/// Cargo's target folder for host builds.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The target folder of the bare-metal builds, apart from the host's so that neither waits for
/// the other's lock.
pub fn bare_target() -> PathBuf {
    target().join("bare")
}

/// The path as a person in the repository would type it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The first program of this name in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
