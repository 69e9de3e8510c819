//! Budgets: what urgent tasks that use up all they can take from a less urgent one, against the
//! promise of docs/notes/0003-scheduling.md. Needs counted instructions, so that the machine that
//! emulates does not show in the numbers.

use boot_common::orders::{GAPS, HOG, LATENESS};
use cloister_rt::{Duration, clock};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::{PATIENCE, Ward, pause};

/// Budget and period of both hogs, as the manifest has them.
const BUDGET_US: u64 = 2_000;
const PERIOD_US: u64 = 10_000;
/// What the kernel itself may take in a window: switches, interrupts, the console's neighbours.
const KERNEL_US: u64 = 60;
/// Shorter pauses of the victim are not counted as being kept from the CPU.
const THRESHOLD_US: u64 = 20;

/// Runs everything.
pub fn run(report: &mut Report) {
    let first = ward!("first", 1);
    let second = ward!("second", 1);
    let victim = ward!("victim", 1);
    report.case("alone the victim is not kept from the CPU", |check| {
        let gap = longest_gap(check, &victim, 4);
        check.within("longest gap (us)", gap, 0, KERNEL_US);
    });
    // What they run and sleep: for ever; almost a budget; a little more than one; just so that
    // the rest of a budget meets the next one.
    let hogs: [(&'static str, u64, u64); 5] = [
        ("a hog that never sleeps", u64::MAX / 4096, 0),
        ("a hog that sleeps before its budget ends", BUDGET_US - 50, 1),
        ("a hog that sleeps at the end of its budget", BUDGET_US, 1),
        ("a hog that saves its budget to the end", BUDGET_US * 2, PERIOD_US - BUDGET_US - 100),
        ("a hog that runs in small pieces", 70, 3),
    ];
    for (name, run, sleep) in hogs {
        report.case(name, |check| one(check, &[&first], &victim, run, sleep));
    }
    for (name, run, sleep) in hogs {
        report.case(name, |check| one(check, &[&first, &second], &victim, run, sleep));
    }
}

fn us(ticks: u64) -> u64 {
    clock().duration(ticks).as_micros()
}

fn ticks(us: u64) -> u64 {
    clock().ticks(Duration::from_micros(us))
}

/// The longest time that the victim is away while it runs for so many milliseconds, ten times, at
/// other moments of the hogs' periods each time.
fn longest_gap(check: &mut Check, victim: &Ward, ms: u64) -> u64 {
    let mut longest = 0;
    for round in 0..10 {
        pause(Duration::from_micros(12_000 + round * 1_700));
        check.holds("the victim measures", victim.ask(GAPS, &[ticks(ms * 1000), ticks(THRESHOLD_US)]));
        longest = longest.max(us(victim.result(0)));
    }
    longest
}

/// What `S(w)` of the note gives for one hog: at most this in any window.
fn bound_us(window_us: u64, budget: u64, period: u64) -> u64 {
    let rest = window_us.saturating_sub(budget);
    window_us.min(budget + rest.div_ceil(period) * budget)
}

/// The longest time without a moment for the victim: the smallest window that the hogs do not fill.
fn longest_delay_us(hogs: u64) -> u64 {
    let mut window = 1;
    loop {
        let taken = hogs * bound_us(window, BUDGET_US, PERIOD_US) + KERNEL_US;
        if taken < window || window > 10 * PERIOD_US {
            return window;
        }
        window = taken + 1;
    }
}

fn one(check: &mut Check, hogs: &[&Ward], victim: &Ward, run: u64, sleep: u64) {
    let count = hogs.len() as u64;
    for hog in hogs {
        hog.order(HOG, &[ticks(run), ticks(sleep)]);
    }
    // They must be at it, else nothing is tested.
    let beats: u64 = hogs.iter().map(|hog| hog.beat()).sum();
    let gap = longest_gap(check, victim, 4);
    let bound = longest_delay_us(count);
    check.within("longest gap (us)", gap, BUDGET_US.min(run) / 2, bound);
    check.holds("the victim sleeps", victim.ask(LATENESS, &[ticks(1_300), 200]));
    let late = us(victim.result(0));
    check.within("latest wake (us)", late, BUDGET_US.min(run) / 2, bound);
    let now: u64 = hogs.iter().map(|hog| hog.beat()).sum();
    check.holds("the hogs run", now > beats);
    defmt::info!(
        "{=u64} hogs, run {=u64} us, sleep {=u64} us: longest gap {=u64} us, latest wake {=u64} us, \
         promised {=u64} us",
        count,
        run,
        sleep,
        gap,
        late,
        bound
    );
    for hog in hogs {
        hog.stop(check);
        hog.revive(check);
    }
    check.holds("the victim is alive", victim.until(PATIENCE, || victim.is_done()));
}
