//! What a run left on a machine's disks: partition tables, file systems, files.
//!
//! The guest's own word is not enough: a disk that lies to a guest lies to its checks too. Here
//! the host reads the same bytes again. Neighbour: `e2fs`, whose programs do the reading.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use guest_disk_core::{BLOCK, Content, Damaged};
use sha2::{Digest, Sha256};

use super::cipher::{self, Secret};
use super::e2fs::Tools;
use super::file::{Erased, Volume};
use super::make::Made;
use super::{extent, table};
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
        let is_erased = volume.erased == Some(Erased::ByRun);
        if volume.root.is_none() && volume.blocks.is_none() && !is_erased {
            continue;
        }
        if let (Some(seed), Some(_)) = (volume.blocks, &volume.key) {
            let data = place.start + cipher::DATA_OFFSET..place.end;
            hidden(&file, data, seed).with_context(|| format!("volume `{name}`"))?;
        }
        if is_erased {
            erased(&file, &place).with_context(|| format!("volume `{name}`"))?;
            findings.push(format!("{}/{name}: its header has no key", made.disk.name));
            continue;
        }
        let folder = tempfile::Builder::new().prefix("cloister-volume-").tempdir()?;
        let image = folder.path().join("volume");
        take_out(&file, place, volume.key.as_ref(), &image)
            .and_then(|()| content(volume, &image, install))
            .with_context(|| format!("volume `{name}`"))?
            .into_iter()
            .for_each(|found| findings.push(format!("{}/{name}: {found}", made.disk.name)));
    }
    Ok(())
}

/// Writes what a volume holds, decrypted, into a file of its own.
pub fn take_out(disk: &File, place: Range<u64>, key: Option<&Secret>, image: &Path) -> Result<()> {
    match key {
        None => extent::extract(disk, place, image),
        Some(key) => {
            let file =
                File::create(image).with_context(|| format!("cannot write {}", image.display()))?;
            cipher::decrypted(disk, &place, key, &file)
        }
    }
}

/// Checks what a volume holds.
fn content(volume: &Volume, image: &Path, install: Install) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    if volume.root.is_some() {
        let tools = Tools::ensure(install)?;
        tools.check(image)?;
        findings.push("e2fsck -fn finds nothing".to_owned());
        if let Some(list) = &volume.sums {
            let count = sums(&tools, image, list)?;
            findings.push(format!("{count} files have the sums of {list}"));
        }
    }
    if let Some(seed) = volume.blocks {
        let file = File::open(image).context("cannot read the volume")?;
        let count = blocks(&file, seed)?;
        findings.push(format!("{count} blocks are whole and in their places"));
    }
    Ok(findings)
}

/// Looks at each block of a volume that `guest-disk` wrote. Returns how many it wrote.
fn blocks(file: &File, seed: u64) -> Result<u64> {
    let len = file.metadata().context("cannot read the volume")?.len();
    let (mut number, mut written) = (0, 0);
    extent::read(file, 0..len, |bytes| {
        for block in bytes.chunks(BLOCK) {
            match guest_disk_core::content(block, number, seed) {
                Ok(Content::Zero) => {}
                Ok(Content::Write(_)) => written += 1,
                Err(damaged) => bail!("block {number} is damaged: {damaged:?}"),
            }
            number += 1;
        }
        Ok(())
    })?;
    if written == 0 {
        bail!("no block was written, so nothing was compared");
    }
    Ok(written)
}

/// Looks for blocks in plain text where an encrypted volume's data are. A whole one is known by its
/// checksum, wherever and in whichever run it was written.
fn hidden(disk: &File, data: Range<u64>, seed: u64) -> Result<()> {
    let mut number = 0;
    extent::read(disk, data, |bytes| {
        for block in bytes.chunks(BLOCK) {
            match guest_disk_core::content(block, number, seed) {
                Err(Damaged::Checksum) => number += 1,
                Ok(Content::Zero) => bail!("block {number} on the disk is zeros, not encrypted"),
                _ => bail!("block {number} is on the disk in plain text"),
            }
        }
        Ok(())
    })
}

/// Looks whether a volume's header has no slots any more.
fn erased(disk: &File, place: &Range<u64>) -> Result<()> {
    let header = cipher::header(disk, place)?.context("it has no header any more")?;
    if !header.is_erased() {
        bail!("its header still has a key");
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
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_block_of_another_place_or_run_is_found() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(16 * BLOCK as u64).expect("a size");
        assert!(blocks(&file, 7).is_err(), "nothing was written");
        let put = |at: u64, block: u64, seed: u64| {
            let mut bytes = vec![0; BLOCK];
            guest_disk_core::stamp(&mut bytes, block, 1, seed);
            file.write_all_at(&bytes, at * BLOCK as u64).expect("written");
        };
        put(3, 3, 7);
        put(5, 5, 7);
        assert_eq!(blocks(&file, 7).expect("good"), 2);
        for (block, seed) in [(4, 7), (5, 8)] {
            put(5, block, seed);
            let error = blocks(&file, 7).expect_err("found").to_string();
            assert!(error.starts_with("block 5 is damaged"), "{error}");
        }
        put(5, 5, 7);
        file.write_all_at(b"x", 5 * BLOCK as u64 + 99).expect("written");
        assert!(blocks(&file, 7).is_err(), "torn");
    }

    #[test]
    fn plain_text_is_found_where_none_may_be() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4 * BLOCK as u64).expect("a size");
        let data = || 0..4 * BLOCK as u64;
        let error = hidden(&file, data(), 7).expect_err("zeros").to_string();
        assert!(error.contains("is zeros"), "{error}");
        file.write_all_at(&[0x5a; 4 * BLOCK], 0).expect("written");
        hidden(&file, data(), 7).expect("nothing plain");
        let mut bytes = vec![0; BLOCK];
        guest_disk_core::stamp(&mut bytes, 9, 1, 8);
        file.write_all_at(&bytes, 3 * BLOCK as u64).expect("written");
        let error = hidden(&file, data(), 7).expect_err("plain").to_string();
        assert_eq!(error, "block 3 is on the disk in plain text");
    }

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
