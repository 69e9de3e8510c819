//! `cargo xtask volume`: images of disks and the volumes in them, on the host.
//!
//! The same tables and root filesystems as those of an emulated machine (`crate::disk`). Nothing
//! that exists is overwritten: a new image is a new file, and volumes are added where none are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use cloister_manifest::quantity::{Written, size_bytes};
use uuid::Uuid;

use crate::disk::cipher::{self, Secret};
use crate::disk::e2fs::Tools;
use crate::disk::table::{self, Table, Volume, Wanted};
use crate::disk::{check, extent, make};
use crate::install::Install;

/// Creates, lists and inspects the volumes of disk images
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make an image with volumes, or add volumes to one that is there
    Create(Create),
    /// Print the volumes of an image
    List(Image),
    /// Encrypt a volume where it lies; interrupted, its content is lost, so work on a copy
    Encrypt(Encrypt),
    /// Erase the keys of an encrypted volume: one write, and nothing brings its data back
    Erase(Erase),
    /// Check an image, its partition table and what is in its volumes; writes nothing
    Inspect(Inspect),
}

#[derive(ClapArgs, Debug)]
struct Create {
    /// The image's file
    image: PathBuf,
    /// The volumes: NAME=SIZE like web=4GiB, or NAME=SIZE,root=debian with a root filesystem
    #[arg(required = true)]
    volumes: Vec<Content>,
    /// Size of a new image, like 16GiB; as large as its volumes need unless given
    #[arg(long, value_parser = bytes)]
    size: Option<u64>,
    /// Bytes of a sector of a new image: 512 or 4096
    #[arg(long)]
    sector: Option<u32>,
    /// Fetch nothing: if something is missing, print the command that would fetch it and fail
    #[arg(long)]
    no_install: bool,
}

#[derive(ClapArgs, Debug)]
struct Image {
    /// The image's file
    image: PathBuf,
}

#[derive(ClapArgs, Debug)]
struct Encrypt {
    /// The image's file
    image: PathBuf,
    /// The volume
    volume: String,
    #[command(flatten)]
    secret: SecretArgs,
}

#[derive(ClapArgs, Debug)]
struct Erase {
    /// The image's file
    image: PathBuf,
    /// The volume
    volume: String,
}

#[derive(ClapArgs, Debug)]
#[group(multiple = false)]
struct SecretArgs {
    /// A file with the key that opens it: 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file whose first line is the passphrase that opens it; - for standard input
    #[arg(long, value_name = "FILE")]
    passphrase: Option<PathBuf>,
}

impl SecretArgs {
    fn secret(&self) -> Result<Option<Secret>> {
        match (&self.key, &self.passphrase) {
            (Some(file), _) => Secret::key_file(file).map(Some),
            (None, Some(file)) if file.as_os_str() == "-" => {
                Secret::passphrase(std::io::stdin().lock()).map(Some)
            }
            (None, Some(file)) => {
                let from =
                    File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
                Secret::passphrase(from).map(Some)
            }
            (None, None) => Ok(None),
        }
    }
}

#[derive(ClapArgs, Debug)]
struct Inspect {
    /// The image's file
    image: PathBuf,
    /// One volume alone
    volume: Option<String>,
    #[command(flatten)]
    secret: SecretArgs,
    /// Fetch nothing: if something is missing, print the command that would fetch it and fail
    #[arg(long)]
    no_install: bool,
}

/// A volume as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    wanted: Wanted,
    root: Option<String>,
}

fn bytes(text: &str) -> Result<u64, String> {
    size_bytes(&Written::Text(text.to_owned()))
        .map_err(|wrong| format!("a size is {}; {}", wrong.found, wrong.right))
}

