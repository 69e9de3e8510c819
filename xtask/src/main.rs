//! `cargo xtask`: the front door of the repository. Builds, runs, tests and audits appliances.
//!
//! Each command is a file in `commands/`. What they share: `toolchain`, `bare_target` and
//! `cargo_build` (the bare-metal compiler), `emulators` and `packages` (tools fetched without touching the system),
//! `machine` and `qmp` (an emulated machine under control).
#![forbid(unsafe_code)]

mod appliance;
mod bare_target;
mod bench;
mod cargo_build;
mod checks;
mod commands;
mod disk;
mod emulators;
mod guest;
mod image;
mod install;
mod machine;
mod numbers;
mod packages;
mod paths;
mod qmp;
mod terminal;
mod testing;
mod toolchain;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and audits Cloister appliances
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    Setup(commands::setup::Args),
    BuildImage(commands::build_image::Args),
    Run(commands::run::Args),
    Test(commands::test::Args),
    Check(commands::check::Args),
    Gdb(commands::gdb::Args),
    Audit(commands::audit::Args),
    Bench(commands::bench::Args),
    Volume(commands::volume::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup(args) => commands::setup::run(&args),
        Task::BuildImage(args) => commands::build_image::run(&args),
        Task::Run(args) => commands::run::run(&args),
        Task::Test(args) => commands::test::run(&args),
        Task::Check(args) => commands::check::run(&args),
        Task::Gdb(args) => commands::gdb::run(&args),
        Task::Audit(args) => commands::audit::run(&args),
        Task::Bench(args) => commands::bench::run(&args),
        Task::Volume(args) => commands::volume::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", report(&failure));
            ExitCode::FAILURE
        }
    }
}

/// A failure with its causes, and behind all of them what to type next.
fn report(failure: &anyhow::Error) -> String {
    let causes: Vec<String> = failure.chain().map(ToString::to_string).collect();
    let (said, next): (Vec<_>, Vec<_>) = causes
        .iter()
        .map(|cause| cause.split_at(cause.find("\n  next: ").unwrap_or(cause.len())))
        .unzip();
    said.join(": ") + &next.concat()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::report;

    #[test]
    fn what_to_type_next_comes_last() {
        let plain = anyhow!("no such file").context("cannot read the image").context("disk.img");
        assert_eq!(report(&plain), "disk.img: cannot read the image: no such file");
        let helpful = anyhow!("no such file").context("cannot read it\n  next: make it");
        let helpful = helpful.context("disk.img");
        assert_eq!(report(&helpful), "disk.img: cannot read it: no such file\n  next: make it");
    }
}
