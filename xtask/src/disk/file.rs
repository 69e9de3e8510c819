//! `machine.toml`: which disks the emulated machine of an appliance has, and who types what.
//!
//! It stands beside `appliance.toml`, because a board file says what exists and this one makes it
//! exist; docs/disks.md describes the keys. Key types: [`MachineFile`], [`Disk`]. Invariant: every
//! message names the file, the line and the key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use cloister_manifest::names::{did_you_mean, is_identifier, listed};
use cloister_manifest::quantity::{Written, size_bytes};
use cloister_manifest::report::{Problem, Problems, Source, Span};
use serde::Deserialize;
use toml::Spanned;

use super::cipher::Secret;
use super::table::{self, Wanted};
use crate::paths;
use crate::testing::keys::Keys;

/// Version of the file's format.
const FORMAT: i64 = 1;
/// Most disks: root ports that the machine has room for.
pub const DISKS_MAX: usize = 8;

/// The file as serde reads it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: Spanned<i64>,
    #[serde(default)]
    disks: Vec<RawDisk>,
    #[serde(default)]
    keys: Vec<Keys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDisk {
    name: Spanned<String>,
    model: Spanned<String>,
    size: Option<Spanned<Written>>,
    sector: Option<Spanned<i64>>,
    volumes: Option<Vec<RawVolume>>,
    controller: Option<Spanned<String>>,
    functions: Option<Spanned<i64>>,
    detached: Option<Spanned<bool>>,
    #[serde(default)]
    faults: Vec<Fault>,
    throttle: Option<RawThrottle>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: Spanned<String>,
    size: Spanned<Written>,
    root: Option<Spanned<String>>,
    sums: Option<Spanned<String>>,
    blocks: Option<u64>,
    key: Option<Spanned<String>>,
    passphrase: Option<Spanned<String>>,
    erased: Option<Erased>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThrottle {
    iops: Option<u64>,
    bandwidth: Option<Spanned<Written>>,
}

/// When an encrypted volume is erased.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Erased {
    /// Before the run.
    Before,
    /// By the run: afterwards the host looks whether it is.
    ByRun,
}

/// An error that the emulator makes when the disk is used.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The kind of request.
    pub on: FaultOn,
    /// A sector of 512 bytes that the request touches; none for any.
    #[serde(default)]
    pub sector: Option<u64>,
    /// The host's number of the error, like 5 (EIO) or 28 (ENOSPC).
    pub errno: u32,
    /// The first such request alone.
    #[serde(default)]
    pub once: bool,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum FaultOn {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A deallocation.
    Discard,
    /// A write of zeroes.
    WriteZeroes,
}

/// What a disk is, for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// An NVMe controller with its first namespace.
    Nvme {
        /// SR-IOV virtual functions.
        functions: u32,
        /// The namespace is attached to no controller at the start.
        detached: bool,
    },
    /// A further namespace of an NVMe controller.
    Namespace {
        /// The disk with the controller.
        controller: String,
        /// As above.
        detached: bool,
    },
    /// An AHCI controller with one disk.
    Ahci,
    /// A virtio block device.
    Virtio,
}

/// The most that a disk does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Requests.
    pub iops: Option<u64>,
    /// Bytes.
    pub bandwidth: Option<u64>,
}

/// A disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name, for messages and for the emulator.
    pub name: String,
    /// What it is.
    pub model: Model,
    /// Its size.
    pub bytes: u64,
    /// Bytes of a sector.
    pub sector: u32,
    /// Its volumes; none for a disk without a partition table.
    pub volumes: Option<Vec<Volume>>,
    /// Errors that it makes.
    pub faults: Vec<Fault>,
    /// How fast it is at most.
    pub throttle: Throttle,
    /// More properties of its emulated device, like `num-queues=2`.
    pub options: Vec<String>,
}

