//! Building bare-metal crates: the kernel, the boot stub, drivers and test tasks.
//!
//! They share one target folder and one set of flags, because another set would build `core`
//! anew; there are two targets, see [`crate::bare_target`]. Each crate's build script names its own
//! linker script.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bare_target::Target;
use crate::install::Install;
use crate::paths;
use crate::toolchain::{self, BareCompiler};

/// Flags for every bare-metal crate: fixed addresses, frame pointers for backtraces, and the
/// linker that every machine with a C compiler has.
const FLAGS: &str = "-C relocation-model=static -C force-frame-pointers=yes \
                     -C linker-flavor=ld -C linker=ld";

/// A program that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfPath {
    /// The package it belongs to.
    pub package: String,
    /// The program's name within the package.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// Environment that a cargo around xtask sets and that must not reach an inner cargo.
const OUTER_ENVIRONMENT: &[&str] = &[
    "LD_LIBRARY_PATH",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC",
];

/// The cargo that runs xtask, or the one in `PATH`, without the outer cargo's environment.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for (key, _) in std::env::vars_os() {
        let Some(key) = key.to_str() else { continue };
        // These describe xtask's own package; a build script would take them for its own.
        if key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") {
            command.env_remove(key);
        }
    }
    for key in OUTER_ENVIRONMENT {
        command.env_remove(key);
    }
    command
}

/// Builds packages for the bare machine; `features` are cargo's, like `cloister-kernel/checker`.
/// cargo's progress goes to standard error.
pub fn build_bare(
    target: Target,
    packages: &[&str],
    features: &[&str],
    install: Install,
) -> Result<Vec<ElfPath>> {
    let compiler = toolchain::bare_compiler(install)?;
    let mut command = bare_command(&compiler, target, packages, features)?;
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let text = std::io::read_to_string(stdout).context("cannot read cargo's messages")?;
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!(
            "building {} for the bare machine failed ({status}), with rustc {} ({})",
            packages.join(", "),
            compiler.version,
            compiler.origin
        );
    }
    Ok(text.lines().filter_map(executable).collect())
}

fn bare_command(
    compiler: &BareCompiler,
    target: Target,
    packages: &[&str],
    features: &[&str],
) -> Result<Command> {
    let mut command = cargo();
    command
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", paths::bare_target())
        .args(["build", "--release", "--target", &target.argument(compiler)?])
        .args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"])
        .arg("--message-format=json-render-diagnostics");
    if target == Target::Vector && wants_leave_for_target_files() {
        command.arg("-Zjson-target-spec");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    Ok(command)
}

/// Whether this cargo takes target files only with an option, as from 1.95 on. Older ones do not
/// know the option.
fn wants_leave_for_target_files() -> bool {
    let output = cargo().env("RUSTC_BOOTSTRAP", "1").arg("-Zhelp").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("json-target-spec"))
}

/// The program that one of cargo's messages announces, if it announces one.
fn executable(line: &str) -> Option<ElfPath> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let name = message.get("target")?.get("name")?.as_str()?.to_owned();
    let package = package_name(message.get("package_id")?.as_str()?);
    Some(ElfPath { package, name, path })
}

/// The name in a package id: `path+file:///x/kernel#cloister-kernel@0.1.0`, or `…/xtask#0.1.0`
/// where the folder has the package's name.
fn package_name(id: &str) -> String {
    let (place, fragment) = id.rsplit_once('#').unwrap_or(("", id));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => place.rsplit('/').next().unwrap_or(fragment).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ElfPath, executable, package_name};
    use std::path::PathBuf;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/kernel#cloister-kernel@0.1.0","target":{"name":"kernel"},"executable":"/t/kernel"}"#;
        let expected = ElfPath {
            package: "cloister-kernel".into(),
            name: "kernel".into(),
            path: PathBuf::from("/t/kernel"),
        };
        assert_eq!(executable(line), Some(expected));
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable(r#"{"executable":null,"target":{"name":"x"}}"#), None);
    }

    #[test]
    fn package_names_are_read_from_both_forms_of_an_id() {
        assert_eq!(package_name("path+file:///w/lib/rt#cloister-rt@0.1.0"), "cloister-rt");
        assert_eq!(package_name("path+file:///w/xtask#0.1.0"), "xtask");
    }
}