impl FromStr for Content {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let right = "write NAME=SIZE like web=4GiB, or NAME=SIZE,root=debian";
        let (name, rest) = text.split_once('=').ok_or(right)?;
        table::judge_name(name).map_err(|error| error.to_string())?;
        let (size, root) = match rest.split_once(',') {
            None => (rest, None),
            Some((size, more)) => (size, Some(more.strip_prefix("root=").ok_or(right)?)),
        };
        let wanted = Wanted { name: name.to_owned(), bytes: bytes(size)? };
        Ok(Self { wanted, root: root.map(str::to_owned) })
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (image, result) = match &args.command {
        Command::Create(args) => (&args.image, create(args)),
        Command::List(args) => (&args.image, list(&args.image)),
        Command::Encrypt(args) => (&args.image, encrypt(args)),
        Command::Erase(args) => (&args.image, erase(args)),
        Command::Inspect(args) => (&args.image, inspect(args)),
    };
    result.with_context(|| image.display().to_string())
}

fn create(args: &Create) -> Result<()> {
    let wanted: Vec<Wanted> = args.volumes.iter().map(|content| content.wanted.clone()).collect();
    let file = if args.image.exists() {
        if args.size.is_some() || args.sector.is_some() {
            bail!(
                "it is there already, so its size and sectors are given\n  next: leave out --size \
                 and --sector to add volumes to it, or name another file"
            );
        }
        let file = OpenOptions::new().read(true).write(true).open(&args.image)?;
        table::add(&file, &wanted)?;
        file
    } else {
        new_image(args, &wanted)?
    };
    let install = Install::unless(args.no_install);
    for content in &args.volumes {
        let volume = &content.wanted.name;
        // A hole of a new image is zeros; what an older one holds there is nobody's any more.
        let place = table::read(&file)?.volume(volume)?.place.clone();
        clear(&file, &place)?;
        if let Some(root) = &content.root {
            make::put_root(&file, volume, root, install)
                .with_context(|| format!("volume `{volume}`"))?;
        }
    }
    show(&table::read(&file)?);
    Ok(())
}

/// A new file with a table. What cannot be made leaves no file.
fn new_image(args: &Create, wanted: &[Wanted]) -> Result<File> {
    let needed = table::disk_bytes(wanted);
    let bytes = args.size.unwrap_or(needed);
    if bytes < needed || !bytes.is_multiple_of(1 << 20) {
        bail!(
            "an image of {bytes} bytes; these volumes and their table need {}MiB, and the size is \
             a multiple of 1MiB\n  next: the same command with --size {}MiB, or without --size",
            needed >> 20,
            needed.max(bytes).div_ceil(1 << 20)
        );
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&args.image)?;
    let made = file
        .set_len(bytes)
        .context("cannot set its size")
        .and_then(|()| table::write(&file, args.sector.unwrap_or(512), Uuid::new_v4(), wanted));
    if let Err(error) = made {
        // It is ours: `create_new` fails where a file is.
        let _ = std::fs::remove_file(&args.image);
        return Err(error);
    }
    Ok(file)
}

/// Writes zeros where something is.
fn clear(file: &File, place: &std::ops::Range<u64>) -> Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    for part in extent::filled(file, place.clone())? {
        let mut at = part.start;
        while at < part.end {
            let len = usize::try_from(part.end - at).map_or(ZEROS.len(), |l| l.min(ZEROS.len()));
            file.write_all_at(&ZEROS[..len], at).context("cannot clear a volume")?;
            at += len as u64;
        }
    }
    Ok(())
}

fn opened(image: &Path) -> Result<(File, Table)> {
    let file = File::open(image).context(
        "cannot read the image\n  next: cargo xtask volume create FILE web=4GiB makes one",
    )?;
    let table = table::read(&file)?;
    Ok((file, table))
}