/// A volume of a disk, and what is in it at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Name and size.
    pub wanted: Wanted,
    /// The root filesystem in it; none for zeroes.
    pub root: Option<String>,
    /// A file of that filesystem that holds, after a run, hashes of other files as `sha256sum`
    /// writes them; they have to be true.
    pub sums: Option<String>,
    /// After a run, each block is zeros or one that the micro-guest `guest-disk` wrote with this
    /// seed, whole and in its place; at least one is such.
    pub blocks: Option<u64>,
    /// The volume is encrypted, and this opens it.
    pub key: Option<Secret>,
    /// It is encrypted, and is erased at that time.
    pub erased: Option<Erased>,
}

/// A file that was read.
#[derive(Clone, Debug, Default)]
pub struct MachineFile {
    /// The disks, in the order of the root ports that they are behind.
    pub disks: Vec<Disk>,
    /// What is typed in a run without a person at the keyboard.
    pub keys: Vec<Keys>,
}

impl MachineFile {
    /// The file beside a manifest; a machine without one has no disks.
    pub fn beside(manifest: &Path) -> Result<Self> {
        let path = manifest.with_file_name("machine.toml");
        if path.is_file() { Self::read(&path) } else { Ok(Self::default()) }
    }

    /// Reads and judges a file.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = paths::shown(path);
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&shown, path.parent().unwrap_or(Path::new(".")), text)
    }

    fn parse(shown: &str, folder: &Path, text: String) -> Result<Self> {
        let reader = Reader { source: Source::new(shown, text), folder: folder.to_owned() };
        reader.file().map_err(|problem| {
            let mut problems = Problems::new(shown);
            problems.push(problem);
            let text = problems.render();
            // The last line names the command for manifests.
            let report = text.trim_end().rsplit_once('\n').map_or(text.as_str(), |(head, _)| head);
            anyhow!("the machine's file cannot be used\n{report}\nnext: correct it and start again")
        })
    }
}

struct Reader {
    source: Source,
    /// What files are relative to.
    folder: PathBuf,
}

impl Reader {
    fn wrong(&self, span: Span, message: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem::new(&self.source, span, message, "here", help)
    }

    fn file(&self) -> Result<MachineFile, Problem> {
        let raw: Raw = cloister_manifest::parse(&self.source)?;
        if *raw.format.get_ref() != FORMAT {
            let message =
                format!("the file has format {}, this xtask reads {FORMAT}", raw.format.get_ref());
            return Err(self.wrong(raw.format.span(), message, "write: format = 1"));
        }
        let mut disks: Vec<Disk> = Vec::new();
        for raw in raw.disks {
            let span = raw.name.span();
            let disk = self.disk(raw, &disks)?;
            if disks.iter().any(|other| other.name == disk.name) {
                let message = format!("two disks are called `{}`", disk.name);
                return Err(self.wrong(span, message, "give each a name of its own"));
            }
            disks.push(disk);
            if disks.len() > DISKS_MAX {
                let help = format!("a machine has at most {DISKS_MAX}");
                return Err(self.wrong(span, "there are too many disks", help));
            }
        }
        Ok(MachineFile { disks, keys: raw.keys })
    }

