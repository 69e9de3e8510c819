//! Restart in every state, on the supervisor's core and on others, of one thread and of several.

use boot_common::orders::{
    CALL, COUNT, FAULT_AT, SPIN, THREAD_FAULT, THREAD_POLL, THREAD_SLEEP, THREAD_SPIN, WAIT,
};
use boot_common::page::{ASKED, DONE, OWN_BITS, RESULTS, THREAD_LIFE, THREAD_ORDER};
use boot_common::random::Random;
use cloister_rt::abi::call::{Call, NEVER, Status};
use cloister_rt::abi::fault::{FaultKind, TaskState};
use cloister_rt::{Duration, Instant, clock};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::{PATIENCE, Ward, pause};

const MS: Duration = Duration::from_millis(1);
/// Seed of the moments at which things meet.
const SEED: u64 = 0x5eed_0003;
/// How often a race is run.
const RACES: u32 = 200;

/// Runs everything.
pub fn run(report: &mut Report) {
    let near = ward!("near", 0);
    let far = ward!("far", 1);
    for ward in [&near, &far] {
        spinning(report, ward);
        waiting(report, ward);
        resumed(report, ward);
        faulted(report, ward);
        racing(report, ward);
        signalled(report, ward);
    }
    let pair = ward!("pair", 1);
    many_threads(report, &pair, 1);
    let quad = ward!("quad", 2);
    many_threads(report, &quad, 3);
    thousand(report, "a thousand restarts on the same core", &near);
    thousand(report, "a thousand restarts on another core", &far);
    report.case("everybody is alive", |check| {
        for ward in [&near, &far, &pair, &quad] {
            check.holds("it answers", ward.is_alive());
        }
    });
}

/// Whether the probe's counter stands still.
fn stands_still(ward: &Ward) -> bool {
    let before = ward.beat();
    pause(Duration::from_millis(3));
    before == ward.beat()
}

/// Whether it moves.
fn moves(ward: &Ward) -> bool {
    let before = ward.beat();
    ward.until(PATIENCE, || ward.beat() != before)
}

/// Running (on another core) or preempted (on this one).
fn spinning(report: &mut Report, ward: &Ward) {
    report.case("restart a task that runs", |check| {
        ward.order(SPIN, &[]);
        check.holds("it runs", moves(ward));
        ward.stop(check);
        check.holds("it stands still", stands_still(ward));
        ward.revive(check);
        check.holds("the old life is over", stands_still(ward));
    });
    report.case("restart a task that is ready and has not run", |check| {
        ward.order(SPIN, &[]);
        // On this core the supervisor is more urgent: the probe has not begun.
        ward.stop(check);
        check.holds("it stands still", stands_still(ward));
        ward.revive(check);
    });
    report.case("resume a task that runs", |check| {
        ward.order(SPIN, &[]);
        check.holds("it runs", moves(ward));
        for _ in 0..20 {
            ward.stop(check);
            check.holds("it stands still", stands_still(ward));
            check.holds("resume is allowed", ward.task.control.resume().is_ok());
            check.holds("it runs on where it was", moves(ward));
        }
        ward.stop(check);
        ward.revive(check);
    });
}

/// Asleep, with and without a deadline, and with one that has passed.
fn waiting(report: &mut Report, ward: &Ward) {
    let hour = || (Instant::now() + Duration::from_secs(3600)).tsc();
    for (name, deadline) in [
        ("restart a task that waits", NEVER),
        ("restart a task that waits with a deadline", hour()),
    ] {
        report.case(name, |check| {
            check.holds("it begins", ward.begin_wait(deadline));
            ward.stop(check);
            ward.revive(check);
            check.holds("it answers", ward.is_alive());
        });
    }
    report.case("restart a task whose deadline passed while it was stopped", |check| {
        ward.order(WAIT, &[(Instant::now() + MS).tsc()]);
        ward.stop(check);
        pause(Duration::from_millis(3));
        check.equal("state", ward.state() as u64, TaskState::Stopped as u64);
        ward.revive(check);
        check.holds("it answers", ward.is_alive());
    });
    report.case("restart a task while its deadline passes", |check| {
        let mut random = Random::new(SEED);
        for _ in 0..RACES {
            let deadline = (Instant::now() + Duration::from_micros(300)).tsc();
            ward.order(WAIT, &[deadline]);
            // From well before to well after it.
            let spread = clock().ticks(Duration::from_micros(60));
            let moment = deadline - spread / 2 + random.below(spread);
            cloister_rt::sleep_until(Instant::from_tsc(deadline - spread));
            while Instant::now().tsc() < moment {}
            ward.stop(check);
            ward.revive(check);
            if check.has_failed() {
                return;
            }
        }
    });
}

