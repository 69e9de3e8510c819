//! `cargo xtask gdb`: an appliance in QEMU, halted before its first instruction, under gdb.
//!
//! gdb takes xtask's place, so that the terminal is gdb's alone; QEMU ends with gdb. What the
//! appliance writes to its serial port goes to a file.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Programs};
use crate::emulators::{self, Wanted};
use crate::install::{Install, say};
use crate::paths;

/// Boots an appliance under gdb, halted before its first instruction
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder below images/, or a path to an appliance.toml
    appliance: String,
    /// Load this task's symbols too and stop at its start
    task: Option<String>,
    /// The port of 127.0.0.1 for gdb; a free one unless given
    #[arg(long)]
    port: Option<u16>,
    /// Which QEMU: 7.2, 10.0 or a path; otherwise the best that is here
    #[arg(long, default_value = "best")]
    qemu: Wanted,
    /// Only print the commands for QEMU and gdb
    #[arg(long)]
    print: bool,
    /// Fetch nothing: if something is missing, print the command that would fetch it and fail
    #[arg(long)]
    no_install: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let install = Install::unless(args.no_install);
    if !args.print && paths::program("gdb").is_none() {
        bail!("gdb is not in PATH\n  next: apt-get install gdb, or cargo xtask gdb --print");
    }
    let qemu = emulators::ensure(&args.qemu, install)?;
    let mut appliance = Appliance::build(&args.appliance, install)?;
    let port = args.port.map_or_else(free_port, Ok)?;
    appliance.machine.gdb_port = Some(port);
    let commands = gdb_commands(&appliance.programs()?, args.task.as_deref(), port)?;
    let serial = paths::target().join("gdb-serial.log");
    let mut machine = appliance.machine.detached(&qemu, &serial);
    if args.print {
        println!("# the machine:\n{machine:?}\n# in gdb:\n{}", commands.join("\n"));
        return Ok(());
    }
    say(&format!("the serial port goes to {}", paths::shown(&serial)));
    let child = machine.spawn().with_context(|| format!("cannot start {}", qemu.program.display()));
    drop(child?); // Its leash ends it when gdb, which is about to take this process, ends.
    let mut gdb = Command::new("gdb");
    gdb.arg("-q").env_remove("LD_LIBRARY_PATH").current_dir(paths::root());
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    Err(gdb.exec()).context("cannot start gdb")
}

/// A port that nothing listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port of 127.0.0.1 is free")?;
    Ok(listener.local_addr()?.port())
}

/// What gdb is told: symbols, the connection, where to stop.
fn gdb_commands(programs: &Programs, task: Option<&str>, port: u16) -> Result<Vec<String>> {
    let mut commands = vec![
        "set pagination off".to_owned(),
        "set confirm off".to_owned(),
        "set disassembly-flavor intel".to_owned(),
        // The machine starts in 32-bit mode; all symbols are of 64-bit programs.
        "set architecture i386:x86-64".to_owned(),
        format!("file {}", programs.kernel.display()),
    ];
    let task = match task {
        None => None,
        Some(name) => Some(programs.task(name)?),
    };
    if let Some(elf) = task {
        commands.push(format!("add-symbol-file {}", elf.display()));
    }
    commands.push(format!("target remote 127.0.0.1:{port}"));
    // Only a hardware breakpoint holds before the code is in its place.
    commands.push(format!("hbreak *{:#x}", entry_point(&programs.kernel)?));
    if let Some(elf) = task {
        commands.push(format!("hbreak *{:#x}", entry_point(elf)?));
    }
    commands.push("continue".to_owned());
    Ok(commands)
}

/// The address at which a 64-bit ELF program starts.
fn entry_point(elf: &Path) -> Result<u64> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let field = bytes.get(24..32).and_then(|field| field.try_into().ok());
    match field.map(u64::from_le_bytes) {
        Some(entry) if bytes.starts_with(b"\x7fELF\x02") => Ok(entry),
        _ => bail!("{} is no 64-bit ELF file", elf.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::{entry_point, gdb_commands};
    use crate::appliance::Programs;

    #[test]
    fn gdb_stops_at_the_kernel_and_at_the_task() {
        let folder = tempfile::tempdir().unwrap();
        let mut elf = b"\x7fELF\x02\x01\x01\x00".to_vec();
        elf.resize(24, 0);
        elf.extend_from_slice(&0x40_1000_u64.to_le_bytes());
        let path = folder.path().join("elf");
        std::fs::write(&path, &elf).unwrap();
        let tasks = vec![("init".to_owned(), path.clone())];
        let programs = Programs { kernel: path.clone(), tasks, monitor: None };
        let commands = gdb_commands(&programs, Some("init"), 1234).unwrap();
        assert_eq!(commands.iter().filter(|c| *c == "hbreak *0x401000").count(), 2);
        assert!(commands.contains(&"target remote 127.0.0.1:1234".to_owned()));
        assert!(gdb_commands(&programs, Some("nope"), 1).unwrap_err().to_string().contains("init"));
        std::fs::write(&path, "text").unwrap();
        assert!(entry_point(&path).is_err());
    }
}
