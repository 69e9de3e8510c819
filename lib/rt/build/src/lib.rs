//! What a task's build script says to cargo: the linker script, its options, the log level.
//!
//! A task's `build.rs` is one call, of [`task`] or [`task_without_panics`]. The options reach the
//! linker only when the build is for the bare machine, so `cargo check` on a host stays plain.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The log level that messages are compiled in from, unless `DEFMT_LOG` says otherwise.
const LOG_LEVEL: &str = "info";

/// Options for GNU ld, beside the scripts. `--build-id` names the program in the image archive,
/// so that the host decodes its log frames with the right symbols.
const OPTIONS: [&str; 5] =
    ["--build-id=sha1", "-zmax-page-size=4096", "-znoexecstack", "--gc-sections", "-Tdefmt.x"];

/// For an ordinary task.
pub fn task() {
    log_level();
    for argument in arguments(&script()) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// For a task that must not be able to panic: linking fails if its code can reach the handler.
pub fn task_without_panics() {
    task();
    if for_bare_machine() {
        println!("cargo::rustc-link-arg-bins=--defsym=__forbid_panic=1");
    }
}

/// Sets the level from which `defmt` messages of the calling package are compiled in.
pub fn log_level() {
    println!("cargo::rerun-if-env-changed=DEFMT_LOG");
    if std::env::var_os("DEFMT_LOG").is_none() {
        println!("cargo::rustc-env=DEFMT_LOG={LOG_LEVEL}");
    }
}

fn arguments(script: &Path) -> Vec<String> {
    println!("cargo::rerun-if-changed={}", script.display());
    if !for_bare_machine() {
        return Vec::new();
    }
    let mut all = vec![format!("-T{}", script.display())];
    all.extend(OPTIONS.map(String::from));
    all
}

fn for_bare_machine() -> bool {
    std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none")
}

/// `lib/rt/task.ld`, beside this crate's folder.
fn script() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path.push("task.ld");
    path
}
