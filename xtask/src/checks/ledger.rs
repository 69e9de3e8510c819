//! Where `unsafe` may be written, and how often: `unsafe.toml` is the ledger.
//!
//! Every occurrence of the word in Rust source counts: blocks, functions, impls, attributes, also
//! inside macros. A crate that is not on the list below forbids it altogether.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use proc_macro2::TokenTree;

use super::sources::{self, Package};
use super::{Verdict, verdict};
use crate::paths;

/// Packages that may hold `unsafe`, by folder; those below the last two too.
const ALLOWED: &[&str] = &[
    "kernel",
    "kernel/boot",
    "lib/rt",
    "lib/mmio",
    "lib/dma",
    "lib/dma/queue",
    "lib/dma/testing",
    "lib/ring",
    "lib/guestmem",
    "guest-abi/rt",
    "guest-abi/rt/start",
];
const ALLOWED_BELOW: &[&str] = &["tests/guest", "tests/boot"];

/// The line that every other crate's root file has.
const FORBID: &str = "#![forbid(unsafe_code)]";

type Counts = BTreeMap<String, usize>;

/// Compares the counts with the ledger.
pub fn check() -> Result<Verdict> {
    let packages = sources::packages(false)?;
    let counts = count(&packages)?;
    let ledger = read_ledger()?;
    let mut complaints = missing_forbids(&packages)?;
    complaints.extend(compare(&packages, &counts, &ledger));
    let sum: usize = counts.values().sum();
    let lower = counts.iter().filter(|(name, count)| ledger.get(*name).is_some_and(|l| l > count));
    let names: Vec<&str> = lower.map(|(name, _)| name.as_str()).collect();
    let mut fine = format!("{sum} in {} crates", counts.values().filter(|&&n| n > 0).count());
    if !names.is_empty() {
        fine.push_str(&format!(
            "; fewer than the ledger says in {} (cargo xtask check --write-ledger)",
            names.join(", ")
        ));
    }
    Ok(verdict(complaints, fine))
}

/// Rewrites the ledger with today's counts.
pub fn write() -> Result<()> {
    let mut text = String::from(
        "# The ledger of `unsafe`: how often the word stands in each crate, tests included.\n\
         # `cargo xtask check` fails when a count is above its line; raising one is a decision.\n\
         # Rewritten by `cargo xtask check --write-ledger`.\n\n",
    );
    for (name, count) in count(&sources::packages(false)?)?.iter().filter(|(_, count)| **count > 0)
    {
        text.push_str(&format!("{name} = {count}\n"));
    }
    fs::write(ledger_path(), text).context("cannot write unsafe.toml")
}

fn ledger_path() -> PathBuf {
    paths::root().join("unsafe.toml")
}

fn read_ledger() -> Result<Counts> {
    match fs::read_to_string(ledger_path()) {
        Ok(text) => toml::from_str(&text)
            .context("unsafe.toml is not a list of `crate = count`; next: git diff unsafe.toml"),
        Err(_) => Ok(Counts::new()),
    }
}

fn count(packages: &[Package]) -> Result<Counts> {
    let mut counts = Counts::new();
    for path in sources::files(&["rs"])? {
        let text = sources::read(&path)?;
        let Some(package) = sources::owner(packages, &path) else {
            continue;
        };
        *counts.entry(package.name.clone()).or_default() += count_in(&path, &text)?;
    }
    Ok(counts)
}

fn count_in(path: &std::path::Path, text: &str) -> Result<usize> {
    let mut found = 0;
    sources::each_token(sources::tokens(path, text)?, &mut |tree, _| {
        found += usize::from(matches!(tree, TokenTree::Ident(word) if word == "unsafe"));
    });
    Ok(found)
}

fn is_allowed(folder: &str) -> bool {
    let below = |base: &str| folder == base || folder.starts_with(&format!("{base}/"));
    ALLOWED.contains(&folder) || ALLOWED_BELOW.iter().any(|base| below(base))
}

fn compare(packages: &[Package], counts: &Counts, ledger: &Counts) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        let count = counts.get(&package.name).copied().unwrap_or(0);
        let recorded = ledger.get(&package.name).copied().unwrap_or(0);
        if count > 0 && !is_allowed(&package.folder()) {
            complaints.push(format!(
                "{}: `unsafe` stands in it {count} times; crates that may hold it: {}, and those \
                 below {}",
                package.folder(),
                ALLOWED.join(", "),
                ALLOWED_BELOW.join(", ")
            ));
        } else if count > recorded {
            complaints.push(format!(
                "{}: `unsafe` stands in it {count} times, unsafe.toml allows {recorded}; if that \
                 is meant: cargo xtask check --write-ledger, and say why in the commit",
                package.name
            ));
        }
    }
    complaints
}

/// Root files that lack the line that forbids `unsafe`. Build scripts never reach the image.
fn missing_forbids(packages: &[Package]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for package in packages.iter().filter(|package| !is_allowed(&package.folder())) {
        for target in &package.targets {
            let ships = target.kind.iter().any(|kind| kind == "bin" || kind.ends_with("lib"));
            if ships && !sources::read(&target.src_path)?.contains(FORBID) {
                complaints.push(format!("{}: lacks {FORBID}", paths::shown(&target.src_path)));
            }
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::{count_in, is_allowed};
    use std::path::Path;

    #[test]
    fn the_word_counts_in_code_and_macros_but_not_in_text() {
        let text = "//! unsafe\n#![forbid(unsafe_code)]\n// unsafe\n#[unsafe(no_mangle)]\n\
                    fn f() { m!(unsafe { x() }); let s = \"unsafe\"; }\nunsafe impl T for U {}\n";
        assert_eq!(count_in(Path::new("x.rs"), text).unwrap(), 3);
    }

    #[test]
    fn the_list_of_crates_is_exact() {
        for folder in ["kernel", "lib/rt", "tests/boot/storm", "tests/guest"] {
            assert!(is_allowed(folder), "{folder}");
        }
        for folder in ["kernel/core", "lib/rt/build", "drivers/init", "tests/bootless", "xtask"] {
            assert!(!is_allowed(folder), "{folder}");
        }
    }
}
