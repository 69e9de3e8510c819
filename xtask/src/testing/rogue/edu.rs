//! A rogue that has QEMU's `edu`, a device that copies one page in a tenth of a second: with an
//! IOMMU it brings nothing and changes nothing, without one it brings and changes what it wants.
//!
//! `images/test-rogue-edu`: the judge lists pages, some of every kind of owner by a seed, or all of
//! memory with `--long`. Instructions are counted and idle time passes at once, so that the device's
//! tenths of seconds cost no time of the host. Invariant: both runs are of one list.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rogue_core::sweep::{IS_WRITTEN, MOST, entry_at, loot_at};
use rogue_core::{ADDRESS, ATTACK, GO, LISTED, PAGE, canary, canary_of};

use super::said::Batch;
use super::{Places, Run, Scene};
use crate::emulators::{Qemu, REFERENCE};
use crate::machine::Machine;
use crate::testing::Options;
use crate::testing::tally::Tally;

const APPLIANCE: &str = "test-rogue-edu";
/// The rogue's function, as the supervisor writes it.
const SOURCE: &str = "00:05.0";
/// What the list is drawn from.
const SEED: u64 = 0x6564_7500;
/// Pages of canaries in the list, and other pages that hold anything: the kernel's, its tables',
/// those of monitors and tasks.
const CANARIES: usize = 384;
const OTHERS: usize = 128;
/// How long any part may take, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(600);
const PATIENCE_LONG: Duration = Duration::from_secs(4 * 3600);

/// What came of a run.
#[derive(Debug, Default)]
struct Findings {
    /// Pages that were tried, and of these, pages of canaries.
    tried: u64,
    canaries: u64,
    /// Canaries that the device brought.
    read: u64,
    /// Other pages that it brought, or something else in a canary's place.
    read_others: u64,
    /// Canaries, of all that stood, that are not what they were.
    changed: u64,
    /// Other pages with the attack in them.
    others: Vec<u64>,
    /// What the owners themselves count as changed.
    told: u64,
    batches: Vec<Batch>,
}

/// Runs both on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    for (run, what) in [
        (Run::Protected, "a driver of edu reaches no page but its own"),
        (Run::Control, "without an IOMMU edu reaches every canary that it tries"),
    ] {
        // One emulator is enough for CI.
        let is_skipped = !options.long && qemu.version >= REFERENCE;
        super::one(options, place, tally, what, is_skipped, || {
            judge(&attempt(options, qemu, run)?, run)
        });
    }
}

/// What was found against what has to be.
fn judge(found: &Findings, run: Run) -> Result<String> {
    let &Findings { tried, canaries, read, read_others, changed, told, .. } = found;
    ensure!(tried >= (CANARIES + OTHERS) as u64, "only {tried} pages were tried");
    ensure!(told == changed, "the owners count {told} changed pages, and {changed} are");
    let counts =
        format!("{tried} pages tried, of {canaries} canaries {read} read, {changed} changed");
    if run == Run::Control {
        ensure!(read == canaries && changed == canaries, "{counts}: the attack does not work");
        return Ok(counts);
    }
    let others = &found.others;
    ensure!(read == 0 && changed == 0 && read_others == 0, "{counts}, {read_others} others read");
    ensure!(others.is_empty(), "the attack is in pages {:x?}", &others[..others.len().min(8)]);
    let mut before = 0;
    for (nth, batch) in found.batches.iter().enumerate() {
        let attempts = batch.attempts.unwrap_or(0);
        let (wanted, got) = (attempts - before, batch.refused);
        ensure!(wanted > 0 && got >= wanted, "batch {nth}: {got} refusals of {wanted} attempts");
        before = attempts;
    }
    ensure!(before >= 2 * tried, "{before} attempts at {tried} pages were told of");
    Ok(format!("{counts}, {before} attempts, a refusal of {SOURCE} recorded for each"))
}

