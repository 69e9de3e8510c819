//! Partition tables: which volumes an image of a disk has.
//!
//! A GUID partition table by the crate `gpt` ("GUID Partition Table (GPT) Disk Layout", UEFI
//! Specification). A volume is a partition, its name the partition's, in either size of sector.
//! Invariant: a table that [`write`] made has volumes with different names, apart from each other,
//! which begin and end at multiples of [`ALIGN`].

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, anyhow, bail};
use cloister_manifest::names::{did_you_mean, listed};
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use gpt::{GptConfig, GptDisk, partition_types};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ALIGN;

/// What a table takes at each end of a disk, rounded up to [`ALIGN`].
pub const RESERVED: u64 = ALIGN;
/// Most volumes of a disk.
const VOLUMES_MAX: usize = 128;
/// Longest name of a volume: what a partition's entry holds, in UTF-16 units.
const NAME_MAX: usize = 36;
/// How the header of a table begins.
const SIGNATURE: &[u8; 8] = b"EFI PART";

/// A volume that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A volume of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it lies, in bytes.
    pub place: Range<u64>,
    /// Its identity.
    pub id: Uuid,
}

/// A table that was read.
#[derive(Clone, Debug)]
pub struct Table {
    /// Bytes of a sector.
    pub sector: u32,
    /// The disk's identity.
    pub id: Uuid,
    /// Its volumes, in the order of the table.
    pub volumes: Vec<Volume>,
    /// What is wrong with it, in sentences; empty for a whole table.
    pub faults: Vec<String>,
}

