//! `cargo xtask run`: builds an appliance, boots it in QEMU, shows what it says.
//!
//! Ends with status 0 only if the appliance powered itself off in order, and then its disks are in
//! order too. Without a person at the keyboard the keys of `machine.toml` are typed.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Line};
use crate::disk::check;
use crate::disk::make::Keep;
use crate::emulators::{self, Wanted};
use crate::install::{Install, say};
use crate::machine::{self, Flow};
use crate::terminal;
use crate::testing::keys::Typist;

/// The time limit of a run without a person at the keyboard.
const HEADLESS_SECONDS: u64 = 240;

/// Builds an appliance and boots it in QEMU; fetches what is missing first
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder below images/, or a path to an appliance.toml
    #[arg(default_value = "default")]
    appliance: String,
    /// No keyboard: end with the machine or with the time limit
    #[arg(long)]
    headless: bool,
    /// End the machine after this many seconds (with --headless: 240 unless given)
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Also write the undecoded serial stream to this file
    #[arg(long, value_name = "FILE")]
    serial: Option<PathBuf>,
    /// Processors, instead of as many as the manifest names cores
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Count instructions: two runs are then the same to the bit
    #[arg(long)]
    icount: bool,
    /// Fetch nothing: if something is missing, print the command that would fetch it and fail
    #[arg(long)]
    no_install: bool,
    /// Which QEMU: 7.2, 10.0 or a path; otherwise the best that is here
    #[arg(long, default_value = "best")]
    qemu: Wanted,
    /// Make the disks anew; what is on them is lost
    #[arg(long)]
    fresh: bool,
    /// Boot this image file instead of building the appliance
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let install = Install::unless(args.no_install);
    let qemu = emulators::ensure(&args.qemu, install)?;
    let mut appliance = match &args.image {
        Some(image) => Appliance::prebuilt(image)?,
        None => Appliance::build(&args.appliance, install)?,
    };
    let keep = if args.fresh { Keep::Fresh } else { Keep::Kept };
    appliance.attach_disks("disks", keep, install)?;
    let color = std::io::stdout().is_terminal();
    let mut decoder = appliance.decoder(color)?;
    let machine = &mut appliance.machine;
    machine.cpus = args.cpus.unwrap_or(machine.cpus);
    machine.icount = args.icount;
    let headless = args.headless.then_some(HEADLESS_SECONDS);
    machine.timeout = args.timeout.or(headless).map(Duration::from_secs);
    if let Some(reduced) = machine::reduced(qemu.version) {
        say(&format!("note: reduced on {reduced}"));
    }
    let on = format!("QEMU {}, {} processors", qemu.version, machine.cpus);
    let monitor = appliance.monitor_build_id().ok().flatten();
    let monitor = monitor.map_or_else(String::new, |monitor| format!(", monitor {monitor}"));
    match appliance.kernel_build_id() {
        Ok(kernel) => say(&format!("booting {} (kernel {kernel}{monitor}) on {on}", args.name())),
        Err(_) => say(&format!("booting {} on {on}", args.name())),
    }

    let mut raw_copy = match &args.serial {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let (mut typist, typed) = Typist::new(&appliance.file.keys)?;
    let (raw, keys) = if args.headless {
        (None, Some(typed))
    } else {
        say("keys go to the machine: Ctrl-] h shows its commands, Ctrl-] q ends it in order, \
             Ctrl-] k at once");
        (Some(terminal::Raw::enter()), Some(terminal::keys()))
    };
    let outcome = appliance.machine.run(&qemu, keys, |bytes| {
        if let Some(file) = &mut raw_copy
            && let Err(failure) = file.write_all(bytes)
        {
            say(&format!("note: the serial file is incomplete: {failure}"));
            raw_copy = None;
        }
        let lines = decoder.feed(bytes);
        lines.iter().flat_map(|line| line.text.lines()).for_each(|line| typist.line(line));
        show(&lines)
    })?;
    show(&decoder.finish());
    drop(raw);
    if !outcome.in_order() {
        bail!("{}: {}", args.name(), outcome.describe());
    }
    say(&format!("{}: {}", args.name(), outcome.describe()));
    if let Some(missing) = typist.missing().filter(|_| args.headless) {
        bail!("{}: {missing}", args.name());
    }
    for finding in check::all(&appliance.machine.disks, install)? {
        say(&finding);
    }
    Ok(())
}

impl Args {
    fn name(&self) -> String {
        self.image
            .as_ref()
            .map_or_else(|| self.appliance.clone(), |path| path.display().to_string())
    }
}

/// Prints lines; a reader of our output that went away ends the machine.
fn show(lines: &[Line]) -> Flow {
    let mut out = std::io::stdout().lock();
    for line in lines {
        let end = if line.ends_line { "\n" } else { "" };
        if write!(out, "{}{end}", line.text).is_err() {
            return Flow::Stop;
        }
    }
    if out.flush().is_err() { Flow::Stop } else { Flow::Continue }
}
