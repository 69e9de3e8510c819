//! How virtual machines begin: when their first instruction runs, and what zeroing memory takes.
//!
//! The monitor says how long after the image's check the guest's TSC is 0; the start code notes
//! the TSC at its first instruction (`guest_abi::image::STARTED`), and the micro-guest prints that
//! and the TSC at its own first line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::{Bench, guest_number};
use crate::machine::Flow;
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &["boot_to_first_guest_instruction", "guest_zeroing_per_mib"];
/// Two virtual machines.
const TWO: &str = "bench-two";
/// One, with 16 and with 48 MiB. Both are zeroed within one budget.
const SIZES: [(&str, u64); 2] = [("bench-one", 16), ("bench-wide", 48)];
/// What the monitor says before the ticks.
const BEGINS: &str = "the guest's time begins ";

/// When a guest began, in ticks of the TSC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// From the end of the image's check until the guest's TSC was 0.
    zero: Option<u64>,
    /// The guest's TSC at its first instruction.
    started: Option<u64>,
    /// The guest's TSC in `main` of its program.
    entered: Option<u64>,
}

/// One run.
pub fn measure(bench: &Bench) -> Result<Values> {
    let two = times(bench, TWO)?;
    if two.len() != 2 {
        bail!("{} guests of images/{TWO} said when they began, not 2", two.len());
    }
    let first = |(zero, started, _): &(u64, u64, u64)| zero + started;
    let last = two.values().map(first).max().unwrap_or_default();
    let mut points = Vec::new();
    for (appliance, mib) in SIZES {
        let all = times(bench, appliance)?;
        let (_, started, entered) =
            *all.values().next().with_context(|| format!("images/{appliance} has no guest"))?;
        points.push((mib, entered.saturating_sub(started)));
    }
    let [(small, short), (large, long)] = points[..] else { bail!("two sizes make a slope") };
    let slope = long.saturating_sub(short) / (large - small);
    Ok(Values::from([(KEYS[0].to_owned(), last), (KEYS[1].to_owned(), slope)]))
}

/// The times of all guests of an appliance, which ends when all have told theirs.
fn times(bench: &Bench, appliance: &str) -> Result<BTreeMap<String, (u64, u64, u64)>> {
    let mut times = BTreeMap::new();
    bench.listen(&bench.appliance(appliance)?, |line| {
        note(&mut times, &line.text);
        Ok(Flow::Continue)
    })?;
    let whole = |(guest, times): (String, Times)| match times {
        Times { zero: Some(zero), started: Some(started), entered: Some(entered) } => {
            Ok((guest, (zero, started, entered)))
        }
        _ => bail!("guest {guest} of images/{appliance} told only {times:?}"),
    };
    times.into_iter().map(whole).collect()
}

/// Takes what a line tells.
fn note(times: &mut BTreeMap<String, Times>, line: &str) {
    if let Some((guest, word, value)) = guest_number(line) {
        let times = times.entry(guest.to_owned());
        match word {
            "started" => times.or_default().started = Some(value),
            "entered" => times.or_default().entered = Some(value),
            _ => {}
        }
    }
    if let Some((head, tail)) = line.split_once(BEGINS) {
        // The level stands between the task's name and the message.
        let guest = head.split_whitespace().rev().nth(1);
        let ticks = tail.split_whitespace().next().and_then(|word| word.parse().ok());
        if let (Some(guest), Some(ticks)) = (guest, ticks) {
            times.entry(guest.to_owned()).or_default().zero = Some(ticks);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Times, note};

    #[test]
    fn times_are_read_from_logs_and_consoles() {
        let mut times = BTreeMap::new();
        for line in [
            "[    0.003102] c1  a            INFO  the guest's time begins 2960 ticks after the \
             image's check  (monitor/task/src/main.rs:50)",
            "a  | bench started 612 612",
            "a  | bench entered 2130000 2130000",
            "a  | bench exit_cpuid 310 310",
            "b  | bench started 7 7",
        ] {
            note(&mut times, line);
        }
        let a = Times { zero: Some(2960), started: Some(612), entered: Some(2_130_000) };
        assert_eq!(times["a"], a);
        assert_eq!(times["b"], Times { started: Some(7), ..Times::default() });
    }
}