fn encrypt(args: &Encrypt) -> Result<()> {
    let Some(secret) = args.secret.secret()? else {
        bail!(
            "nothing says what opens the volume\n  next: the same command with --key FILE or \
             --passphrase FILE"
        );
    };
    let (_, table) = opened(&args.image)?;
    let place = table.volume(&args.volume)?.place.clone();
    let file = OpenOptions::new().read(true).write(true).open(&args.image)?;
    cipher::encrypt(&file, &place, &secret).with_context(|| format!("volume `{}`", args.volume))
}

fn erase(args: &Erase) -> Result<()> {
    let (_, table) = opened(&args.image)?;
    let place = table.volume(&args.volume)?.place.clone();
    let file = OpenOptions::new().read(true).write(true).open(&args.image)?;
    cipher::erase(&file, &place).with_context(|| format!("volume `{}`", args.volume))
}

fn list(image: &Path) -> Result<()> {
    show(&opened(image)?.1);
    Ok(())
}

/// The volumes, a line for each.
fn show(table: &Table) {
    println!(
        "{:<20} {:>14} {:>14}  identity (sectors of {})",
        "volume", "at", "bytes", table.sector
    );
    for Volume { name, place, id } in &table.volumes {
        println!("{name:<20} {:>14} {:>14}  {id}", place.start, place.end - place.start);
    }
}

fn inspect(args: &Inspect) -> Result<()> {
    let (file, table) = opened(&args.image)?;
    let secret = args.secret.secret()?;
    let only = args.volume.as_deref().map(|name| table.volume(name)).transpose()?;
    let mut faults = table.faults.clone();
    println!("disk {} with sectors of {} bytes", table.id, table.sector);
    let volumes: Vec<&Volume> = only.map_or_else(|| table.volumes.iter().collect(), |v| vec![v]);
    for volume in volumes {
        if let Err(error) = inspect_volume(args, secret.as_ref(), &file, volume) {
            faults.push(format!("volume `{}`: {error:#}", volume.name));
        }
        println!("  sha256 {}", extent::sha256(&file, volume.place.clone())?);
    }
    for fault in &faults {
        println!("fault: {fault}");
    }
    match faults.len() {
        0 => Ok(()),
        many => bail!("{many} faults, see above"),
    }
}

/// Says what a volume holds, and checks it. An encrypted one is opened if a secret is given.
fn inspect_volume(
    args: &Inspect,
    secret: Option<&Secret>,
    file: &File,
    volume: &Volume,
) -> Result<()> {
    let is_encrypted = cipher::header(file, &volume.place)?.is_some();
    let len = volume.place.end - volume.place.start;
    if is_encrypted && secret.is_none() {
        println!("volume {}: {len} bytes, encrypted", volume.name);
        return Ok(());
    }
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let image = folder.path().join("volume");
    let secret = secret.filter(|_| is_encrypted);
    check::take_out(file, volume.place.clone(), secret, &image)?;
    let plain = File::open(&image).context("cannot read the volume")?;
    let content = content(&plain)?;
    let how = if is_encrypted { ", encrypted" } else { "" };
    println!("volume {}: {len} bytes{how}, {content}", volume.name);
    if content == EXT4 {
        Tools::ensure(Install::unless(args.no_install))?.check(&image)?;
    }
    Ok(())
}

/// What a volume with an ext4 file system holds.
const EXT4: &str = "a file system ext4";

