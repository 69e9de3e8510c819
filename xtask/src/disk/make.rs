//! The files of a machine's disks: made from `machine.toml`, kept or made anew.
//!
//! Beside each `NAME.img` stands `NAME.made`, what it was made from. A kept disk whose description
//! has changed is refused, because making it anew would lose what is on it; nothing but
//! [`Keep::Fresh`] loses anything. Invariant: `NAME.made` exists only beside a whole disk.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cipher::{self, DATA_OFFSET};
use super::e2fs::Tools;
use super::extent;
use super::file::{Disk, Erased, Volume};
use super::root::Root;
use super::table::{self, Wanted, guid};
use crate::install::{Install, say};
use crate::paths;

/// What becomes of disks that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They are used as they are.
    Kept,
    /// They are made anew.
    Fresh,
}

/// A disk and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it is.
    pub disk: Disk,
    /// Where it is.
    pub image: PathBuf,
}

/// The disks, in their folder.
pub fn all(disks: &[Disk], folder: &Path, keep: Keep, install: Install) -> Result<Vec<Made>> {
    let make = |disk: &Disk| {
        let image =
            one(disk, folder, keep, install).with_context(|| format!("disk `{}`", disk.name))?;
        Ok(Made { disk: disk.clone(), image })
    };
    disks.iter().map(make).collect()
}

fn one(disk: &Disk, folder: &Path, keep: Keep, install: Install) -> Result<PathBuf> {
    let image = folder.join(format!("{}.img", disk.name));
    let record = folder.join(format!("{}.made", disk.name));
    let description = describe(disk);
    if keep == Keep::Kept && image.exists() {
        let shown = paths::shown(&image);
        return match fs::read_to_string(&record) {
            Ok(made) if made == description => {
                say(&format!("{shown} is used as it is (--fresh makes it anew)"));
                Ok(image)
            }
            Ok(made) => bail!(
                "{shown} was made from another description, and making it anew would lose what is \
                 on it\n  was:  {}\n  is:   {}\n  next: the same command with --fresh, or move \
                 the file away",
                made.trim_end().replace('\n', "; "),
                description.trim_end().replace('\n', "; "),
            ),
            Err(_) => bail!(
                "{shown} is there, but not a whole disk of xtask's\n  next: the same command with \
                 --fresh makes it anew and loses what is on it; or move the file away"
            ),
        };
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for old in [&record, &image] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", old.display()));
            }
            _ => {}
        }
    }
    fill(disk, &image, install)?;
    extent::write_whole(&record, description.as_bytes())?;
    Ok(image)
}

/// Makes the file and its content.
fn fill(disk: &Disk, image: &Path, install: Install) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .with_context(|| format!("cannot make {}", image.display()))?;
    file.set_len(disk.bytes).with_context(|| format!("cannot write {}", image.display()))?;
    let Some(volumes) = &disk.volumes else { return Ok(()) };
    let wanted: Vec<Wanted> = volumes.iter().map(|volume| volume.wanted.clone()).collect();
    table::write(&file, disk.sector, guid(&["disk", &disk.name]), &wanted)?;
    for volume in volumes {
        content(&file, volume, install)
            .with_context(|| format!("volume `{}`", volume.wanted.name))?;
    }
    Ok(())
}

/// Puts a root filesystem into its volume, and encrypts the volume.
fn content(file: &File, volume: &Volume, install: Install) -> Result<()> {
    let name = &volume.wanted.name;
    if let Some(root) = &volume.root {
        put_root(file, name, root, install)?;
    }
    match &volume.key {
        Some(key) => {
            let place = table::read(file)?.volume(name)?.place.clone();
            cipher::encrypt(file, &place, key)?;
            if volume.erased == Some(Erased::Before) { cipher::erase(file, &place) } else { Ok(()) }
        }
        None => Ok(()),
    }
}

/// Puts a root filesystem into a volume of a disk, whose bytes are zeros before. What an encrypted
/// volume needs is left free at its end.
pub fn put_root(file: &File, volume: &str, root: &str, install: Install) -> Result<()> {
    let place = table::read(file)?.volume(volume)?.place.clone();
    let tools = Tools::ensure(install)?;
    let bytes = place.end.saturating_sub(place.start + DATA_OFFSET);
    let built = Root::open(root)?.build(bytes, &tools, install)?;
    let from = File::open(&built).with_context(|| format!("cannot read {}", built.display()))?;
    extent::copy(&from, 0..bytes, file, place.start)
}

/// What decides on the disk's content, a line for each part.
fn describe(disk: &Disk) -> String {
    let mut text = format!("{} bytes, sectors of {}\n", disk.bytes, disk.sector);
    for volume in disk.volumes.iter().flatten() {
        let content = volume.root.as_deref().unwrap_or("nothing");
        text.push_str(&format!(
            "volume {} of {} bytes with {content}{}\n",
            volume.wanted.name,
            volume.wanted.bytes,
            match (volume.key.is_some(), volume.erased) {
                (true, Some(Erased::Before)) => ", encrypted and erased",
                (true, _) => ", encrypted",
                (false, _) => "",
            }
        ));
    }
    if disk.volumes.is_none() {
        text.push_str("no partition table\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::file::{Model, Throttle};
    use std::os::unix::fs::FileExt;

    fn disk(bytes: u64) -> Disk {
        let wanted = Wanted { name: "web".into(), bytes: 1 << 20 };
        Disk {
            name: "nvme0".into(),
            model: Model::Nvme { functions: 0, detached: false },
            bytes,
            sector: 512,
            volumes: Some(vec![Volume {
                wanted,
                root: None,
                sums: None,
                blocks: None,
                key: None,
                erased: None,
            }]),
            faults: Vec::new(),
            throttle: Throttle::default(),
            options: Vec::new(),
        }
    }

    #[test]
    fn nothing_is_lost_unless_it_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |disk: &Disk, keep: Keep| {
            all(std::slice::from_ref(disk), folder.path(), keep, Install::Forbidden)
        };
        let made = make(&disk(4 << 20), Keep::Kept).expect("made");
        let file = OpenOptions::new().write(true).open(&made[0].image).expect("opened");
        file.write_all_at(b"mine", 1 << 20).expect("written");
        let content = || fs::read(&made[0].image).expect("read")[1 << 20..][..4].to_vec();
        make(&disk(4 << 20), Keep::Kept).expect("kept");
        assert_eq!(content(), b"mine");
        let error = format!("{:#}", make(&disk(5 << 20), Keep::Kept).expect_err("changed"));
        assert!(error.contains("was made from another description"), "{error}");
        assert!(error.contains("was:  4194304 bytes") && error.contains("--fresh"), "{error}");
        assert_eq!(content(), b"mine");
        fs::remove_file(folder.path().join("nvme0.made")).expect("removed");
        let error = format!("{:#}", make(&disk(4 << 20), Keep::Kept).expect_err("no record"));
        assert!(error.contains("not a whole disk"), "{error}");
        assert_eq!(content(), b"mine");
        make(&disk(4 << 20), Keep::Fresh).expect("made anew");
        assert_eq!(content(), [0; 4]);
    }
}
