//! `cargo xtask check`: the rules that a reader relies on, each with one line of outcome.

use anyhow::{Context, Result, bail};

use crate::cargo_build;
use crate::checks::{Verdict, arrows, ledger, licences, lines, links, merges, sizes};

/// Checks formatting, lints, imports, sizes, `unsafe`, links and the manifest corpus
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Rewrite unsafe.toml with today's counts, and do nothing else
    #[arg(long)]
    write_ledger: bool,
}

/// A check's name and what does it.
type Check = (&'static str, fn() -> Result<Verdict>);

const CHECKS: &[Check] = &[
    ("format", format),
    ("imports", arrows::check),
    ("merges", merges::check),
    ("sizes", sizes::check),
    ("unsafe", ledger::check),
    ("lines", lines::check),
    ("links", links::check),
    ("licences", licences::check),
    ("clippy", clippy),
    ("clippy, bare crates", clippy_bare),
    ("manifest corpus", manifest_corpus),
];

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.write_ledger {
        return ledger::write();
    }
    let failed = all()?;
    if failed > 0 {
        bail!("{failed} of {} checks failed", CHECKS.len());
    }
    Ok(())
}

/// Runs every check and returns how many failed.
pub fn all() -> Result<usize> {
    let mut failed = 0;
    for (name, check) in CHECKS {
        match check().unwrap_or_else(|failure| Err(vec![format!("{failure:#}")])) {
            Ok(found) => println!("ok      {name}: {found}"),
            Err(complaints) => {
                failed += 1;
                println!("FAILED  {name}: {}", complaints.first().map_or("", String::as_str));
                for complaint in complaints.iter().skip(1) {
                    println!("        {complaint}");
                }
            }
        }
    }
    Ok(failed)
}

/// How many checks there are.
pub fn count() -> usize {
    CHECKS.len()
}

fn format() -> Result<Verdict> {
    let output = cargo_build::cargo()
        .args(["fmt", "--all", "--check", "--", "--files-with-diff"])
        .output()
        .context("cannot start cargo fmt")?;
    if output.status.success() {
        return Ok(Ok("rustfmt agrees".to_owned()));
    }
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut complaints: Vec<String> = files
        .lines()
        .filter(|line| line.starts_with('/'))
        .map(|line| crate::paths::shown(std::path::Path::new(line)))
        .collect();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaints.is_empty() {
        complaints.extend(why.lines().take(10).map(str::to_owned));
    }
    complaints.push("next: cargo fmt --all".to_owned());
    Ok(Err(complaints))
}

fn clippy() -> Result<Verdict> {
    quiet_cargo(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"], "no warnings")
}

/// Packages of the host that use `std`. Features are shared by all that one command builds, so
/// together with these the bare crates would get dependencies with `std`; `clippy` sees these.
const HOSTED: [&str; 4] = ["cloister-fuzz", "cloister-logview", "cloister-manifest", "xtask"];

fn clippy_bare() -> Result<Verdict> {
    let mut arguments = vec!["clippy", "--quiet", "--workspace"];
    arguments.extend(HOSTED.iter().flat_map(|package| ["--exclude", package]));
    arguments.extend(["--", "-D", "warnings"]);
    quiet_cargo(&arguments, "no warnings")
}

fn manifest_corpus() -> Result<Verdict> {
    quiet_cargo(&["test", "--quiet", "--package", "cloister-manifest"], "each with its message")
}

/// Runs cargo and shows its output only if it fails.
fn quiet_cargo(arguments: &[&str], fine: &str) -> Result<Verdict> {
    let output = cargo_build::cargo()
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start cargo {}", arguments.join(" ")))?;
    if output.status.success() {
        return Ok(Ok(fine.to_owned()));
    }
    let mut complaints = vec![format!("cargo {}", arguments.join(" "))];
    for stream in [&output.stderr, &output.stdout] {
        complaints.extend(String::from_utf8_lossy(stream).lines().map(str::to_owned));
    }
    Ok(Err(complaints))
}
