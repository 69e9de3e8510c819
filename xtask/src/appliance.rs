//! An appliance from its name to a machine that can be started, and its serial stream as lines.
//!
//! The one place where running, testing and measuring meet the image builder and the log decoder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cloister_logview::{Event, Screen, Shown, Viewer};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::commands::build_image::{self, BuiltImage};
use crate::disk::file::MachineFile;
use crate::disk::make::{self, Keep};
use crate::install::Install;
use crate::machine::Machine;

/// A built appliance.
pub struct Appliance {
    /// The machine that its manifest asks for.
    pub machine: Machine,
    /// The folder with every ELF of the image, for decoding and debugging.
    pub archive: Option<PathBuf>,
    /// What `machine.toml` says of it.
    pub file: MachineFile,
}

impl From<BuiltImage> for Appliance {
    fn from(built: BuiltImage) -> Self {
        let mut machine = Machine::new(built.image);
        (machine.cpus, machine.memory_mib) = (built.cores, built.memory_mib);
        machine.patches_code = built.patches_code;
        Self { machine, archive: Some(built.archive), file: built.machine_file }
    }
}

impl Appliance {
    /// Builds an appliance: the name of a folder below `images/`, or a path.
    pub fn build(name: &str, install: Install) -> Result<Self> {
        Ok(Self::from(build_image::build(name, install)?))
    }

    /// Builds it with features of bare-metal packages, like `cloister-kernel/flush-checker`.
    pub fn build_with(name: &str, features: &[&str], install: Install) -> Result<Self> {
        Ok(Self::from(build_image::build_with(name, features, install)?))
    }

    /// An image that was built before, without its archive: its stream is shown as plain text.
    pub fn prebuilt(image: &Path) -> Result<Self> {
        let image = std::fs::canonicalize(image)
            .with_context(|| format!("cannot read the image {}", image.display()))?;
        Ok(Self { machine: Machine::new(image), archive: None, file: MachineFile::default() })
    }

    /// Gives the machine its disks, whose files are in a folder of this name beside the image.
    pub fn attach_disks(&mut self, folder: &str, keep: Keep, install: Install) -> Result<()> {
        if self.file.disks.is_empty() {
            return Ok(());
        }
        let built = self.archive.as_ref().context("an image alone has no disks")?;
        self.machine.disks = make::all(&self.file.disks, &built.join(folder), keep, install)?;
        Ok(())
    }

    /// The programs in the image.
    pub fn programs(&self) -> Result<Programs> {
        let archive = self.archive.as_ref().context("an image alone names no programs")?;
        Programs::read(archive)
    }

    /// What tells this kernel from every other: the head of the hash of its ELF.
    pub fn kernel_build_id(&self) -> Result<String> {
        hash_head(&self.programs()?.kernel)
    }

    /// The same for the monitor; none in an appliance without virtual machines.
    pub fn monitor_build_id(&self) -> Result<Option<String>> {
        self.programs()?.monitor.as_deref().map(hash_head).transpose()
    }

    /// A decoder for one run.
    pub fn decoder(&self, color: bool) -> Result<Decoder> {
        let viewer = match &self.archive {
            Some(archive) => Some(
                Viewer::open(archive)
                    .with_context(|| format!("cannot read the archive {}", archive.display()))?,
            ),
            None => None,
        };
        Ok(Decoder { viewer, rest: Vec::new(), screen: Screen::new(color) })
    }
}

/// The programs of an image, as its archive names them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The kernel's ELF.
    pub kernel: PathBuf,
    /// Name and ELF of every task.
    pub tasks: Vec<(String, PathBuf)>,
    /// The monitor of its virtual machines, if it has any.
    pub monitor: Option<PathBuf>,
}

/// The program of tasks that run a virtual machine.
const MONITOR: &str = "monitor";

/// The first eight bytes of a file's hash.
fn hash_head(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let hash = Sha256::digest(&bytes);
    Ok(hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// `archive.json`, as far as it is needed here.
#[derive(Deserialize)]
struct ArchiveFile {
    kernel: PathBuf,
    #[serde(default)]
    tasks: Vec<ArchiveTask>,
}

#[derive(Deserialize)]
struct ArchiveTask {
    name: String,
    program: String,
    elf: PathBuf,
}

impl Programs {
    /// Reads an archive folder.
    fn read(archive: &Path) -> Result<Self> {
        let path = archive.join("archive.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let file: ArchiveFile = serde_json::from_str(&text)
            .with_context(|| format!("{} is no archive of this version", path.display()))?;
        let monitor = file.tasks.iter().find(|task| task.program == MONITOR);
        let monitor = monitor.map(|task| archive.join(&task.elf));
        let tasks = file.tasks.into_iter().map(|task| (task.name, archive.join(task.elf)));
        Ok(Self { kernel: archive.join(file.kernel), tasks: tasks.collect(), monitor })
    }

    /// A task's ELF.
    pub fn task(&self, name: &str) -> Result<&Path> {
        let found = self.tasks.iter().find(|(task, _)| task == name);
        found.map(|(_, elf)| elf.as_path()).with_context(|| {
            let known: Vec<&str> = self.tasks.iter().map(|(task, _)| task.as_str()).collect();
            format!("the appliance has no task `{name}`; it has {}", known.join(", "))
        })
    }
}

/// One thing that the stream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// For people, coloured if that was asked for. It may have several lines.
    pub text: String,
    /// Whether a line end follows; not so for what a guest draws on a terminal.
    pub ends_line: bool,
    /// A measured number, if the line is one.
    pub number: Option<Number>,
}

/// A number that an appliance measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// Its key in `bench --json`.
    pub key: String,
    /// Its value.
    pub value: u64,
    /// Its unit.
    pub unit: String,
}

/// Turns the serial stream into lines.
pub struct Decoder {
    /// None for an image without its archive, whose stream is then split at line ends alone.
    viewer: Option<Viewer>,
    rest: Vec<u8>,
    screen: Screen,
}

impl Decoder {
    /// The lines that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        if let Some(viewer) = &mut self.viewer {
            let events = viewer.feed(bytes);
            return events.iter().flat_map(|event| lines(&mut self.screen, event)).collect();
        }
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let complete: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(plain(&complete));
        }
        lines
    }

    /// What is left when the stream ended in the middle of a line.
    pub fn finish(&mut self) -> Vec<Line> {
        if let Some(viewer) = &mut self.viewer {
            let events = viewer.finish();
            let mut all: Vec<Line> =
                events.iter().flat_map(|event| lines(&mut self.screen, event)).collect();
            all.extend(self.screen.end_line().into_iter().map(|shown| line(shown, None)));
            return all;
        }
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Vec::new() } else { vec![plain(&rest)] }
    }
}

fn lines(screen: &mut Screen, event: &Event) -> Vec<Line> {
    let mut all: Vec<Line> =
        screen.show(event).into_iter().map(|shown| line(shown, None)).collect();
    if let (Event::Bench { key, value, unit }, Some(last)) = (event, all.last_mut()) {
        last.number = Some(Number { key: key.clone(), value: *value, unit: unit.clone() });
    }
    all
}

fn line(shown: Shown, number: Option<Number>) -> Line {
    Line { text: shown.text, ends_line: shown.ends_line, number }
}

fn plain(bytes: &[u8]) -> Line {
    let text = String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned();
    Line { text, ends_line: true, number: None }
}
