//! A virtual machine that is stopped with reads in flight: from the moment on that it counts as
//! stopped no byte of its memory changes.
//!
//! `images/test-disk-stopped`, on a disk that takes its time. All of the guest's memory is copied
//! thrice: when a person has wanted the stop, when the supervisor has said that it is one, and a
//! while later. The first two times the machine goes on, for its disk would hurry up otherwise.
//! Invariant: between the first two something comes in, or nothing was in flight.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::domains::guest_pages;
use super::rules;
use super::spaces::Memory;
use super::{Built, PATIENCE, all_roots, look};
use crate::disk::file::Throttle;
use crate::emulators::Qemu;
use crate::testing::Options;
use crate::testing::rogue::said::Log;

pub const NAME: &str = "walk: a virtual machine that is stopped with reads in flight stands still";

/// Ctrl-], x: the stop of the virtual machine that the console shows.
const STOP: &str = "\u{1d}x";
/// Requests that the disk ends in a second: 32 are in flight.
const SLOWNESS: u64 = 25;
/// Longer than all of them take.
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
    session.type_keys(STOP)?;
    let mut copies = Vec::new();
    for said in ["vm disk: stop, as a person wants", "vm disk: stopped, and its devices are still"]
    {
        log.until(&mut session, said, 1)?;
        copies.push(Memory(session.memory(0, built.memory())?));
    }
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
    let [wanted, stopped] = copies.as_slice() else { unreachable!("two lines were waited for") };
    let (meanwhile, later) = (changed(wanted, stopped), changed(stopped, &last));
    ensure!(meanwhile > 0, "nothing was in flight: no page changed before the machine stood");
    ensure!(later == 0, "{later} pages changed after the machine was stopped");
    let of = pages.len();
    Ok(format!("of {of} pages {meanwhile} changed until it stood, and none in the {WHILE:?} after"))
}
