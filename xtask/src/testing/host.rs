//! The host tier: the checks, the unit and property tests, the loom models.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Options;
use super::integrity;
use super::tally::{Tally, Verdict};
use crate::cargo_build;
use crate::checks::sources::{self, Package};
use crate::commands::check;
use crate::paths;

/// The place that host tests are counted under.
const PLACE: &str = "host";

/// Tests may do more when this is set.
const LONG: &str = "CLOISTER_TEST_LONG";

/// Runs the tier.
pub fn run(options: &Options, tally: &mut Tally) -> Result<()> {
    if options.filter.is_none() {
        let failed = check::all()?;
        for index in 0..check::count() {
            let verdict = if index < failed { Verdict::Failed } else { Verdict::Passed };
            tally.add(PLACE, verdict);
        }
    }
    let mut command = cargo_build::cargo();
    command.args(["test", "--no-fail-fast"]);
    count(command, options, tally)?;
    for package in sources::packages(false)? {
        for test in loom_tests(&package) {
            count(loom(&package, &test), options, tally)?;
        }
    }
    integrity::every_byte(options, tally);
    Ok(())
}

/// The names of a package's loom tests.
fn loom_tests(package: &Package) -> Vec<String> {
    let is_loom = |path: &Path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        stem.starts_with("loom").then_some(stem)
    };
    let tests = package.targets.iter().filter(|target| target.kind.iter().any(|k| k == "test"));
    tests.filter_map(|target| is_loom(&target.src_path)).collect()
}

fn loom(package: &Package, test: &str) -> Command {
    let mut command = cargo_build::cargo();
    command
        .args(["test", "--release", "--no-fail-fast"])
        .args(["--package", &package.name, "--test", test])
        .env("RUSTFLAGS", "--cfg loom")
        // The image's own settings would make linking a test take longer than running it.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "1")
        .env("CARGO_TARGET_DIR", paths::target().join("loom"));
    command
}

/// Runs cargo, shows what it prints, and counts its tests.
fn count(mut command: Command, options: &Options, tally: &mut Tally) -> Result<()> {
    if let Some(filter) = &options.filter {
        command.arg(filter);
    }
    if options.long {
        command.env(LONG, "1").args(["--", "--include-ignored"]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no standard output")?;
    let failed_before = tally.place(PLACE).failed;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo test prints")?;
        // The runner's own sums would be taken for ours, so they are counted and left out.
        match parse_result(&line) {
            Some([passed, failed, ignored]) => {
                let counts = tally.place(PLACE);
                counts.passed += passed;
                counts.failed += failed;
                counts.skipped += ignored;
            }
            None if is_noise(&line) => {}
            None => println!("{line}"),
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() && tally.place(PLACE).failed == failed_before {
        println!("FAILED  cargo test ended with {status} before its tests could");
        tally.add(PLACE, Verdict::Failed);
    }
    Ok(())
}

/// Lines that say only that a test passed.
fn is_noise(line: &str) -> bool {
    line.is_empty() || line.starts_with("running ") || line.ends_with(" ... ok")
}

/// Passed, failed and ignored in `test result: ok. 19 passed; 0 failed; 0 ignored; …`.
fn parse_result(line: &str) -> Option<[u64; 3]> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |word: &str| {
        let part = rest.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some([number(" passed")?, number(" failed")?, number(" ignored")?])
}

#[cfg(test)]
mod tests {
    use super::parse_result;

    #[test]
    fn sums_of_the_test_runner_are_read() {
        let line =
            "test result: FAILED. 19 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse_result(line), Some([19, 2, 1]));
        assert_eq!(parse_result("test a ... ok"), None);
    }
}