/// Stopped in the middle of a wait, which then goes on.
fn resumed(report: &mut Report, ward: &Ward) {
    let bit = ward.page.get(OWN_BITS);
    report.case("a wait goes on after a resume", |check| {
        check.holds("it begins", ward.begin_wait(NEVER));
        ward.stop(check);
        check.holds("resume is allowed", ward.task.control.resume().is_ok());
        pause(Duration::from_millis(2));
        check.holds("it still waits", !ward.is_done());
        ward.mail.peer.wake();
        check.holds("it wakes", ward.until(PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Ok as u64);
        check.equal("bits", ward.result(1), bit);
    });
    report.case("a bit that came while it was stopped is not lost", |check| {
        check.holds("it begins", ward.begin_wait(NEVER));
        ward.stop(check);
        ward.mail.peer.wake();
        pause(MS);
        check.equal("state", ward.state() as u64, TaskState::Stopped as u64);
        check.holds("it does not run", !ward.is_done());
        check.holds("resume is allowed", ward.task.control.resume().is_ok());
        check.holds("it wakes", ward.until(PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Ok as u64);
        check.equal("bits", ward.result(1), bit);
    });
    report.case("a deadline holds across a stop", |check| {
        let deadline = (Instant::now() + Duration::from_millis(6)).tsc();
        check.holds("it begins", ward.begin_wait(deadline));
        ward.stop(check);
        check.holds("resume is allowed", ward.task.control.resume().is_ok());
        check.holds("it wakes", ward.until(PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Deadline as u64);
        check.holds("not too early", ward.result(3) >= deadline);
    });
    report.case("a sleep goes on after a resume", |check| {
        let deadline = (Instant::now() + Duration::from_millis(6)).tsc();
        ward.order(CALL, &[Call::Wait as u64, 0, deadline, 0]);
        pause(MS);
        ward.stop(check);
        check.holds("resume is allowed", ward.task.control.resume().is_ok());
        check.holds("it wakes", ward.until(PATIENCE, || ward.is_done()));
        check.holds("not too early", Instant::now().tsc() >= deadline);
        check.equal("status", ward.result(0), Status::Deadline as u64);
    });
    report.case("a deadline that passed while it was stopped", |check| {
        let deadline = Instant::now() + Duration::from_millis(80);
        check.holds("it begins", ward.begin_wait(deadline.tsc()));
        ward.stop(check);
        cloister_rt::sleep_until(deadline + MS);
        check.holds("it does not run", !ward.is_done());
        check.holds("resume is allowed", ward.task.control.resume().is_ok());
        check.holds("it wakes", ward.until(PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Deadline as u64);
    });
}

fn fault_now(ward: &Ward, check: &mut Check) {
    ward.order(FAULT_AT, &[0]);
    check.holds("the fault is signalled", ward.parked());
    check.equal("state", ward.state() as u64, TaskState::Faulted as u64);
}

/// Parked already, by either way, for a while.
fn faulted(report: &mut Report, ward: &Ward) {
    report.case("restart a task that has faulted", |check| {
        fault_now(ward, check);
        ward.mail.peer.wake();
        pause(MS);
        check.holds("it stands still", stands_still(ward));
        ward.revive(check);
    });
    report.case("restart a task that left", |check| {
        ward.order(CALL, &[Call::Leave as u64, 0, 0, 0]);
        check.holds("its end is signalled", ward.parked());
        check.equal("kind", ward.fault().kind as u64, FaultKind::Leave as u64);
        ward.revive(check);
    });
    report.case("restart a task while it is being stopped", |check| {
        for _ in 0..RACES {
            ward.order(SPIN, &[]);
            check.holds("it runs", moves(ward));
            check.holds("stop is allowed", ward.task.control.stop().is_ok());
            let lives = ward.void_orders();
            // Refused until the last thread is parked, then allowed once.
            let end = Instant::now() + PATIENCE;
            while ward.task.control.restart().is_err() {
                if Instant::now() > end {
                    check.holds("the restart is allowed in the end", false);
                    return;
                }
            }
            ward.expect_life(check, lives);
            if check.has_failed() {
                return;
            }
        }
    });
}

/// A stop and a fault at the same time: one episode, one signal, and a record that fits.
fn racing(report: &mut Report, ward: &Ward) {
    report.case("a stop meets a fault", |check| {
        let mut random = Random::new(SEED + 1);
        let spread = clock().ticks(Duration::from_micros(40));
        for _ in 0..RACES {
            let moment = (Instant::now() + Duration::from_micros(200)).tsc();
            ward.order(FAULT_AT, &[moment]);
            let stop_at = moment - spread / 2 + random.below(spread);
            cloister_rt::sleep_until(Instant::from_tsc(moment - spread));
            while Instant::now().tsc() < stop_at {}
            let stopped = ward.task.control.stop().is_ok();
            check.holds("the end is signalled", ward.parked());
            if ward.state() == TaskState::Stopped {
                check.holds("only a stop stops", stopped);
                // It goes on, and its fault is still to come.
                check.holds("resume is allowed", ward.task.control.resume().is_ok());
                check.holds("the fault is signalled", ward.parked());
            }
            let found = ward.fault();
            check.equal("state", found.state as u64, TaskState::Faulted as u64);
            check.equal("kind", found.kind as u64, FaultKind::Exception as u64);
            check.equal("generation", found.generation, ward.generation.get());
            check.equal("address", found.address, 0);
            ward.revive(check);
            if check.has_failed() {
                return;
            }
        }
    });
}

/// Signals, stops and resumes in any order: no bit is lost, no wait is forgotten.
fn signalled(report: &mut Report, ward: &Ward) {
    report.case("signals race with stops and resumes", |check| {
        // Two signals are one while nobody takes them: it must have taken the order.
        ward.page.set(RESULTS, 0);
        ward.order(COUNT, &[]);
        check.holds("it begins", ward.until(PATIENCE, || ward.result(0) == 1));
        let mut random = Random::new(SEED + 2);
        for _ in 0..2 * RACES {
            let before = ward.beat();
            let first = random.below(2) == 0;
            if first {
                ward.mail.peer.wake();
            }
            pause(Duration::from_nanos(random.below(30_000)));
            ward.stop(check);
            if !first {
                ward.mail.peer.wake();
            }
            check.holds("resume is allowed", ward.task.control.resume().is_ok());
            check.holds("the signal arrives", ward.until(PATIENCE, || ward.beat() != before));
            if check.has_failed() {
                break;
            }
        }
        ward.stop(check);
        ward.revive(check);
    });
}

/// A task of several threads, each on another core.
fn many_threads(report: &mut Report, ward: &Ward, further: usize) {
    let threads = || 1..=further;
    let begun = |ward: &Ward| {
        let life = ward.generation.get() + 1;
        ward.until(PATIENCE, || threads().all(|t| ward.page.get(THREAD_LIFE + t) == life))
    };
    let orders = |order| threads().for_each(|t| ward.page.set(THREAD_ORDER + t, order));
    let still = |ward: &Ward| {
        let sum = || threads().map(|t| ward.thread_beat(t)).sum::<u64>() + ward.beat();
        let before = sum();
        pause(Duration::from_millis(3));
        before == sum()
    };
    for (name, order) in [
        ("stop and restart threads that sleep", THREAD_SLEEP),
        ("stop and restart threads that poll", THREAD_POLL),
        ("stop and restart threads that run", THREAD_SPIN),
    ] {
        report.case(name, |check| {
            check.holds("all threads begin", begun(ward));
            orders(order);
            pause(Duration::from_millis(2));
            ward.stop(check);
            check.holds("all threads stand still", still(ward));
            check.holds("resume is allowed", ward.task.control.resume().is_ok());
            check.holds("it runs on", ward.is_alive());
            ward.stop(check);
            orders(THREAD_POLL);
            ward.revive(check);
            check.holds("all threads begin again", begun(ward));
        });
    }
    report.case("one thread's fault parks all", |check| {
        for round in 0..RACES {
            let faulting = 1 + round as usize % further;
            orders(THREAD_SPIN);
            ward.page.set(THREAD_ORDER + faulting, THREAD_FAULT);
            check.holds("the fault is signalled", ward.parked());
            let found = ward.fault();
            check.equal("state", found.state as u64, TaskState::Faulted as u64);
            check.equal("thread", found.thread, faulting as u64);
            check.equal("address", found.address, 0);
            check.equal("generation", found.generation, ward.generation.get());
            check.holds("all threads stand still", round % 50 != 0 || still(ward));
            orders(THREAD_POLL);
            ward.revive(check);
            check.holds("all threads begin again", begun(ward));
            if check.has_failed() {
                return;
            }
        }
    });
    report.case("all threads fault at once", |check| {
        for _ in 0..RACES {
            orders(THREAD_FAULT);
            ward.order(FAULT_AT, &[0]);
            check.holds("the fault is signalled", ward.parked());
            let found = ward.fault();
            check.equal("state", found.state as u64, TaskState::Faulted as u64);
            check.equal("kind", found.kind as u64, FaultKind::Exception as u64);
            orders(THREAD_POLL);
            ward.revive(check);
            check.holds("all threads begin again", begun(ward));
            if check.has_failed() {
                return;
            }
        }
    });
}

/// Many lives: the generation counts each, and each finds its memory pristine.
fn thousand(report: &mut Report, name: &'static str, ward: &Ward) {
    report.case(name, |check| {
        let first = ward.generation.get();
        for round in 0..1000_u64 {
            match round % 3 {
                0 => ward.stop(check),
                1 => fault_now(ward, check),
                _ => {
                    ward.order(CALL, &[Call::Leave as u64, 0, round, 0]);
                    check.holds("its end is signalled", ward.parked());
                    check.equal("detail", ward.fault().detail, round);
                }
            }
            ward.revive(check);
            if check.has_failed() {
                return;
            }
        }
        let found = ward.fault();
        check.equal("generation", found.generation, first + 1000);
        check.equal("orders", ward.page.get(DONE), ward.page.get(ASKED));
    });
}
