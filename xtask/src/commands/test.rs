//! `cargo xtask test`: everything that CI runs, tier by tier.

use anyhow::{Result, bail};

use crate::install::{Install, say};
use crate::testing::{
    Options, boot, host,
    tally::{Tally, Verdict},
};

/// Runs the tests: checks and host tests, then appliances in emulated machines
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only these tiers; all unless given
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// The long forms too
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Fetch nothing: tests whose emulator is missing are skipped
    #[arg(long)]
    no_install: bool,
}

/// A group of tests that need the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Checks, unit tests, property tests, loom models
    Host,
    /// Appliances that test the system itself, in QEMU
    Boot,
}

const TIERS: &[Tier] = &[Tier::Host, Tier::Boot];

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let install = Install::unless(args.no_install);
    let options = Options { filter: args.filter.clone(), long: args.long, install };
    let tiers: &[Tier] = if args.tier.is_empty() { TIERS } else { &args.tier };
    let mut tally = Tally::default();
    for tier in tiers {
        let (name, result) = match tier {
            Tier::Host => ("host", host::run(&options, &mut tally)),
            Tier::Boot => ("boot", boot::run(&options, &mut tally)),
        };
        // A tier that cannot go on has failed; the sum at the end says so too.
        if let Err(failure) = result {
            println!("FAILED  {name}: {failure:#}");
            tally.add(name, Verdict::Failed);
        }
    }
    let must_run_everywhere = tiers.contains(&Tier::Boot) && options.filter.is_none();
    let idle = if must_run_everywhere && is_ci() { idle_places(&tally) } else { Vec::new() };
    for place in &idle {
        say(&format!("error: no test ran on {place}, which CI insists on"));
    }
    println!("\n{}", tally.render());
    let failed = tally.total().failed;
    if failed > 0 || !idle.is_empty() {
        bail!("{failed} tests failed, {} emulators had none to run", idle.len());
    }
    Ok(())
}

fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Emulators on which nothing ran.
fn idle_places(tally: &Tally) -> Vec<String> {
    boot::places().into_iter().filter(|place| tally.run_in(place) == 0).collect()
}
