//! A virtual machine that is stopped with reads in flight: from the moment on that it counts as
//! stopped no byte of its memory changes.
//!
//! `images/test-disk-stopped`, on a disk that is held by the emulator's hand. As long as it is, the
//! machine must not count as stopped. All of the guest's memory is copied thrice: before the disk is
//! let go, when the supervisor has said that the machine has stopped, and a while later. The first
//! two times the emulator goes on, for its disk would end everything otherwise.
//! Invariant: between the first two something comes in, or nothing was in flight.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::domains::guest_pages;
use super::rules;
use super::spaces::Memory;
use super::{Built, PATIENCE, all_roots, look};
use crate::disk::file::Throttle;
use crate::emulators::Qemu;
use crate::testing::Options;
use crate::testing::inspect::Session;
use crate::testing::rogue::said::Log;

pub const NAME: &str = "walk: a virtual machine that is stopped with reads in flight stands still";

/// Ctrl-], then x: the stop of the virtual machine that the console shows; then l: the list.
const STOP: &str = "\u{1d}x";
const LIST: &str = "\u{1d}l";
/// What the supervisor says when a machine has stopped.
const STOPPED: &str = "vm disk: stopped, and its devices are still";
/// Requests that the disk ends in a second, until it is held: 32 are in flight.
const SLOWNESS: u64 = 8;
/// How long the machine is watched, before and after it has stopped.
const WHILE: Duration = Duration::from_secs(2);

pub fn walk(options: &Options, qemu: &Qemu) -> Result<String> {
    let built = Built::new(options, "test-disk-stopped", Some(96), |file| {
        for disk in &mut file.disks {
            disk.throttle = Throttle { iops: Some(SLOWNESS), ..Throttle::default() };
        }
    })?;
    let system = built.system()?;
    let mut session = built.start(qemu)?;
    let mut log = Log::new(built.appliance.decoder(false)?, PATIENCE);
    session.go()?;
    log.until(&mut session, "32 reads are in flight", 1)?;
    // A byte a second: nothing comes before it is let go.
    hold(&mut session, 1)?;
    session.type_keys(STOP)?;
    log.until(&mut session, "vm disk: stop, as a person wants", 1)?;
    thread::sleep(WHILE);
    session.type_keys(LIST)?;
    log.until(&mut session, "-- 1 disk", 1)?;
    let is_early = ["stopped (", STOPPED].into_iter().any(|early| log.said.has(early));
    ensure!(!is_early, "it counts as stopped, and reads are in flight");
    let wanted = Memory(session.memory(0, built.memory())?);
    hold(&mut session, 0)?;
    log.until(&mut session, STOPPED, 1)?;
    let stopped = Memory(session.memory(0, built.memory())?);
    thread::sleep(WHILE);
    // Here the machine is stopped, with which the emulator ends whatever its disk still had to do.
    let (samples, last) = look(&mut session, built.memory())?;
    drop(session);
    let (found, _) = all_roots(&last, &samples)?;
    let pages = guest_pages(&system, &rules::judge(&system, &last, &found));
    ensure!(!pages.is_empty(), "no page of the guest was found");
    let changed = |before: &Memory, after: &Memory| {
        pages.iter().filter(|page| before.page(**page) != after.page(**page)).count()
    };
    let (meanwhile, later) = (changed(&wanted, &stopped), changed(&stopped, &last));
    ensure!(meanwhile > 0, "nothing was in flight: no page changed before the machine stood");
    ensure!(later == 0, "{later} pages changed after the machine was stopped");
    let of = pages.len();
    Ok(format!("of {of} pages {meanwhile} changed until it stood, and none in the {WHILE:?} after"))
}

/// Lets the disk move so many bytes in a second, or as many as it can for 0.
fn hold(session: &mut Session, bytes: u64) -> Result<()> {
    let limits = json!({ "id": "n0", "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0,
        "iops_rd": 0, "iops_wr": 0 });
    session.command("block_set_io_throttle", limits).map(drop)
}
