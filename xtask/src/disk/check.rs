//! What a run left on a machine's disks: partition tables, file systems, files.
//!
//! The guest's own word is not enough: a disk that lies to a guest lies to its checks too. Here
//! the host reads the same bytes again. Neighbour: `e2fs`, whose programs do the reading.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::e2fs::{self, Tools};
use super::make::Made;
use super::table;
use crate::install::Install;

/// Checks every disk; what was found right, in sentences.
pub fn all(disks: &[Made], install: Install) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for made in disks {
        disk(made, install, &mut findings)
            .with_context(|| format!("disk `{}` after the run", made.disk.name))?;
    }
    Ok(findings)
}

fn disk(made: &Made, install: Install, findings: &mut Vec<String>) -> Result<()> {
    let Some(volumes) = &made.disk.volumes else { return Ok(()) };
    let file =
        File::open(&made.image).with_context(|| format!("cannot read {}", made.image.display()))?;
    let table = table::read(&file)?;
    if let Some(fault) = table.faults.first() {
        bail!("{fault}");
    }
    for volume in volumes {
        let name = &volume.wanted.name;
        let place = table.volume(name)?.place.clone();
        if volume.root.is_none() {
            continue;
        }
        let tools = Tools::ensure(install)?;
        let (_folder, image) = e2fs::taken_out(&file, place)?;
        tools.check(&image).with_context(|| format!("volume `{name}`"))?;
        let shown = format!("{}/{name}", made.disk.name);
        findings.push(format!("{shown}: e2fsck -fn finds nothing"));
        if let Some(list) = &volume.sums {
            let count = sums(&tools, &image, list).with_context(|| format!("volume `{name}`"))?;
            findings.push(format!("{shown}: {count} files have the sums of {list}"));
        }
    }
    Ok(())
}

/// Compares files with a list of their sums, all in one file system. Returns how many there are.
fn sums(tools: &Tools, image: &Path, list: &str) -> Result<usize> {
    let text = tools.read(image, list)?;
    let text = String::from_utf8(text).with_context(|| format!("{list} is no text"))?;
    let wanted = parse_sums(&text).with_context(|| list.to_owned())?;
    let folder = Path::new(list).parent().unwrap_or(Path::new("/"));
    for (sum, name) in &wanted {
        let path = folder.join(name).display().to_string();
        let bytes = tools.read(image, &path)?;
        let found = hex(&Sha256::digest(&bytes));
        if found != *sum {
            bail!(
                "{path} ({} bytes) has the sum {found}, and the guest has written {sum}",
                bytes.len()
            );
        }
    }
    Ok(wanted.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of `sha256sum`: sum and name.
fn parse_sums(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let parts = line.split_once("  ").filter(|(sum, name)| {
            sum.len() == 64 && sum.chars().all(|c| c.is_ascii_hexdigit()) && !name.is_empty()
        });
        let Some((sum, name)) = parts else { bail!("`{line}` is no line of sha256sum") };
        found.push((sum.to_owned(), name.to_owned()));
    }
    if found.is_empty() {
        bail!("it has no sums, so nothing would be compared");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::parse_sums;

    #[test]
    fn lists_of_sums_are_read_and_an_empty_one_is_refused() {
        let sum = "ab".repeat(32);
        let list = parse_sums(&format!("{sum}  file.a\n{sum}  file b\n")).expect("a list");
        assert_eq!(list, [(sum.clone(), "file.a".into()), (sum.clone(), "file b".into())]);
        for wrong in ["", "x  file", &format!("{sum} file")] {
            assert!(parse_sums(wrong).is_err(), "{wrong}");
        }
    }
}
