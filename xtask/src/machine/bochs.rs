//! A machine in Bochs, the only emulator with Intel VMX: started from a disk, because Bochs loads
//! no kernel, and heard through its serial port until it ends.
//!
//! The disk holds GRUB, whose one command loads the image from the sectors behind it (multiboot2).
//! What Bochs says goes to a log file; why the machine ended is read there. It has no control
//! socket: no keyboard, no non-maskable interrupts, no counted runs, and a reset boots the disk
//! again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::child::{Message, leash, pump};
use super::{END_PATIENCE, End, Flow, Machine, Outcome, Tail};
use crate::emulators::Bochs;
use crate::install::say;

const SECTOR: usize = 512;
/// The sector at which the image begins; GRUB has the space in front of it.
const IMAGE_AT: usize = 2048;
/// A cylinder of 16 heads and 63 sectors: Bochs cuts a disk off at the last whole one.
const CYLINDER: usize = 16 * 63 * SECTOR;
/// What Bochs logs when the machine switches itself off.
const OFF: &str = "ACPI control: soft power off";
/// Set, it keeps the folder of a run, for Bochs' log and its debugger.
const KEEP: &str = "CLOISTER_KEEP";
/// The virtual clock: the kernel takes a time stamp counter below 50 MHz for a wrong measurement.
const INSTRUCTIONS_PER_SECOND: u32 = 60_000_000;

/// Runs the machine to its end.
pub fn run(
    machine: &Machine,
    bochs: &Bochs,
    mut on_serial: impl FnMut(&[u8]) -> Flow,
) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("cloister-").tempdir()?;
    let place = folder.path();
    make_disk(machine, bochs, place)?;
    fs::write(place.join("bochsrc"), configuration(machine))?;
    // The debugger in Debian's Bochs wants to be told to go on, and then to leave.
    fs::write(place.join("commands"), "c\nq\n")?;
    let start = Instant::now();
    let mut child = command(bochs, place).spawn().context("cannot start Bochs through sh")?;
    let stdout = child.stdout.take().context("Bochs has no standard output")?;
    let (sender, messages) = channel();
    let pumping = std::thread::spawn(move || pump(stdout, &sender));
    let deadline = machine.timeout.map(|limit| start + limit);
    let (mut tail, mut ended) = (Tail::default(), None);
    while ended.is_none() {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match messages.recv_timeout(left.unwrap_or(END_PATIENCE)) {
            Ok(Message::Serial(bytes)) => {
                tail.push(&bytes);
                if on_serial(&bytes) == Flow::Stop {
                    ended = Some(End::Stopped);
                }
            }
            Ok(Message::SerialEnded) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) if deadline.is_none() => {}
            Err(RecvTimeoutError::Timeout) => ended = Some(End::Timeout),
        }
        // A guest that talks all the time has a limit too.
        if ended.is_none() && deadline.is_some_and(|at| at <= Instant::now()) {
            ended = Some(End::Timeout);
        }
    }
    if ended.is_some() {
        // Fails only when the process has ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?.to_string();
    // It ends with the process; a panic in it would be one of this program.
    let _ = pumping.join();
    let end = ended.map_or_else(|| end_of(place, status), Ok)?;
    let wall = start.elapsed();
    if std::env::var_os(KEEP).is_some() {
        say(&format!("Bochs ran in {}", folder.keep().display()));
    }
    Ok(Outcome { end, wall, orderly_line: tail.ends_orderly(), watchdog: false })
}

