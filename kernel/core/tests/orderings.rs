//! Every memory ordering in the shipped modules is needed: weakening any one of them, alone, turns
//! a loom test red. So the loom tests see what they claim to see, and no ordering is there for
//! luck.
//!
//! Slow (a build and a run per ordering), so ignored by default:
//! `cargo test -p cloister-core --test orderings -- --ignored --nocapture`. It works on a copy of
//! the packages in cargo's directory for test files. What an ordering that is not in `MODULES` is
//! for stands beside it: those of a single thread's own words need none. `CLOISTER_ORDERINGS` names
//! one file to be looked at, as `monitor/src/posted.rs`.
#![cfg(not(loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A module, and the package and the loom tests that explore it.
type Module = (&'static str, &'static str, &'static [&'static str]);

/// The kernel's signals and the rings of log frames.
const KERNEL: [Module; 4] = [
    ("kernel/core/src/signal.rs", "cloister-core", &["loom_signal"]),
    ("kernel/core/src/park.rs", "cloister-core", &["loom_signal"]),
    ("kernel/abi/src/log.rs", "cloister-ring", &["loom_log"]),
    ("lib/ring/src/log.rs", "cloister-ring", &["loom_log"]),
];

/// A worker's rings (publish and consume, suppression of notifications) and its page.
const VIRTIO: [Module; 4] = [
    ("lib/virtio/src/queue.rs", "cloister-virtio", &["loom_queue"]),
    ("lib/virtio/src/split.rs", "cloister-virtio", &["loom_queue"]),
    ("lib/virtio/src/packed.rs", "cloister-virtio", &["loom_queue"]),
    ("lib/virtio/src/worker.rs", "cloister-virtio", &["loom_worker"]),
];

/// Posted interrupts, requests between virtual CPUs, and the monitor's side of a worker's page.
const MONITOR: [Module; 3] = [
    ("monitor/src/posted.rs", "cloister-monitor", &["loom_posted", "loom_data"]),
    ("monitor/src/request.rs", "cloister-monitor", &["loom_request"]),
    ("monitor/src/virtio/worker.rs", "cloister-monitor", &["loom_rings", "loom_msix"]),
];

/// One copy serves all tests of this file, one after the other.
static COPY: Mutex<()> = Mutex::new(());

/// What an ordering is weakened to.
const WEAKER: [(&str, &[&str]); 4] = [
    ("Ordering::SeqCst", &["Ordering::AcqRel"]),
    ("Ordering::AcqRel", &["Ordering::Acquire", "Ordering::Release"]),
    ("Ordering::Acquire", &["Ordering::Relaxed"]),
    ("Ordering::Release", &["Ordering::Relaxed"]),
];

#[test]
#[ignore = "minutes: one build and one exploration per memory ordering"]
fn each_weakened_ordering_of_signals_and_log_rings_turns_a_loom_test_red() {
    weaken(&KERNEL, 10);
}

#[test]
#[ignore = "minutes: one build and one exploration per memory ordering"]
fn each_weakened_ordering_of_virtio_turns_a_loom_test_red() {
    weaken(&VIRTIO, 14);
}

#[test]
#[ignore = "minutes: one build and one exploration per memory ordering"]
fn each_weakened_ordering_of_the_monitor_turns_a_loom_test_red() {
    weaken(&MONITOR, 14);
}

