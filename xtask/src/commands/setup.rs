//! `cargo xtask setup`: fetches what is missing, into the cache folder alone.

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::disk::{e2fs, root};
use crate::emulators::{self, Wanted};
use crate::guest;
use crate::install::{Install, say};
use crate::packages::{self, Pins, Set};
use crate::toolchain;

/// Fetches the compiler for bare-metal crates and the emulators
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// All emulators that tests use: QEMU 7.2, QEMU 10.0, and Bochs 2.7 with GRUB
    #[arg(long)]
    emulators: bool,
    /// Fetch nothing: say what is missing, and fail if something is
    #[arg(long)]
    no_install: bool,
    /// Fetch the newest versions and record them in xtask/packages.lock
    #[arg(long, conflicts_with = "no_install")]
    update: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.update {
        return update();
    }
    let install = Install::unless(args.no_install);
    let compiler = toolchain::bare_compiler(install)?;
    say(&format!("compiler: rustc {} ({})", compiler.version, compiler.origin));
    if !args.emulators {
        let qemu = emulators::ensure(&Wanted::Best, install)?;
        say(&format!("emulator: QEMU {} ({})", qemu.version, qemu.program.display()));
        return Ok(());
    }
    for wanted in [Wanted::V10_0, Wanted::V7_2] {
        let qemu = emulators::ensure(&wanted, install)?;
        say(&format!("emulator: QEMU {} ({})", qemu.version, qemu.program.display()));
    }
    let bochs = emulators::ensure_bochs(install)?;
    say(&format!("emulator: Bochs 2.7 ({})", bochs.program.display()));
    say(&format!("its boot loader: GRUB ({})", bochs.grub_modules.display()));
    Ok(())
}

/// Fetches every set anew and rewrites the committed lock file.
fn update() -> Result<()> {
    let mut sets: Vec<Set> = vec![emulators::bochs_set(), emulators::grub_set()];
    sets.extend(emulators::old_set());
    sets.extend(emulators::reference_sets().into_iter().take(1));
    // Only on Debian can its compiler be fetched; elsewhere that section stays as it is.
    sets.extend(toolchain::compiler_set());
    sets.extend(guest::stock_sets());
    sets.push(e2fs::set());
    sets.extend(root::sets()?);
    for set in &sets {
        packages::fetch(set, Pins::Rewrite)?;
    }
    say("xtask/packages.lock is written; commit it");
    Ok(())
}