/// What is in a volume, by its first bytes.
fn content(file: &File) -> Result<&'static str> {
    let len = file.metadata().context("cannot read the volume")?.len();
    // "Super Block" of the ext4 documentation of Linux: the magic 0xEF53 is 0x38 bytes behind the
    // superblock's begin, and that is 1024 bytes behind the volume's.
    const MAGIC_AT: u64 = 1024 + 0x38;
    let mut magic = [0; 2];
    if len > MAGIC_AT + 2 {
        file.read_exact_at(&mut magic, MAGIC_AT).context("cannot read the volume")?;
    }
    if magic == [0x53, 0xef] {
        return Ok(EXT4);
    }
    let is_zero = |range| {
        let mut zero = true;
        extent::read(file, range, |bytes| {
            zero &= bytes.iter().all(|byte| *byte == 0);
            Ok(())
        })
        .map(|()| zero)
    };
    for part in extent::filled(file, 0..len)? {
        if !is_zero(part)? {
            return Ok("data of another kind");
        }
    }
    Ok("zeros")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(image: &Path, volumes: &[&str], size: Option<u64>) -> Create {
        Create {
            image: image.to_owned(),
            volumes: volumes.iter().map(|text| text.parse().expect(text)).collect(),
            size,
            sector: None,
            no_install: true,
        }
    }

    #[test]
    fn volumes_are_written_as_name_and_size() {
        let content: Content = "web=4MiB,root=debian".parse().expect("good");
        assert_eq!(content.wanted, Wanted { name: "web".into(), bytes: 4 << 20 });
        assert_eq!(content.root.as_deref(), Some("debian"));
        for (text, expected) in [
            ("web", "write NAME=SIZE"),
            ("web=4", "which has no unit"),
            ("Web=4MiB", "`Web` is no name of a volume"),
            ("web=4MiB,debian", "write NAME=SIZE"),
        ] {
            let error = text.parse::<Content>().expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_image_is_made_once_and_grows_by_volumes() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.img");
        create(&arguments(&image, &["web=4MiB"], Some(16 << 20))).expect("made");
        let error = create(&arguments(&image, &["db=1MiB"], Some(16 << 20))).expect_err("size");
        assert!(error.to_string().contains("leave out --size"), "{error}");
        create(&arguments(&image, &["db=1MiB"], None)).expect("added");
        let error = create(&arguments(&image, &["db=1MiB"], None)).expect_err("twice");
        assert!(error.to_string().contains("has a volume `db` already"), "{error}");
        let (_, table) = opened(&image).expect("read");
        assert_eq!(table.volumes.len(), 2);
        list(&image).expect("listed");
        let secret = || SecretArgs { key: None, passphrase: None };
        let inspect_all =
            Inspect { image: image.clone(), volume: None, secret: secret(), no_install: true };
        inspect(&inspect_all).expect("whole");
        let encrypt_web = |secret: SecretArgs| {
            encrypt(&Encrypt { image: image.clone(), volume: "web".into(), secret })
        };
        let error = encrypt_web(secret()).expect_err("no key").to_string();
        assert!(error.contains("with --key FILE"), "{error}");
        let key = folder.path().join("key");
        std::fs::write(&key, "0a".repeat(32)).expect("written");
        let with_key = || SecretArgs { key: Some(key.clone()), passphrase: None };
        encrypt_web(with_key()).expect("encrypted");
        inspect(&inspect_all).expect("whole, closed");
        let opened = Inspect { secret: with_key(), ..inspect_all };
        inspect(&opened).expect("whole, open");
        let erase_one =
            |volume: &str| erase(&Erase { image: image.clone(), volume: volume.to_owned() });
        assert!(erase_one("db").is_err(), "a plain one");
        erase_one("web").expect("erased");
        assert!(inspect(&opened).is_err(), "it opens still");
        std::fs::write(&key, "0b".repeat(32)).expect("written");
        assert!(inspect(&opened).is_err(), "another key");
        let inspect_all = Inspect { secret: secret(), ..opened };
        let file = OpenOptions::new().write(true).open(&image).expect("opened");
        file.write_all_at(b"x", 512).expect("damaged");
        assert!(inspect(&inspect_all).is_err(), "one copy of the table is damaged");
    }

    #[test]
    fn what_cannot_be_made_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.img");
        let error = create(&arguments(&image, &["web=4MiB"], Some(4 << 20))).expect_err("small");
        assert!(error.to_string().contains("--size 6MiB"), "{error}");
        create(&arguments(&image, &["a=1MiB", "a=1MiB"], None)).expect_err("twice");
        assert!(!image.exists());
    }
}