/// The slow tests need a copy that builds, and nobody runs them every day.
#[test]
fn the_copy_of_the_packages_is_a_workspace() {
    let _one_at_a_time = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = copy_of_the_packages();
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(&copy).args(["metadata", "--offline", "--format-version", "1"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (file, package, tests) in [KERNEL.as_slice(), &VIRTIO, &MONITOR].concat() {
        assert!(copy.join(file).is_file(), "{file} is not of a package that {package} needs");
        let folder = copy.join(&folders()[package]).join("tests");
        let mut files = tests.iter().map(|test| folder.join(test).with_extension("rs"));
        assert!(files.all(|file| file.is_file()), "{package} has not all of {tests:?}");
    }
}

/// Weakens each ordering of these modules; there are at least so many.
fn weaken(modules: &[Module], least: usize) {
    // A test that failed leaves nothing behind: the next one makes its own copy.
    let _one_at_a_time = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = copy_of_the_packages();
    let (mut green, mut red) = (Vec::new(), 0);
    let only = std::env::var("CLOISTER_ORDERINGS").unwrap_or_default();
    for (file, package, tests) in modules.iter().filter(|(file, ..)| file.contains(&only)) {
        let path = copy.join(file);
        let shipped = fs::read_to_string(&path).unwrap();
        let explore = || {
            let mut found = tests.iter().map(|test| failures(&copy, package, test));
            found.find(|failed| !failed.is_empty()).unwrap_or_default()
        };
        let failed = explore();
        assert!(failed.is_empty(), "{failed:?} without any change");
        for (line, what, changed) in weakened(&shipped) {
            fs::write(&path, changed).unwrap();
            let failed = explore();
            println!("{file}:{line}: {what}: {failed:?}");
            if failed.is_empty() {
                green.push(format!("{file}:{line}: {what}"));
            } else {
                red += 1;
            }
        }
        fs::write(&path, shipped).unwrap();
    }
    println!("{red} weakened orderings seen red");
    assert!(green.is_empty(), "no loom test misses these: {green:#?}");
    assert!(
        red >= least || !only.is_empty(),
        "only {red} orderings were found: did the modules move?"
    );
}

/// Every variant of a module with one ordering weaker: line, what was done, text.
fn weakened(text: &str) -> Vec<(usize, String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut variants = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        let mut variant = |what: String, changed: String| {
            let mut all = lines.clone();
            all[index] = &changed;
            variants.push((index + 1, what, all.join("\n")));
        };
        let is_fence = line.contains("fence(");
        if is_fence {
            variant("no fence".into(), String::new());
        }
        for (strong, weaker) in WEAKER.iter().filter(|(strong, _)| line.contains(strong)) {
            // A fence that only acquires or releases has nothing weaker but to be none.
            for weak in weaker.iter().filter(|weak| !is_fence || !weak.ends_with("Relaxed")) {
                variant(format!("{strong} to {weak}"), line.replacen(strong, weak, 1));
            }
        }
    }
    variants
}

/// The models that find a fault, and what they say. A copy that does not even build is no answer.
fn failures(copy: &Path, package: &str, test: &str) -> Vec<String> {
    let cargo = |extra: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(copy).args(["test", "--offline", "--release", "-p", package]);
        command.args(["--test", test]).args(extra);
        command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", copy.join("target"));
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        command.output().unwrap()
    };
    let built = cargo(&["--no-run"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let run = cargo(&["--no-fail-fast"]);
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let mut lines = text.lines();
    let mut failed = Vec::new();
    while let Some(line) = lines.next() {
        // A panic's message follows the line that says where it was.
        if let Some(name) = line.strip_prefix("thread '").and_then(|rest| rest.split('\'').next()) {
            failed.push(format!("{name}: {}", lines.next().unwrap_or_default()));
        }
    }
    // A second panic while loom unwinds ends the run before the first one's message is shown.
    let errors = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() && failed.is_empty() && errors.contains("panicked at") {
        failed.push("a panic, and another one in its cleanup".to_owned());
    }
    assert_eq!(run.status.success(), failed.is_empty(), "{text}");
    // An exploration that was given up is no fault found.
    assert!(!text.contains("maximum number of branches"), "{text}");
    failed
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every package of the workspace that others name, and its folder.
fn folders() -> BTreeMap<String, String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let named = manifest.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" = { path = \"")?;
        Some((name.to_owned(), rest.split('"').next()?.to_owned()))
    });
    named.collect()
}

/// The folders of all that the packages of the modules are built from.
fn needed() -> BTreeSet<String> {
    let folders = folders();
    let modules = [KERNEL.as_slice(), &VIRTIO, &MONITOR].concat();
    let mut open: Vec<&String> = modules.iter().map(|(_, package, _)| &folders[*package]).collect();
    let mut needed = BTreeSet::new();
    while let Some(folder) = open.pop() {
        if needed.insert(folder.clone()) {
            let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
            let names = manifest.lines().filter_map(|line| line.split_once(".workspace = true"));
            open.extend(names.filter_map(|(name, _)| folders.get(name)));
        }
    }
    needed
}

fn copy_of_the_packages() -> PathBuf {
    let (root, packages) = (root(), needed());
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orderings");
    for package in &packages {
        for part in ["Cargo.toml", "src", "tests"].map(|part| Path::new(package).join(part)) {
            copy_all(&root.join(&part), &copy.join(&part));
        }
    }
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[workspace.package]").unwrap();
    let members: Vec<&String> = packages.iter().collect();
    let head = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n");
    fs::write(copy.join("Cargo.toml"), format!("{head}[workspace.package]{rest}")).unwrap();
    copy
}

/// Copies a file, or a folder with all that is in it; nothing if there is neither.
fn copy_all(from: &Path, to: &Path) {
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    } else if from.is_dir() {
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_all(&from.join(&name), &to.join(&name));
        }
    }
}
