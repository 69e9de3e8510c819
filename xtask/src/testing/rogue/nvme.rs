//! A rogue in the NVMe driver's place: with an IOMMU its disk has nothing of anybody's memory and
//! nobody's memory has anything of its attack; without one it gets everything.
//!
//! `images/test-rogue-nvme`: page N of memory is read onto page N of the disk, and memory and disk
//! are compared page by page.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rogue_core::{
    ATTACK, BATCH, CANARIES, CANARY, FROM, GO, GO_FOR_CANARIES, GO_ON, RAM, TO, WORDS, canary_of,
};

use super::{MEMORY_MIB, MEMORY_PAGES, Paged, Run, Scene};
use crate::disk::file::{Disk, Model, Throttle};
use crate::disk::make::Made;
use crate::emulators::{Qemu, REFERENCE};
use crate::machine::Machine;
use crate::testing::Options;
use crate::testing::tally::Tally;

/// An attack.
struct Attack {
    what: &'static str,
    run: Run,
    appliance: &'static str,
    /// The rogue's function, as the supervisor writes it.
    source: &'static str,
    /// Virtual functions of the controller.
    functions: u32,
    /// How many batches of canaries are attacked, instead of all of memory.
    batches: Option<u64>,
}

const ATTACKS: [Attack; 4] = [
    Attack {
        what: "an NVMe driver reaches no page but its own",
        run: Run::Protected,
        appliance: "test-rogue-nvme",
        source: "01:00.0",
        functions: 0,
        batches: None,
    },
    Attack {
        what: "without an IOMMU the same driver reaches every canary",
        run: Run::Control,
        appliance: "test-rogue-nvme",
        source: "01:00.0",
        functions: 0,
        batches: None,
    },
    Attack {
        what: "an NVMe driver that never rests is stopped",
        run: Run::Stopped,
        appliance: "test-rogue-nvme",
        source: "01:00.0",
        functions: 0,
        batches: None,
    },
    Attack {
        what: "the driver of a virtual function reaches no page but its own",
        run: Run::Protected,
        appliance: "test-rogue-vf",
        source: "01:00.1",
        functions: 4,
        batches: Some(2),
    },
];
/// How long any part may take, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of a run.
#[derive(Debug, Default)]
struct Findings {
    /// Pages of canaries before the attack.
    canaries: u64,
    /// Of these, pages whose content is on the disk afterwards.
    read: u64,
    /// Of these, pages that are not what they were.
    changed: u64,
    /// Other pages, not of the rogue's own, that have the attack in them or that are on the disk.
    others: Vec<u64>,
    /// Batches that there have to be, that there were, and those of them in which no refusal of the
    /// right source was told.
    wanted: usize,
    batches: usize,
    silent: Vec<usize>,
    /// What the owners themselves count as changed.
    told: u64,
}

/// Runs all on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    for attack in &ATTACKS {
        // One emulator is enough for CI: the older one, where the rogue's rests cost nothing, for all
        // of memory, and the other one for a virtual function.
        let is_here = (qemu.version < REFERENCE) == (attack.functions == 0);
        let is_skipped = !options.long && !is_here;
        super::one(options, place, tally, attack.what, is_skipped, || {
            judge(&attempt(options, qemu, attack)?, attack.run)
        });
    }
}

/// What was found against what has to be.
fn judge(found: &Findings, run: Run) -> Result<String> {
    let &Findings { canaries, read, changed, batches, ref silent, told, .. } = found;
    ensure!(canaries >= CANARIES, "only {canaries} pages of canaries stand");
    ensure!(told == changed, "the owners count {told} changed pages, and {changed} are");
    let counts = format!("{canaries} pages of canaries, {read} read, {changed} changed");
    let others = &found.others;
    if run != Run::Control {
        ensure!(read == 0 && changed == 0, "{counts}");
        ensure!(others.is_empty(), "pages {:x?} were reached", &others[..others.len().min(8)]);
    }
    match run {
        Run::Protected => {
            let wanted = found.wanted;
            ensure!(batches == wanted, "{batches} of {wanted} batches were told of");
            ensure!(silent.is_empty(), "batches {silent:?} of {batches} left no record");
            Ok(format!("{counts}, {batches} batches with a refusal each"))
        }
        Run::Stopped => {
            ensure!(batches < found.wanted, "it came to the end of all {batches} batches");
            Ok(format!("{counts}, stopped after {batches} batches"))
        }
        Run::Control => {
            ensure!(read == canaries && changed == canaries, "{counts}: the attack does not work");
            Ok(counts)
        }
    }
}

/// The machine of a run: its disk has a page for each of memory and the attack behind them.
fn change(machine: &mut Machine, folder: &Path, attack: &Attack, is_fast: bool) -> Result<()> {
    let image = folder.join("disk.img");
    let bytes = u64::from(MEMORY_MIB) << 20;
    let disk = File::create(&image)?;
    disk.set_len(bytes + (1 << 20))?;
    let page: Vec<u8> =
        (0..WORDS).flat_map(|word| rogue_core::attack(word).to_le_bytes()).collect();
    disk.write_all_at(&page, bytes)?;
    let made = Made {
        disk: Disk {
            name: "n0".to_owned(),
            model: Model::Nvme { functions: attack.functions, detached: attack.functions > 0 },
            bytes: bytes + (1 << 20),
            sector: 512,
            volumes: None,
            faults: Vec::new(),
            throttle: Throttle::default(),
            options: Vec::new(),
        },
        image,
    };
    (machine.iommu, machine.disks) = (attack.run != Run::Control, vec![made]);
    machine.icount = attack.run != Run::Control && is_fast;
    Ok(())
}