/// An identity that follows from words, so that equal inputs give equal disks.
pub fn guid(words: &[&str]) -> Uuid {
    let hash = Sha256::digest(words.join("\0"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Judges what a volume is to be called.
pub fn judge_name(name: &str) -> Result<()> {
    let fits = cloister_manifest::names::is_identifier(name, NAME_MAX);
    if !fits {
        bail!(
            "`{name}` is no name of a volume; write a lower-case letter followed by at most \
             {} lower-case letters, digits and dashes",
            NAME_MAX - 1
        );
    }
    Ok(())
}

/// The bytes that a disk needs for these volumes and its table.
pub fn disk_bytes(volumes: &[Wanted]) -> u64 {
    let room = |volume: &Wanted| volume.bytes.next_multiple_of(ALIGN);
    volumes.iter().map(room).fold(2 * RESERVED, u64::saturating_add)
}

fn size_of_sector(sector: u32) -> Result<LogicalBlockSize> {
    match sector {
        512 => Ok(LogicalBlockSize::Lb512),
        4096 => Ok(LogicalBlockSize::Lb4096),
        other => bail!("a sector of {other} bytes: it has 512 or 4096"),
    }
}

/// Writes a new table with these volumes over whatever the file holds at its ends.
pub fn write(file: &File, sector: u32, id: Uuid, volumes: &[Wanted]) -> Result<()> {
    let size = size_of_sector(sector)?;
    let bytes = file.metadata().context("cannot read a disk's size")?.len();
    if bytes % ALIGN != 0 || bytes < 2 * RESERVED {
        bail!("a disk of {bytes} bytes: its size is a multiple of 1 MiB and at least 2 MiB");
    }
    let last = u32::try_from(bytes / u64::from(sector) - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut &*file)
        .map_err(|error| anyhow!("cannot write the first sector: {error}"))?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(size)
        .create_from_device(file, Some(id))
        .context("cannot make a partition table")?;
    place(&mut disk, bytes, volumes)?;
    disk.write().context("cannot write the partition table").map(drop)
}

/// Adds volumes to the table of a disk.
pub fn add(file: &File, volumes: &[Wanted]) -> Result<()> {
    let table = read(file)?;
    if let Some(fault) = table.faults.first() {
        bail!("nothing is added to a damaged partition table: {fault}");
    }
    let bytes = file.metadata().context("cannot read a disk's size")?.len();
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(size_of_sector(table.sector)?)
        .open_from_device(file)
        .context("cannot read the partition table")?;
    place(&mut disk, bytes, volumes)?;
    disk.write().context("cannot write the partition table").map(drop)
}

/// Puts volumes into the free places of a table that is not written yet.
fn place(disk: &mut GptDisk<&File>, bytes: u64, volumes: &[Wanted]) -> Result<()> {
    let sector = disk.logical_block_size().as_u64();
    let mut table: BTreeMap<u32, Partition> = disk.partitions().clone();
    table.retain(|_, entry| entry.is_used());
    for wanted in volumes {
        judge_name(&wanted.name)?;
        if table.values().any(|entry| entry.name == wanted.name) {
            bail!("the disk has a volume `{}` already; names are used once", wanted.name);
        }
        if table.len() == VOLUMES_MAX {
            bail!("the disk has {VOLUMES_MAX} volumes, which is all that its table can hold");
        }
        if wanted.bytes == 0 || wanted.bytes % 4096 != 0 {
            bail!(
                "volume `{}` of {} bytes: guests see blocks of 4096 bytes, so write a multiple",
                wanted.name,
                wanted.bytes
            );
        }
        let busy: Vec<Range<u64>> = table
            .values()
            .map(|entry| entry.first_lba * sector..(entry.last_lba + 1) * sector)
            .collect();
        let Some(start) = free_place(&busy, bytes, wanted.bytes) else {
            bail!(
                "volume `{}` of {} MiB does not fit: the largest free piece of the disk has {} MiB",
                wanted.name,
                wanted.bytes.div_ceil(1 << 20),
                largest_free(&busy, bytes) >> 20
            );
        };
        let entry = Partition {
            part_type_guid: partition_types::LINUX_FS,
            part_guid: guid(&[&disk.guid().to_string(), &wanted.name]),
            first_lba: start / sector,
            last_lba: (start + wanted.bytes) / sector - 1,
            flags: 0,
            name: wanted.name.clone(),
        };
        let number = (1..).find(|number| !table.contains_key(number)).context("no number")?;
        table.insert(number, entry);
    }
    disk.update_partitions(table).context("cannot make the partition table")
}

/// The free pieces of a disk, in order.
fn free_pieces(busy: &[Range<u64>], bytes: u64) -> Vec<Range<u64>> {
    let mut busy = busy.to_vec();
    busy.sort_by_key(|range| range.start);
    let (mut at, mut free) = (RESERVED, Vec::new());
    let end = bytes.saturating_sub(RESERVED);
    for range in busy.into_iter().chain(std::iter::once(end..end)) {
        if range.start > at {
            free.push(at..range.start);
        }
        at = at.max(range.end.next_multiple_of(ALIGN));
    }
    free
}

fn free_place(busy: &[Range<u64>], bytes: u64, wanted: u64) -> Option<u64> {
    let mut free = free_pieces(busy, bytes).into_iter();
    free.find(|piece| piece.end - piece.start >= wanted).map(|piece| piece.start)
}

fn largest_free(busy: &[Range<u64>], bytes: u64) -> u64 {
    let free = free_pieces(busy, bytes).into_iter();
    free.map(|piece| piece.end - piece.start).max().unwrap_or(0)
}

/// Reads a table; the size of a sector is found out.
pub fn read(file: &File) -> Result<Table> {
    let bytes = file.metadata().context("cannot read a disk's size")?.len();
    let has_table = |sector: &u32| {
        let mut found = [0; 8];
        // The first header is in the second sector, the other one in the last.
        let places = [Some(u64::from(*sector)), bytes.checked_sub(u64::from(*sector))];
        places
            .into_iter()
            .flatten()
            .any(|at| file.read_exact_at(&mut found, at).is_ok_and(|()| &found == SIGNATURE))
    };
    let Some(sector) = [512, 4096].into_iter().find(has_table) else {
        bail!(
            "there is no partition table in it (neither for sectors of 512 nor of 4096 bytes)\n  \
             next: cargo xtask volume create FILE web=4GiB makes a new file that has one"
        );
    };
    let disk = GptConfig::new()
        .logical_block_size(size_of_sector(sector)?)
        .open_from_device(file)
        .map_err(|error| anyhow!("its partition table is damaged at both ends: {error}"))?;
    let mut faults = Vec::new();
    for (which, header) in [("first", disk.primary_header()), ("second", disk.backup_header())] {
        if let Err(error) = header {
            faults.push(format!("the {which} copy of the partition table is damaged: {error}"));
        }
    }
    let mut volumes = Vec::new();
    for (number, entry) in disk.partitions().iter().filter(|(_, entry)| entry.is_used()) {
        let at = |lba: u64| lba.checked_mul(u64::from(sector));
        let end = entry.last_lba.checked_add(1).and_then(at);
        match (at(entry.first_lba), end) {
            (Some(start), Some(end)) if start < end && end <= bytes => {
                volumes.push(Volume {
                    name: entry.name.clone(),
                    place: start..end,
                    id: entry.part_guid,
                });
            }
            _ => faults.push(format!(
                "entry {number}, `{}`, lies at sectors {} to {}, outside of the disk",
                entry.name, entry.first_lba, entry.last_lba
            )),
        }
    }
    faults.extend(conflicts(&volumes));
    Ok(Table { sector, id: *disk.guid(), volumes, faults })
}

/// What volumes have in common that they should not.
fn conflicts(volumes: &[Volume]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, one) in volumes.iter().enumerate() {
        for two in volumes.iter().skip(index + 1) {
            if one.place.start < two.place.end && two.place.start < one.place.end {
                found.push(format!("volumes `{}` and `{}` overlap", one.name, two.name));
            }
            if one.name == two.name {
                found.push(format!("two volumes are called `{}`", one.name));
            }
        }
        if one.place.start % 4096 != 0 || one.place.end % 4096 != 0 {
            found.push(format!(
                "volume `{}` does not begin and end at a block of 4096 bytes, which guests see",
                one.name
            ));
        }
    }
    found
}

impl Table {
    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<&Volume> {
        let names = || self.volumes.iter().map(|volume| volume.name.as_str());
        self.volumes.iter().find(|volume| volume.name == name).with_context(|| {
            format!(
                "there is no volume `{name}`: {}the disk has {}",
                did_you_mean(name, names()),
                listed(names())
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(name: &str, mib: u64) -> Wanted {
        Wanted { name: name.to_owned(), bytes: mib << 20 }
    }

    fn disk(mib: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(mib << 20).expect("a size");
        file
    }

    #[test]
    fn a_table_reads_back_in_both_sizes_of_sector() {
        for sector in [512, 4096] {
            let file = disk(64);
            let volumes = [wanted("web", 16), wanted("db", 3), wanted("rest", 43)];
            write(&file, sector, guid(&["x"]), &volumes).expect("written");
            let table = read(&file).expect("read");
            assert_eq!((table.sector, table.id), (sector, guid(&["x"])));
            assert!(table.faults.is_empty(), "{:?}", table.faults);
            let found: Vec<(&str, Range<u64>)> =
                table.volumes.iter().map(|v| (v.name.as_str(), v.place.clone())).collect();
            let mib = |start: u64, end: u64| start << 20..end << 20;
            assert_eq!(found, [("web", mib(1, 17)), ("db", mib(17, 20)), ("rest", mib(20, 63))]);
            let mut first = [0; 512];
            file.read_exact_at(&mut first, 0).expect("read");
            assert_eq!((first[450], &first[510..]), (0xee, &[0x55, 0xaa][..]), "protective record");
        }
    }

    #[test]
    fn equal_inputs_give_equal_disks() {
        let make = || {
            let file = disk(8);
            write(&file, 512, guid(&["a"]), &[wanted("v", 2)]).expect("written");
            crate::disk::extent::sha256(&file, 0..8 << 20).expect("a hash")
        };
        assert_eq!(make(), make());
        assert_ne!(guid(&["a", "b"]), guid(&["ab"]));
    }

    #[test]
    fn volumes_are_added_behind_what_is_there() {
        let file = disk(16);
        write(&file, 4096, guid(&["x"]), &[wanted("a", 2), wanted("b", 2)]).expect("written");
        let before = read(&file).expect("read");
        add(&file, &[wanted("c", 4)]).expect("added");
        let after = read(&file).expect("read");
        assert_eq!(after.volumes[..2], before.volumes[..]);
        assert_eq!(after.volume("c").expect("there").place, 5 << 20..9 << 20);
        assert_eq!(after.id, before.id);
        let error = after.volume("d").expect_err("absent").to_string();
        assert!(error.contains("the disk has `a`, `b` and `c`"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let cases: [(&[Wanted], &str); 6] = [
            (&[wanted("a", 7)], "does not fit: the largest free piece of the disk has 6 MiB"),
            (&[wanted("a", 1), wanted("a", 1)], "has a volume `a` already"),
            (&[wanted("A", 1)], "`A` is no name of a volume"),
            (&[wanted("", 1)], "`` is no name of a volume"),
            (&[wanted("a", 0)], "volume `a` of 0 bytes"),
            (&[Wanted { name: "a".into(), bytes: 512 }], "blocks of 4096 bytes"),
        ];
        for (volumes, expected) in cases {
            let error =
                write(&disk(8), 512, guid(&["x"]), volumes).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = write(&disk(8), 1024, guid(&["x"]), &[]).expect_err("sector").to_string();
        assert_eq!(error, "a sector of 1024 bytes: it has 512 or 4096");
        assert!(read(&disk(8)).is_err(), "no table");
    }

    #[test]
    fn damage_is_found() {
        let file = disk(8);
        write(&file, 512, guid(&["x"]), &[wanted("a", 2)]).expect("written");
        file.write_all_at(&[0; 8], 512).expect("damaged");
        let table = read(&file).expect("the second copy is whole");
        assert_eq!(table.volumes.len(), 1);
        assert!(table.faults[0].starts_with("the first copy of the partition table"));
        assert!(add(&file, &[wanted("b", 1)]).is_err(), "nothing is added to it");
        let volume =
            |name: &str, place: Range<u64>| Volume { name: name.into(), place, id: Uuid::nil() };
        let found =
            conflicts(&[volume("a", 0..8192), volume("a", 4096..12288), volume("b", 512..1024)]);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    proptest! {
        #[test]
        fn volumes_never_touch(
            sizes in proptest::collection::vec(1_u64..2000, 1..20),
            four in any::<bool>(),
        ) {
            let volumes: Vec<Wanted> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| Wanted { name: format!("v{index}"), bytes: size * 4096 })
                .collect();
            let file = tempfile::tempfile().expect("a file");
            file.set_len(disk_bytes(&volumes)).expect("a size");
            let sector = if four { 4096 } else { 512 };
            write(&file, sector, guid(&["x"]), &volumes).expect("they fit by disk_bytes");
            let table = read(&file).expect("read");
            prop_assert!(table.faults.is_empty());
            for (volume, wanted) in table.volumes.iter().zip(&volumes) {
                prop_assert_eq!(&volume.name, &wanted.name);
                prop_assert_eq!(volume.place.end - volume.place.start, wanted.bytes);
                prop_assert_eq!(volume.place.start % ALIGN, 0);
            }
        }
    }
}
