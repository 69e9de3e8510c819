//! `cargo xtask audit`: who may touch what in an appliance, and what of it must not ship.
//!
//! The audit reads the compiled system table, with the programs as they will be sealed, not the
//! manifest: it sees what the kernel will enforce.

use anyhow::{Context, Result, bail};
use cloister_manifest::graph::Graph;
use cloister_manifest::policy;

use crate::commands::build_image;
use crate::install::Install;

/// Print an appliance's authority graph; fail on what policy forbids
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder below images/, or a path to an appliance.toml
    appliance: String,
    /// Print the graph and the breaches as JSON
    #[arg(long)]
    json: bool,
    /// Install nothing; say what is missing and how to get it
    #[arg(long)]
    no_install: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let system = build_image::load(&args.appliance)?;
    let install = Install::unless(args.no_install);
    let elves = build_image::programs(&system, &[], &[], install)?;
    let guests = build_image::guests(&system, install)?;
    let graph = Graph::new(&build_image::compiled(&system, &elves, &guests)?);
    let breaches = policy::breaches(&graph);
    if args.json {
        let all = serde_json::json!({ "graph": graph, "breaches": breaches });
        println!("{}", serde_json::to_string_pretty(&all).context("cannot make JSON")?);
    } else {
        println!("{graph}");
    }
    if breaches.is_empty() {
        return Ok(());
    }
    for breach in &breaches {
        eprintln!("policy: {breach}");
    }
    bail!(
        "appliance `{}` breaks {} of the audit's policies (above)\n  next: correct {}, then type: \
         cargo xtask audit {}",
        system.name,
        breaches.len(),
        system.source.name(),
        args.appliance
    )
}
