//! Budgets: what urgent tasks that use up all they can take from a less urgent one, against the
//! promise of docs/notes/0003-scheduling.md. Needs counted instructions, so that the machine that
//! emulates does not show in the numbers.

use boot_common::orders::{GAPS, HOG, LATENESS};
use cloister_rt::{Duration, Instant, clock, sleep_until};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::Ward;

/// Budget and period of both hogs, as the manifest has them.
const BUDGET_US: u64 = 2_000;
const PERIOD_US: u64 = 10_000;
/// What the kernel itself may take in a window: switches, interrupts, the console's neighbours.
const KERNEL_US: u64 = 60;
/// How long the victim measures at a time: less than its budget, which is not to show.
const MEASURE_US: u64 = 4_000;
/// The hogs repeat themselves every 20 ms. Each measurement begins 1.9 ms later in that cycle than the
/// one before, which is less than half its length: no delay can hide between two of them.
const ROUND_US: u64 = 21_900;
const ROUNDS: u64 = 11;
/// Gaps with less of the victim's own time between them are one delay.
const APART_US: u64 = 100;
/// Shorter pauses of the victim are not counted as being kept from the CPU.
const THRESHOLD_US: u64 = 20;

/// Runs everything.
pub fn run(report: &mut Report) {
    let first = ward!("first", 1);
    let second = ward!("second", 1);
    let victim = ward!("victim", 1);
    report.case("alone the victim is not kept from the CPU", |check| {
        let (taken, _) = longest_delay(check, &victim);
        check.within("longest delay (us)", taken, 0, KERNEL_US);
    });
    for hog in HOGS {
        report.case(hog.name, |check| one(check, &[&first], &victim, hog, hog.least_one));
    }
    for hog in HOGS {
        report.case(hog.name, |check| one(check, &[&first, &second], &victim, hog, hog.least_two));
    }
}

/// How a hog behaves, in microseconds, and how much of one or two such hogs must be seen, lest
/// nothing was tested.
struct Hog {
    name: &'static str,
    run: u64,
    sleep: u64,
    first: u64,
    least_one: u64,
    least_two: u64,
}

const HOGS: &[Hog] = &[
    Hog {
        name: "hogs that never sleep",
        run: u64::MAX / 8192,
        sleep: 0,
        first: 0,
        least_one: BUDGET_US - 10,
        least_two: 2 * BUDGET_US - 20,
    },
    Hog {
        name: "hogs that sleep just before their budget ends",
        run: BUDGET_US - 30,
        sleep: 1,
        first: 0,
        least_one: BUDGET_US - 100,
        least_two: BUDGET_US - 100,
    },
    Hog {
        name: "hogs that sleep when their budget ends",
        run: BUDGET_US,
        sleep: 1,
        first: 0,
        least_one: BUDGET_US - 100,
        least_two: BUDGET_US - 100,
    },
    // The refills begin with the order; the budget is saved up to the next one, and the budget
    // after that comes on top. Every second period, because the one between has nothing to save.
    Hog {
        name: "hogs that save their budget up to the refill",
        run: 2 * BUDGET_US,
        sleep: 2 * PERIOD_US - 2 * BUDGET_US,
        first: PERIOD_US - BUDGET_US,
        least_one: 2 * BUDGET_US - 200,
        least_two: 2 * BUDGET_US - 200,
    },
    Hog {
        name: "hogs that run in small pieces",
        run: 70,
        sleep: 3,
        first: 0,
        least_one: BUDGET_US - 200,
        least_two: BUDGET_US - 200,
    },
];

fn us(ticks: u64) -> u64 {
    clock().duration(ticks).as_micros()
}

fn ticks(us: u64) -> u64 {
    clock().ticks(Duration::from_micros(us))
}

/// The longest delay of the victim, measured again and again at other moments of the hogs' periods:
/// what it took and how long it was, in microseconds.
fn longest_delay(check: &mut Check, victim: &Ward) -> (u64, u64) {
    let mut longest = (0, 0);
    let start = Instant::now();
    for round in 0..ROUNDS {
        sleep_until(start + Duration::from_micros(round * ROUND_US));
        let arguments = [MEASURE_US, THRESHOLD_US, APART_US].map(ticks);
        check.holds("the victim measures", victim.ask(GAPS, &arguments));
        longest = longest.max((us(victim.result(0)), us(victim.result(1))));
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

fn one(check: &mut Check, hogs: &[&Ward], victim: &Ward, kind: &Hog, least: u64) {
    let count = hogs.len() as u64;
    for hog in hogs {
        hog.order(HOG, &[ticks(kind.run), ticks(kind.sleep), ticks(kind.first)]);
    }
    let beats: u64 = hogs.iter().map(|hog| hog.beat()).sum();
    let (taken, window) = longest_delay(check, victim);
    let promised = count * bound_us(window, BUDGET_US, PERIOD_US) + KERNEL_US;
    check.within("longest delay (us)", taken, least, promised);
    let bound = longest_delay_us(count);
    check.within("longest delay in any window (us)", taken, least, bound);
    check.holds("the victim sleeps", victim.ask(LATENESS, &[ticks(1_370), 80]));
    let late = us(victim.result(0));
    check.within("latest wake (us)", late, kind.run.min(least) / 3, bound);
    let now: u64 = hogs.iter().map(|hog| hog.beat()).sum();
    check.holds("the hogs run", now > beats);
    defmt::info!(
        "{=u64} {=str}: took {=u64} us of {=u64} us, latest wake {=u64} us, promised {=u64} us",
        count,
        kind.name,
        taken,
        window,
        late,
        bound
    );
    for hog in hogs {
        hog.stop(check);
        hog.revive(check);
    }
    check.holds("the victim is alive", victim.is_alive());
}