fn attempt(options: &Options, qemu: &Qemu, attack: &Attack) -> Result<Findings> {
    let is_fast = qemu.version < REFERENCE;
    let change = |machine: &mut Machine, folder: &Path| change(machine, folder, attack, is_fast);
    let mut scene = Scene::start(options, qemu, attack.appliance, PATIENCE, change)?;
    let pages = attack.batches.map_or(0..MEMORY_PAGES, |batches| {
        let first = scene.places.canaries.first_key_value().map_or(0, |(page, _)| *page);
        first..first + batches * BATCH
    });
    let order = match attack.run {
        Run::Protected => GO,
        Run::Stopped => GO_ON,
        Run::Control => GO_FOR_CANARIES,
    };
    let words = [(RAM, MEMORY_PAGES), (FROM, pages.start), (TO, pages.end)];
    scene.attack(attack.run, &words, order)?;
    let disk = Paged(File::open(scene.folder.path().join("disk.img"))?);
    let canaries = &scene.places.canaries;
    let mut found = compare(&scene.ram, &disk, canaries, scene.own()?, MEMORY_PAGES)?;
    let batches = scene.log.said.batches(attack.source);
    found.wanted = (pages.end - pages.start).div_ceil(BATCH) as usize;
    found.batches = batches.len();
    found.silent = (0..found.batches).filter(|&nth| batches[nth].refused == 0).collect();
    found.told = scene.log.said.told();
    Ok(found)
}

/// Memory and disk after the attack.
fn compare(
    ram: &Paged,
    disk: &Paged,
    canaries: &BTreeMap<u64, (u64, u64)>,
    own: Range<u64>,
    pages: u64,
) -> Result<Findings> {
    let mut found = Findings { canaries: canaries.len() as u64, ..Findings::default() };
    for number in (0..pages).filter(|number| !own.contains(number)) {
        let (page, copy) = (ram.page(number)?, disk.page(number)?);
        let known = canaries.get(&number);
        if let Some(&which) = known {
            found.changed += u64::from(canary_of(|word| page[word as usize]) != Some(which));
            found.read += u64::from(canary_of(|word| copy[word as usize]) == Some(which));
        }
        let is_reached = page.contains(&ATTACK) && known.is_none();
        let is_copied = copy.contains(&CANARY) && known.is_none();
        let is_same = known.is_none() && page == copy && page.iter().any(|&word| word != 0);
        if is_reached || is_copied || is_same {
            found.others.push(number);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Findings {
        Findings { canaries: CANARIES, wanted: 183, batches: 183, ..Findings::default() }
    }

    #[test]
    fn one_page_is_enough_to_fail_a_protected_run() {
        assert!(judge(&clean(), Run::Protected).is_ok());
        let spoiled = [
            Findings { canaries: CANARIES - 1, ..clean() },
            Findings { read: 1, ..clean() },
            Findings { changed: 1, told: 1, ..clean() },
            Findings { told: 1, ..clean() },
            Findings { others: vec![7], ..clean() },
            Findings { silent: vec![3], ..clean() },
            Findings { batches: 1, ..clean() },
        ];
        for found in spoiled {
            assert!(judge(&found, Run::Protected).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_control_run_reaches_every_canary_or_fails() {
        let all = || Findings { read: CANARIES, changed: CANARIES, told: CANARIES, ..clean() };
        assert!(judge(&all(), Run::Control).is_ok());
        let less = [
            Findings { read: CANARIES - 1, ..all() },
            Findings { changed: CANARIES - 1, told: CANARIES - 1, ..all() },
            clean(),
        ];
        for found in less {
            assert!(judge(&found, Run::Control).is_err(), "{found:?}");
        }
    }

    #[test]
    fn memory_and_disk_are_compared_page_by_page() {
        let file = |pages: [&dyn Fn(u64) -> u64; 5]| {
            let file = tempfile::tempfile().unwrap();
            let words = pages.iter().flat_map(|page| (0..WORDS).map(page));
            let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            file.write_all_at(&bytes, 0).unwrap();
            Paged(file)
        };
        let nothing: &dyn Fn(u64) -> u64 = &|_| 0;
        let kernel: &dyn Fn(u64) -> u64 = &|word| word + 1;
        let (one, two) =
            (|word| rogue_core::canary(2, 1, word), |word| rogue_core::canary(2, 2, word));
        let canaries = BTreeMap::from([(0, (2, 1)), (1, (2, 2))]);
        let ram = file([&one, &rogue_core::attack, kernel, &rogue_core::attack, kernel]);
        let disk = file([&one, nothing, kernel, nothing, kernel]);
        let found = compare(&ram, &disk, &canaries, 4..5, 5).unwrap();
        assert_eq!((found.canaries, found.read, found.changed), (2, 1, 1));
        assert_eq!(found.others, [2, 3], "the rogue's own page is nobody else's");
        let ram = file([&one, &two, kernel, nothing, kernel]);
        let disk = file([nothing; 5]);
        let found = compare(&ram, &disk, &canaries, 4..5, 5).unwrap();
        assert_eq!((found.read, found.changed, found.others.len()), (0, 0, 0));
    }
}
