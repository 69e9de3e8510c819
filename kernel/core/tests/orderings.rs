//! Every memory ordering in the shipped modules is needed: weakening any one of them, alone, turns
//! a loom test red. So the loom tests see what they claim to see, and no ordering is there for
//! luck.
//!
//! Slow (a build and a run per ordering), so ignored by default:
//! `cargo test -p cloister-core --test orderings -- --ignored --nocapture`. It works on a copy of
//! `kernel/core`, `kernel/abi` and `lib/ring` in cargo's directory for test files.
#![cfg(not(loom))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules and the loom test that explores each.
const MODULES: [(&str, &str, &str); 4] = [
    ("kernel/core/src/signal.rs", "cloister-core", "loom_signal"),
    ("kernel/core/src/park.rs", "cloister-core", "loom_signal"),
    ("kernel/abi/src/log.rs", "cloister-ring", "loom_log"),
    ("lib/ring/src/log.rs", "cloister-ring", "loom_log"),
];

/// What an ordering is weakened to.
const WEAKER: [(&str, &[&str]); 3] = [
    ("Ordering::AcqRel", &["Ordering::Acquire", "Ordering::Release"]),
    ("Ordering::Acquire", &["Ordering::Relaxed"]),
    ("Ordering::Release", &["Ordering::Relaxed"]),
];

#[test]
#[ignore = "minutes: one build and one exploration per memory ordering"]
fn each_weakened_ordering_turns_a_loom_test_red() {
    let copy = copy_of_the_kernel_crates();
    let mut green = Vec::new();
    let mut red = 0;
    for (file, package, test) in MODULES {
        let path = copy.join(file);
        let shipped = fs::read_to_string(&path).unwrap();
        let failed = failures(&copy, package, test);
        assert!(failed.is_empty(), "{failed:?} without any change");
        for (line, what, changed) in weakened(&shipped) {
            fs::write(&path, changed).unwrap();
            let failed = failures(&copy, package, test);
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
    assert!(red >= 10, "only {red} orderings were found: did the modules move?");
    assert!(green.is_empty(), "no loom test misses these: {green:#?}");
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
        for (strong, weaker) in WEAKER {
            match line.contains(strong) {
                true if line.contains("fence(") => variant("no fence".into(), String::new()),
                true => weaker.iter().for_each(|weak| {
                    variant(format!("{strong} to {weak}"), line.replacen(strong, weak, 1));
                }),
                false => {}
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
    assert_eq!(run.status.success(), failed.is_empty(), "{text}");
    failed
}

fn copy_of_the_kernel_crates() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orderings");
    for package in ["kernel/abi", "kernel/core", "lib/ring"] {
        for folder in ["", "src", "src/validate", "tests"].map(|name| Path::new(package).join(name))
        {
            if root.join(&folder).is_dir() {
                copy_files(&root.join(&folder), &copy.join(&folder));
            }
        }
    }
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[workspace.package]").unwrap();
    let head = "[workspace]\nresolver = \"3\"\nmembers = [\"kernel/*\", \"lib/ring\"]\n";
    fs::write(copy.join("Cargo.toml"), format!("{head}[workspace.package]{rest}")).unwrap();
    copy
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}
