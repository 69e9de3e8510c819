//! The files that checks look at, and the workspace's packages as cargo sees them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use serde::Deserialize;

use crate::cargo_build;
use crate::paths;

/// Folders that hold nothing that people wrote.
const SKIPPED: &[&str] = &["target", "build", ".git"];

/// Every file below the root with one of these extensions, sorted.
pub fn files(extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(&paths::root(), true, &mut |path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) {
            found.push(path.to_owned());
        }
    })?;
    found.sort();
    Ok(found)
}

fn walk(folder: &Path, top: bool, visit: &mut impl FnMut(&Path)) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let name = entry.file_name();
            let skipped = SKIPPED.iter().any(|skipped| name == *skipped);
            if !(top && skipped) {
                walk(&path, false, visit)?;
            }
        } else {
            visit(&path);
        }
    }
    Ok(())
}

/// A file's text.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// One package, as far as checks need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Where its Cargo.toml is.
    pub manifest_path: PathBuf,
    /// Its licence expression.
    pub license: Option<String>,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    /// Its libraries and programs.
    pub targets: Vec<Target>,
}

/// A dependency, as far as checks need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Dependency {
    /// Its folder, when it is one of this workspace.
    pub path: Option<PathBuf>,
}

/// A library or program.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// `lib`, `bin`, `test`, `custom-build` …
    pub kind: Vec<String>,
    /// Its root file.
    pub src_path: PathBuf,
}

impl Package {
    /// The folder below the repository's root, like `lib/rt`.
    pub fn folder(&self) -> String {
        let folder = self.manifest_path.parent().unwrap_or(Path::new(""));
        paths::shown(folder)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The workspace's packages; with `all`, everything they use as well.
pub fn packages(all: bool) -> Result<Vec<Package>> {
    let mut command = cargo_build::cargo();
    command.args(["metadata", "--format-version", "1"]);
    if !all {
        command.arg("--no-deps");
    }
    let output = command.output().context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

/// The package that a file belongs to: the one whose folder is the nearest above it.
pub fn owner<'a>(packages: &'a [Package], file: &Path) -> Option<&'a Package> {
    packages
        .iter()
        .filter(|package| package.manifest_path.parent().is_some_and(|dir| file.starts_with(dir)))
        .max_by_key(|package| package.manifest_path.components().count())
}

/// The words of Rust source, or where it is not Rust.
pub fn tokens(path: &Path, text: &str) -> Result<TokenStream> {
    text.parse().map_err(|error| anyhow::anyhow!("{}: {error}", paths::shown(path)))
}

/// Calls `visit` for every word, also inside brackets and macro calls. `next` is the word after.
pub fn each_token(stream: TokenStream, visit: &mut impl FnMut(&TokenTree, Option<&TokenTree>)) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        visit(&tree, trees.peek());
        if let TokenTree::Group(group) = tree {
            each_token(group.stream(), visit);
        }
    }
}
