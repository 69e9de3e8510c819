//! What it takes until a disk works again whose driver was killed.
//!
//! A micro-guest reads one block after the other (`images/bench-disk`) while a person at the console
//! kills the driver. Counted is all that the host side executes (`trace`) from the supervisor's call
//! that stops the driver until the guest has the first block that the next life read for it: the
//! stop, the supervisor's decision, the driver's memory made anew, the disk's reset and the queues,
//! partitions, what was in flight. What the policy waits before a restart, and what the disk takes,
//! is time in which cores halt, so it is no part of this.

use anyhow::{Context, Result};
use object::{Object, ObjectSymbol};

use super::Bench;
use super::trace::{DRIVER, Log, Piece, watch};
use crate::image::elf::Elf;
use crate::install::say;
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["driver_restart_nvme"];
/// The appliance, and the task that is killed.
const APPLIANCE: &str = "bench-disk";
const TASK: &str = "nvme";
/// What the person types.
const KILL: &[u8] = b"\x1dtnvme\r";
/// Kills, each in a run of its own.
const KILLS: usize = 5;
/// How the name of the kernel's function ends that stops a task for its supervisor.
const STOP: &str = "7syscall4stop";

/// The median of all kills.
pub fn measure(bench: &Bench) -> Result<Values> {
    let appliance = bench.appliance(APPLIANCE)?;
    let programs = appliance.programs()?;
    let stop = function(&Elf::read(&programs.kernel)?)?;
    let entry = Elf::read(programs.task(TASK)?)?.entry;
    let mut kills = Vec::new();
    for number in 1..=KILLS {
        let found = watch(bench, &appliance, KILL, move |log| between(log, stop, entry))?;
        let piece = found.context("no block was read after the driver was killed")?;
        let [all, kernel, monitor, driver] = piece.parts();
        say(&format!(
            "  kill {number} of {KILLS}: {all}; kernel {kernel}, monitor {monitor}, driver {driver}, \
             other tasks {}",
            piece.other
        ));
        kills.push(all);
    }
    kills.sort_unstable();
    Ok(Values::from([(KEYS[0].to_owned(), kills[KILLS / 2])]))
}

/// The address of the kernel's function.
fn function(kernel: &Elf) -> Result<u64> {
    let file = object::File::parse(kernel.file.as_slice())?;
    let found = file.symbols().find(|symbol| symbol.name().is_ok_and(|name| name.ends_with(STOP)));
    let symbol = found.with_context(|| {
        format!(
            "{} has no function `..{STOP}`; name another one in xtask/src/bench/restart.rs",
            kernel.name
        )
    })?;
    Ok(symbol.address())
}

/// All between the kernel's function and the first mark that comes after the driver's first
/// instruction; `None` if one of the three is not there.
fn between(log: Log<'_>, stop: u64, entry: u64) -> Result<Option<Piece>> {
    let marks = log.marks;
    let (mut piece, mut is_back, mut found) = (None, false, None);
    for step in log {
        let step = step?;
        if piece.is_none() && step.is_kernel() && step.at == stop {
            piece = Some(Piece::default());
        }
        let Some(piece) = piece.as_mut().filter(|_| found.is_none()) else { continue };
        piece.count(&step);
        is_back |= step.core == DRIVER && !step.is_guest() && step.at == entry;
        if is_back && step.is_guest() && marks.contains(&step.at) {
            found = Some(*piece);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::between;
    use crate::bench::trace::{Log, Piece, lines};

    #[test]
    fn a_restart_lasts_from_the_kill_to_the_first_block_of_the_next_life() {
        const GUEST: u64 = 1 << 21;
        let steps = [
            (2, 100, GUEST), // blocks before the kill
            (1, 50, 3),      // the first life begins
            (0, 70, 0),      // the kill
            (0, 71, 0),
            (2, 100, GUEST), // a block that the first life had read
            (0, 72, 3),
            (1, 50, 3), // the next life
            (1, 51, 3),
            (2, 9, 3),
            (2, 100, GUEST),
            (1, 52, 3), // behind it
        ];
        let read = |steps| between(Log::new(lines(steps).as_bytes(), [100, 200]), 70, 50).unwrap();
        let piece = Piece { kernel: 2, monitor: 1, driver: 2, other: 1 };
        assert_eq!(read(&steps), Some(piece));
        assert_eq!(read(&steps[..9]), None);
        assert_eq!(read(&steps[..2]), None);
    }
}