fn attempt(options: &Options, qemu: &Qemu, run: Run) -> Result<Findings> {
    let change = |machine: &mut Machine, _: &Path| {
        (machine.iommu, machine.icount) = (run == Run::Protected, true);
        let edu = ["-device", "edu,addr=5,dma_mask=0xffffffffffffffff"];
        machine.extra.extend(edu.map(str::to_owned));
        Ok(())
    };
    let patience = if options.long { PATIENCE_LONG } else { PATIENCE };
    let mut scene = Scene::start(options, qemu, APPLIANCE, patience, change)?;
    let own = scene.own()?;
    // Its own memory has these addresses for its device, if there is an IOMMU.
    let first = scene.ram.page(scene.rogue)?[ADDRESS as usize] / PAGE;
    let excepted = first..first + (own.end - own.start);
    let pages = list(&scene.places, &excepted, options.long && run == Run::Protected);
    let at = |byte: u64| (own.start + byte / PAGE, byte % PAGE / 8);
    for (index, &page) in (0..).zip(&pages) {
        let is_written = run == Run::Protected || scene.places.canaries.contains_key(&page);
        let (place, word) = at(entry_at(index));
        scene.ram.set(place, word, page | if is_written { IS_WRITTEN } else { 0 })?;
    }
    scene.attack(run, &[(LISTED, pages.len() as u64)], GO)?;

    let mut found = Findings { tried: pages.len() as u64, ..Findings::default() };
    for (index, page) in (0..).zip(&pages) {
        let (place, word) = at(loot_at(index));
        let loot = &scene.ram.page(place)?[word as usize..][..2];
        let known = scene.places.canaries.get(page);
        found.canaries += u64::from(known.is_some());
        match known {
            Some(&(owner, which)) => {
                let whole = [canary(owner, which, 0), canary(owner, which, 1)];
                found.read += u64::from(loot == whole);
                found.read_others += u64::from(loot != whole && loot != [0, 0]);
            }
            None => found.read_others += u64::from(loot != [0, 0]),
        }
    }
    for number in (0..scene.ram.pages()?).filter(|number| !own.contains(number)) {
        let page = scene.ram.page(number)?;
        match scene.places.canaries.get(&number) {
            Some(&which) => {
                let is_whole = canary_of(|word| page[word as usize]) == Some(which);
                found.changed += u64::from(!is_whole);
            }
            None if page.contains(&ATTACK) => found.others.push(number),
            None => {}
        }
    }
    found.told = scene.log.said.told();
    found.batches = scene.log.said.batches(SOURCE);
    Ok(found)
}

/// The pages to try: all that hold anything, or some of them.
fn list(places: &Places, excepted: &Range<u64>, is_long: bool) -> Vec<u64> {
    let is_strange = |page: &u64| !excepted.contains(page);
    let canaries: Vec<u64> = places.canaries.keys().copied().filter(is_strange).collect();
    let others: Vec<u64> = places.others.iter().copied().filter(is_strange).collect();
    if is_long {
        return canaries.into_iter().chain(others).take(MOST as usize).collect();
    }
    let mut state = SEED;
    let some = draw(&canaries, CANARIES, &mut state);
    [some, draw(&others, OTHERS, &mut state)].concat()
}

/// So many of the pages, none twice.
fn draw(pages: &[u64], count: usize, state: &mut u64) -> Vec<u64> {
    let mut drawn = BTreeSet::new();
    while drawn.len() < count.min(pages.len()) {
        // The generator of Knuth's MMIX; its upper bits are the better ones.
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        drawn.insert(pages[((*state >> 33) % pages.len() as u64) as usize]);
    }
    drawn.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Findings {
        let (tried, canaries) = ((CANARIES + OTHERS) as u64, CANARIES as u64);
        let batches = [512, 1024].map(|attempts| Batch { refused: 512, attempts: Some(attempts) });
        Findings { tried, canaries, batches: batches.into(), ..Findings::default() }
    }

    #[test]
    fn one_page_or_one_unrecorded_attempt_fails_a_protected_run() {
        assert!(judge(&clean(), Run::Protected).is_ok());
        let silent = Batch { refused: 511, attempts: Some(512) };
        let spoiled = [
            Findings { tried: 511, ..clean() },
            Findings { read: 1, ..clean() },
            Findings { read_others: 1, ..clean() },
            Findings { changed: 1, told: 1, ..clean() },
            Findings { told: 1, ..clean() },
            Findings { others: vec![7], ..clean() },
            Findings { batches: vec![silent, clean().batches[1]], ..clean() },
            Findings { batches: clean().batches[..1].to_vec(), ..clean() },
            Findings { batches: Vec::new(), ..clean() },
        ];
        for found in spoiled {
            assert!(judge(&found, Run::Protected).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_control_run_reaches_every_canary_or_fails() {
        let count = CANARIES as u64;
        let all = || Findings { read: count, changed: count, told: count, ..clean() };
        assert!(judge(&all(), Run::Control).is_ok());
        let less = [
            Findings { read: count - 1, ..all() },
            Findings { changed: count - 1, told: count - 1, ..all() },
        ];
        for found in less {
            assert!(judge(&found, Run::Control).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_list_has_pages_of_every_kind_and_none_twice() {
        let canaries = (1000..2000).map(|page| (page, (1, page))).collect();
        let places = Places { canaries, others: (0..200).collect(), ..Places::default() };
        let excepted = 1000..1010;
        let some = list(&places, &excepted, false);
        let apart: BTreeSet<u64> = some.iter().copied().collect();
        assert_eq!((some.len(), apart.len()), (CANARIES + OTHERS, CANARIES + OTHERS));
        assert_eq!(some.iter().filter(|page| **page >= 1010).count(), CANARIES);
        assert_eq!(some, list(&places, &excepted, false), "by its seed alone");
        assert_eq!(list(&places, &excepted, true).len(), 1190);
    }
}