/// Bochs with the serial port on descriptor 3, which is our pipe, and its own words in a file.
fn command(bochs: &Bochs, place: &Path) -> Command {
    let inner = leash(&bochs.program);
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3>&1 >words 2>&1 </dev/null; exec \"$@\"", "bochs"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.args(["-q", "-f", "bochsrc", "-rc", "commands"]);
    command.env_remove("LD_LIBRARY_PATH").current_dir(place);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The disk: GRUB's boot sector and core, and the image.
fn make_disk(machine: &Machine, bochs: &Bochs, place: &Path) -> Result<()> {
    let image = fs::read(&machine.image)
        .with_context(|| format!("cannot read the image {}", machine.image.display()))?;
    let sectors = image.len().div_ceil(SECTOR);
    fs::write(place.join("first.cfg"), format!("multiboot2 (hd0){IMAGE_AT}+{sectors}\nboot\n"))?;
    let output = Command::new(&bochs.grub_mkimage)
        .arg("-d")
        .arg(&bochs.grub_modules)
        .args(["-O", "i386-pc", "-p", "/none", "-c", "first.cfg", "-o", "core.img"])
        .args(["biosdisk", "multiboot2", "boot"])
        .current_dir(place)
        .output()
        .with_context(|| format!("cannot start {}", bochs.grub_mkimage.display()))?;
    if !output.status.success() {
        bail!("grub-mkimage fails: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut disk = fs::read(bochs.grub_modules.join("boot.img"))
        .with_context(|| format!("no boot.img in {}", bochs.grub_modules.display()))?;
    disk.resize(SECTOR, 0);
    disk.extend(fs::read(place.join("core.img"))?);
    if disk.len() > IMAGE_AT * SECTOR {
        bail!("GRUB has {} bytes, {} are left for it", disk.len(), IMAGE_AT * SECTOR);
    }
    disk.resize(IMAGE_AT * SECTOR, 0);
    disk.extend(image);
    disk.resize(disk.len().next_multiple_of(CYLINDER), 0);
    Ok(fs::write(place.join("disk.img"), disk)?)
}

/// The configuration: the 440FX machine of `images/boards/bochs.toml`.
fn configuration(machine: &Machine) -> String {
    let (cpus, memory) = (machine.cpus, machine.memory_mib);
    let mut text = String::from(
        "config_interface: textconfig\n\
         display_library: rfb, options=\"timeout=0\"\n\
         plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1, \
         iodebug=1, gameport=0, e1000=0\n\
         romimage: file=$BXSHARE/BIOS-bochs-latest\n\
         vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest\n\
         magic_break: enabled=1\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path=disk.img, mode=flat\n\
         boot: disk\n\
         pci: enabled=1, chipset=i440fx\n\
         clock: sync=none, time0=local\n\
         com1: enabled=1, mode=file, dev=/dev/fd/3\n\
         log: log\n\
         panic: action=fatal\nerror: action=report\ninfo: action=report\ndebug: action=ignore\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "cpu: model=corei7_skylake_x, count={cpus}, ips={INSTRUCTIONS_PER_SECOND}, \
         reset_on_triple_fault=0\nmemory: guest={memory}, host={memory}"
    );
    text
}

/// Why Bochs ended by itself.
fn end_of(place: &Path, status: String) -> Result<End> {
    // The log is missing when Bochs did not get so far as to open it.
    let log = fs::read_to_string(place.join("log")).unwrap_or_default();
    let words = fs::read_to_string(place.join("words")).unwrap_or_default();
    if log.contains(OFF) || words.contains(OFF) {
        return Ok(End::GuestShutdown);
    }
    let lines: Vec<&str> = words.lines().rev().take(8).collect();
    let stderr = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
    Ok(End::EmulatorFailed { status, stderr })
}

#[cfg(test)]
mod tests {
    use super::{configuration, end_of};
    use crate::machine::{End, Machine};
    use std::path::PathBuf;

    #[test]
    fn the_machine_has_the_processors_and_the_memory_asked_for() {
        let mut machine = Machine::new(PathBuf::from("image"));
        (machine.cpus, machine.memory_mib) = (2, 256);
        let text = configuration(&machine);
        assert!(text.contains("cpu: model=corei7_skylake_x, count=2, ips="));
        assert!(text.contains("\nmemory: guest=256, host=256\n"));
        assert!(text.contains("dev=/dev/fd/3\n"));
    }

    #[test]
    fn only_the_word_of_the_power_controller_is_a_shutdown() {
        let folder = tempfile::tempdir().unwrap();
        let end = || end_of(folder.path(), "exit status: 1".to_owned()).unwrap();
        assert!(matches!(end(), End::EmulatorFailed { .. }));
        std::fs::write(folder.path().join("words"), "(0).[1] triple fault\n").unwrap();
        assert!(matches!(end(), End::EmulatorFailed { stderr, .. } if stderr.contains("triple")));
        std::fs::write(folder.path().join("log"), "[ACPI] ACPI control: soft power off\n").unwrap();
        assert_eq!(end(), End::GuestShutdown);
    }
}