    fn disk(&self, raw: RawDisk, before: &[Disk]) -> Result<Disk, Problem> {
        let name = raw.name.get_ref().clone();
        if !is_identifier(&name, 16) {
            let help =
                "write a lower-case letter and at most 15 lower-case letters, digits, dashes";
            return Err(self.wrong(raw.name.span(), format!("`{name}` is no name"), help));
        }
        let model = self.model(&raw, before)?;
        let sector = match &raw.sector {
            None => 512,
            Some(sector) => match *sector.get_ref() {
                512 => 512,
                4096 if model != Model::Ahci => 4096,
                other => {
                    let message = format!("sectors of {other} bytes");
                    let help = "write 512 or 4096; the emulated AHCI disk has 512 alone";
                    return Err(self.wrong(sector.span(), message, help));
                }
            },
        };
        let volumes = match raw.volumes {
            None => None,
            Some(list) => {
                let read = list.iter().map(|volume| self.volume(volume));
                Some(read.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let wanted: Vec<Wanted> =
            volumes.iter().flatten().map(|volume: &Volume| volume.wanted.clone()).collect();
        let needed = table::disk_bytes(&wanted);
        let bytes = match &raw.size {
            Some(size) => self.size(size)?,
            None if volumes.is_some() => needed,
            None => {
                let message = format!("disk `{name}` has neither `size` nor `volumes`");
                return Err(self.wrong(raw.name.span(), message, "write: size = \"64MiB\""));
            }
        };
        let is_small = volumes.is_some() && bytes < needed;
        if bytes == 0 || !bytes.is_multiple_of(1 << 20) || is_small {
            let message = format!("a disk of {bytes} bytes");
            let help = format!("write a multiple of 1MiB; its volumes need {}MiB", needed >> 20);
            let span = raw.size.as_ref().map_or(raw.name.span(), Spanned::span);
            return Err(self.wrong(span, message, help));
        }
        let throttle = self.throttle(raw.throttle)?;
        let (faults, options) = (raw.faults, raw.options);
        Ok(Disk { name, model, bytes, sector, volumes, faults, throttle, options })
    }

    fn model(&self, raw: &RawDisk, before: &[Disk]) -> Result<Model, Problem> {
        let word = raw.model.get_ref().as_str();
        let detached = raw.detached.as_ref().is_some_and(|detached| *detached.get_ref());
        let (model, allowed): (Model, &[&str]) = match word {
            "nvme" => {
                let functions = raw.functions.as_ref().map_or(0, |number| *number.get_ref());
                let Some(functions) = u32::try_from(functions).ok().filter(|many| *many <= 32)
                else {
                    let span = raw.functions.as_ref().map_or(0..0, Spanned::span);
                    let message = format!("{functions} virtual functions");
                    return Err(self.wrong(span, message, "write a number from 0 to 32"));
                };
                (Model::Nvme { functions, detached }, &["functions", "detached"])
            }
            "namespace" => {
                let controller = self.controller(raw, before)?;
                (Model::Namespace { controller, detached }, &["controller", "detached"])
            }
            "ahci" => (Model::Ahci, &[]),
            "virtio" => (Model::Virtio, &[]),
            other => {
                let known = ["nvme", "namespace", "ahci", "virtio"];
                let help = format!("{}models are {}", did_you_mean(other, known), listed(known));
                let message = format!("`model` is `{other}`, which is unknown");
                return Err(self.wrong(raw.model.span(), message, help));
            }
        };
        let present = [
            ("controller", raw.controller.as_ref().map(Spanned::span)),
            ("functions", raw.functions.as_ref().map(Spanned::span)),
            ("detached", raw.detached.as_ref().map(Spanned::span)),
        ];
        for (key, span) in present {
            if let Some(span) = span.filter(|_| !allowed.contains(&key)) {
                let message = format!("`{key}` does not belong to a disk of model `{word}`");
                return Err(self.wrong(span, message, "remove the key"));
            }
        }
        Ok(model)
    }

    fn controller(&self, raw: &RawDisk, before: &[Disk]) -> Result<String, Problem> {
        let Some(name) = &raw.controller else {
            let help = "write: controller = \"nvme0\", a disk of model `nvme` above this one";
            let message = "a namespace without its controller";
            return Err(self.wrong(raw.model.span(), message, help));
        };
        let is_it =
            |disk: &Disk| disk.name == *name.get_ref() && matches!(disk.model, Model::Nvme { .. });
        if !before.iter().any(is_it) {
            let message = format!("there is no NVMe disk `{}` above this one", name.get_ref());
            return Err(self.wrong(name.span(), message, "name a disk of model `nvme`"));
        }
        Ok(name.get_ref().clone())
    }

    fn volume(&self, raw: &RawVolume) -> Result<Volume, Problem> {
        let name = raw.name.get_ref().clone();
        table::judge_name(&name).map_err(|error| {
            self.wrong(raw.name.span(), error.to_string(), "the name is the partition's too")
        })?;
        let bytes = self.size(&raw.size)?;
        if bytes == 0 || !bytes.is_multiple_of(4096) {
            let help = "guests see blocks of 4096 bytes, so write a multiple of 4KiB";
            return Err(self.wrong(raw.size.span(), format!("a volume of {bytes} bytes"), help));
        }
        if let (Some(sums), None) = (&raw.sums, &raw.root) {
            let message = "`sums` names a file of a root filesystem, and there is none";
            return Err(self.wrong(sums.span(), message, "write `root` too, or remove `sums`"));
        }
        let key = self.secret(raw)?;
        if raw.erased.is_some() && key.is_none() {
            let message = "`erased` is for an encrypted volume, and there is no `key`";
            return Err(self.wrong(
                raw.name.span(),
                message,
                "write `key` too, or remove `erased`",
            ));
        }
        let text = |key: &Option<Spanned<String>>| key.as_ref().map(|key| key.get_ref().clone());
        let (root, sums, blocks) = (text(&raw.root), text(&raw.sums), raw.blocks);
        Ok(Volume { wanted: Wanted { name, bytes }, root, sums, blocks, key, erased: raw.erased })
    }

    /// What opens a volume that is encrypted.
    fn secret(&self, raw: &RawVolume) -> Result<Option<Secret>, Problem> {
        match (&raw.key, &raw.passphrase) {
            (None, None) => Ok(None),
            (Some(file), None) => {
                let secret = Secret::key_file(&self.folder.join(file.get_ref()));
                secret.map(Some).map_err(|error| {
                    self.wrong(file.span(), format!("{error:#}"), "`key` names a file")
                })
            }
            (None, Some(text)) => {
                let secret = Secret::passphrase(text.get_ref().as_bytes());
                secret.map(Some).map_err(|error| {
                    self.wrong(text.span(), format!("{error:#}"), "`passphrase` is what is typed")
                })
            }
            (Some(_), Some(text)) => {
                let message = "a volume has a `key` or a `passphrase`, and this one has both";
                Err(self.wrong(text.span(), message, "remove one of them"))
            }
        }
    }

    fn size(&self, written: &Spanned<Written>) -> Result<u64, Problem> {
        size_bytes(written.get_ref()).map_err(|wrong| {
            self.wrong(written.span(), format!("a size is {}", wrong.found), wrong.right)
        })
    }

    fn throttle(&self, raw: Option<RawThrottle>) -> Result<Throttle, Problem> {
        let Some(raw) = raw else { return Ok(Throttle::default()) };
        let bandwidth = raw.bandwidth.as_ref().map(|written| self.size(written)).transpose()?;
        Ok(Throttle { iops: raw.iops, bandwidth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MachineFile> {
        MachineFile::parse("images/x/machine.toml", Path::new("images/x"), text.to_owned())
    }

    #[test]
    fn each_model_is_read() {
        let file = parse(
            "format = 1\n\
             [[disks]]\nname = \"nvme0\"\nmodel = \"nvme\"\nfunctions = 2\ndetached = true\n\
             volumes = [{ name = \"web\", size = \"8MiB\", root = \"debian\", sums = \"/s\" }]\n\
             [[disks]]\nname = \"second\"\nmodel = \"namespace\"\ncontroller = \"nvme0\"\n\
             size = \"4MiB\"\nsector = 4096\n\
             [[disks]]\nname = \"sata\"\nmodel = \"ahci\"\nsize = \"4MiB\"\n\
             faults = [{ on = \"write-zeroes\", sector = 8, errno = 5, once = true }]\n\
             [[disks]]\nname = \"v\"\nmodel = \"virtio\"\nsize = \"4MiB\"\n\
             throttle = { iops = 10, bandwidth = \"1MiB\" }\noptions = [\"num-queues=2\"]\n\
             [[keys]]\nafter = \"ready\"\nsend = \"x\"\n",
        )
        .expect("good");
        let models: Vec<&Model> = file.disks.iter().map(|disk| &disk.model).collect();
        assert_eq!(models[0], &Model::Nvme { functions: 2, detached: true });
        let controller = "nvme0".to_owned();
        assert_eq!(models[1], &Model::Namespace { controller, detached: false });
        assert_eq!(models[2..], [&Model::Ahci, &Model::Virtio]);
        assert_eq!(file.disks[0].bytes, 10 << 20, "what its volumes need");
        assert_eq!(file.disks[2].faults[0].on, FaultOn::WriteZeroes);
        assert_eq!(file.disks[3].throttle, Throttle { iops: Some(10), bandwidth: Some(1 << 20) });
        assert_eq!(file.keys.len(), 1);
    }

    #[test]
    fn wrong_files_are_refused_with_line_and_help() {
        let disk = "format = 1\n[[disks]]\nname = \"a\"\nmodel = \"nvme\"\n";
        let cases = [
            ("format = 2".to_owned(), 1, "the file has format 2"),
            (disk.replace("nvme", "nvem"), 4, "did you mean `nvme`?"),
            (disk.to_owned(), 3, "has neither `size` nor `volumes`"),
            (format!("{disk}size = 4"), 5, "a size is `4`, which has no unit"),
            (format!("{disk}size = \"1KiB\""), 5, "write a multiple of 1MiB"),
            (format!("{disk}size = \"4MiB\"\nsector = 520"), 6, "sectors of 520 bytes"),
            (
                format!("{disk}size = \"4MiB\"\nsector = 4096").replace("nvme", "ahci"),
                6,
                "the emulated AHCI disk has 512",
            ),
            (format!("{disk}size = \"4MiB\"\ncontroller = \"a\""), 6, "`controller` does not"),
            (
                format!("{disk}size = \"4MiB\"\n").replace("nvme", "namespace"),
                4,
                "a namespace without its controller",
            ),
            (format!("{disk}size = \"4MiB\"\nfunctions = 99"), 6, "from 0 to 32"),
            (format!("{disk}size = \"1MiB\"\nvolumes = []"), 5, "its volumes need 2MiB"),
            (
                format!("{disk}volumes = [{{ name = \"B\", size = \"1MiB\" }}]"),
                5,
                "`B` is no name of a volume",
            ),
            (
                format!("{disk}volumes = [{{ name = \"b\", size = \"1MiB\", sums = \"x\" }}]"),
                5,
                "`sums` names a file of a root filesystem",
            ),
            (
                format!("{disk}volumes = [{{ name = \"b\", size = \"2MiB\", key = \"absent\" }}]"),
                5,
                "cannot read the key images/x/absent",
            ),
            (
                format!("{disk}volumes = [{{ name = \"b\", size = \"2MiB\", passphrase = \"\" }}]"),
                5,
                "a passphrase of 0 bytes",
            ),
            (
                format!(
                    "{disk}volumes = [{{ name = \"b\", size = \"2MiB\", key = \"k\", \
                     passphrase = \"p\" }}]"
                ),
                5,
                "this one has both",
            ),
            (format!("{disk}colour = 1"), 5, "unknown key `colour`"),
            (
                format!(
                    "{disk}size = \"2MiB\"\n[[disks]]\nname = \"a\"\nmodel = \"ahci\"\n\
                         size = \"2MiB\""
                ),
                7,
                "two disks are called `a`",
            ),
        ];
        for (text, line, expected) in cases {
            let error = parse(&text).expect_err(expected).to_string();
            let joined = error.replace("\n  │ ", " ").replace("\n        ", " ");
            assert!(joined.contains(expected), "{expected}: {error}");
            assert!(error.contains(&format!("machine.toml:{line}:")), "{error}");
            assert!(error.ends_with("next: correct it and start again"), "{error}");
        }
    }
}
