//! The kill sweep: a disk's driver is killed again and again, at seeded moments, while a guest
//! writes and verifies. Here are the kills; the guest says whether its blocks are right, the driver
//! says what each life died of, and the host counts that and looks at the blocks afterwards.
//!
//! The driver is on this task's core, which is the more urgent one of the two: so its deadline
//! ends the driver between two instructions of its own, and with counted instructions at the same
//! ones in every run. The events that a kill can follow are what the driver logs in its life (the
//! third line comes before its first turn, the fourth after it, if it took something over) and its
//! answers to its watchdog, one at the begin of each turn.

use boot_common::random::Random;
use cloister_ring::log::Reader;
use cloister_ring::pulse::Asker;
use cloister_rt::abi::fault::{FaultKind, LeaveReason, TaskState};
use cloister_rt::abi::name_str;
use cloister_rt::{Duration, Instant, Signal, Supervised, clock, grants, sleep_until};

use crate::report::{Check, Report};

/// How long the driver may take to be parked, or to begin its loop: emulated machines stall.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an answer is looked for.
const LOOK: Duration = Duration::from_micros(10);
/// How long the driver is kept from running.
const PILE: Duration = Duration::from_micros(600);
/// Lines that a life logs before its first turn.
const LINES: u64 = 3;
/// Kills between two lines of progress.
const MARK: u64 = 50;

/// When a kill comes.
#[derive(Clone, Copy)]
enum When {
    /// Some time after the new life was started, whatever it does.
    AfterStart,
    /// Soon after its first turn began: it takes over its queues.
    AfterFirstTurn,
    /// Some time after its first turn began.
    Later,
    /// Soon after one of its later turns began: a doorbell, an interrupt or a question woke it.
    AfterTurn,
    /// Soon after it was kept from running for a while, so that completions and doorbells wait.
    AfterPile,
}

impl When {
    /// More than half of the kills come soon after an event.
    fn choose(random: &mut Random) -> When {
        match random.below(8) {
            0 => When::AfterStart,
            1 => When::AfterFirstTurn,
            2 => When::Later,
            3 => When::AfterTurn,
            _ => When::AfterPile,
        }
    }
}

/// The driver and its guest.
struct Sweep {
    driver: Supervised,
    guest: Supervised,
    asker: Asker<'static>,
    wake: Signal,
    log: Reader<'static>,
    /// Lines that the driver has logged in this life.
    lines: u64,
    random: Random,
    /// When the driver's life began.
    began: Instant,
    /// Most of the time between two kills, if nothing is waited for.
    gap: Duration,
}

/// Runs the sweep.
pub fn run(report: &mut Report) {
    let number = |name| grants().number(name).expect("the manifest says how the sweep goes");
    let (least, seed, gap) = (number("kills"), number("seed"), number("gap"));
    let find = |name| {
        let mut all = grants().supervised().expect("the builder gives the policies");
        all.find(|task| name_str(&task.policy.name) == name).expect("the manifest has the task")
    };
    let (page, wake) = grants().watch("driver").expect("the manifest has the driver watched");
    let asker = Asker::new(page.words()).expect("a page has two words");
    let log = grants().shared("log/driver").expect("the manifest lets this task read logs");
    let (log, lines) = (Reader::new(log.words()), 0);
    let random = Random::new(seed);
    let (driver, guest) = (find("driver"), find("disk"));
    let gap = Duration::from_micros(gap);
    let began = Instant::now();
    let mut sweep = Sweep { driver, guest, asker, wake, log, lines, random, began, gap };
    report.case("the driver comes back from every kill", |check| {
        let mut kills = 0;
        while sweep.is(&sweep.guest, TaskState::Running) && !check.has_failed() {
            kills += 1;
            sweep.kill(check, kills);
            if kills.is_multiple_of(MARK) {
                defmt::info!("killed {=u64} times, seed {=u64}", kills, seed);
            }
        }
        check.within("kills", kills, least, u64::MAX);
    });
    report.case("the guest has seen nothing of it", |check| sweep.last(check));
}

impl Sweep {
    /// Kills the driver once and starts it again.
    fn kill(&mut self, check: &mut Check, nth: u64) {
        let when = When::choose(&mut self.random);
        if !matches!(when, When::AfterStart) {
            check.holds("the driver gets to its first turn", self.begins());
        }
        let moment = match when {
            When::AfterStart => self.within(Duration::from_millis(8)),
            When::AfterFirstTurn => self.within(Duration::from_micros(150)),
            When::Later => self.within(self.gap),
            When::AfterTurn => {
                sleep_until(self.within(self.gap));
                check.holds("the driver takes a turn", self.answers());
                self.within(Duration::from_micros(120))
            }
            When::AfterPile => {
                sleep_until(self.within(self.gap));
                // This core is the driver's.
                let end = Instant::now() + PILE;
                while Instant::now() < end {
                    core::hint::spin_loop();
                }
                self.within(Duration::from_micros(200))
            }
        };
        sleep_until(moment);
        let age = moment.tsc().saturating_sub(self.began.tsc());
        // One that has come to rest by itself cannot be stopped, and must not have.
        check.holds("the driver runs", self.driver.control.stop().is_ok());
        check
            .holds("it is parked", self.until(|sweep| sweep.is(&sweep.driver, TaskState::Stopped)));
        // What the old life has logged.
        self.begun();
        self.lines = 0;
        self.began = Instant::now();
        check.holds("it starts again", self.driver.control.restart().is_ok());
        if check.has_failed() {
            let rip = self.driver.control.fault().map_or(0, |report| report.rip);
            defmt::error!("kill {=u64}, {=u64} ticks old, rip {=u64:#x}", nth, age, rip);
        } else {
            defmt::info!("kill {=u64}: {=u64} ticks after its start", nth, age);
        }
    }

    /// How the guest has ended.
    fn last(&mut self, check: &mut Check) {
        self.until(|sweep| sweep.is(&sweep.guest, TaskState::Faulted));
        let fault = self.guest.control.fault().expect("the supervisor may read it");
        check.equal("the guest's state", fault.state as u64, TaskState::Faulted as u64);
        check.equal("how it ended", fault.kind as u64, FaultKind::Leave as u64);
        check.equal("its reason", fault.reason, LeaveReason::Exit as u64);
        check.equal("its status", fault.detail, 0);
    }

    /// A moment from now on, at most so far away.
    fn within(&mut self, most: Duration) -> Instant {
        let now = Instant::now().tsc();
        Instant::from_tsc(now.saturating_add(self.random.below(clock().ticks(most))))
    }

    /// Waits until the driver is about to take its first turn.
    fn begins(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while !self.begun() {
            if Instant::now() >= end {
                return false;
            }
            sleep_until(Instant::now() + LOOK);
        }
        true
    }

    /// Whether it has said all that it says before.
    fn begun(&mut self) -> bool {
        while self.log.next(&mut [0; 8]).is_some() {
            self.lines += 1;
        }
        self.lines >= LINES
    }

    /// Asks the driver for a turn, and waits until it begins.
    fn answers(&self) -> bool {
        self.asker.ask();
        self.wake.wake();
        self.until(|sweep| sweep.asker.is_answered())
    }

    fn is(&self, task: &Supervised, state: TaskState) -> bool {
        task.control.state().is_ok_and(|found| found == state)
    }

    fn until(&self, is_so: impl Fn(&Sweep) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() >= end {
                return false;
            }
            sleep_until(Instant::now() + LOOK);
        }
        true
    }
}
