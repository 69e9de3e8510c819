//! Random system calls from several cores at once, the supervisor's own among them.
//!
//! Each probe counts a call before it makes it and keeps its generator's state in the shared page,
//! so that no restart loses or repeats one. A probe that faults is restarted; one that does not get
//! on (it waits for what never comes) is stopped and restarted.

use boot_common::orders::FUZZ;
use boot_common::page::{CALLS, CALLS_BY_NUMBER, LIVES, SEED};
use boot_common::random::Random;
use boot_common::raw;
use cloister_rt::abi::call::Call;
use cloister_rt::abi::fault::{FaultKind, TaskState};
use cloister_rt::{Bits, Deadline, Duration, Instant, grants, wait};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::Ward;

/// Without a call for so long a probe is stuck.
const STUCK: Duration = Duration::from_millis(4);
/// For everything.
const PATIENCE: Duration = Duration::from_secs(600);

struct Caller<'a> {
    ward: &'a Ward,
    beat: u64,
    since: Instant,
    restarts: u64,
    /// Lives that ended in a call.
    ended: u64,
}

/// Calls that a probe has begun.
fn begun(ward: &Ward) -> u64 {
    (0..17).map(|number| ward.page.get(CALLS_BY_NUMBER + number)).sum()
}

/// Runs until every probe has made its calls.
pub fn run(report: &mut Report) {
    let wards = [ward!("near", 0), ward!("far", 1), ward!("third", 2)];
    let bystanders = [ward!("bystander", 0), ward!("watcher", 1)];
    let each = grants().number("calls").unwrap_or(100_000);
    let seed = grants().number("seed").unwrap_or(1);
    defmt::info!("random calls: seed {=u64}, {=u64} from each probe", seed, each);
    let mut own = Random::new(seed ^ 0x0b05_5000);
    let mut own_calls = 0;
    report.case("random calls", |check| {
        let mut bits = Bits::NONE;
        let mut callers = [0, 1, 2].map(|index| {
            let ward = &wards[index];
            bits |= ward.task.bits;
            ward.page.set(SEED, seed.wrapping_mul(index as u64 + 1));
            ward.order(FUZZ, &[each]);
            Caller { ward, beat: 0, since: Instant::now(), restarts: 0, ended: 0 }
        });
        let end = Instant::now() + PATIENCE;
        while !wards.iter().all(|ward| begun(ward) >= each) {
            wait(bits, Deadline::after(Duration::from_millis(1)));
            callers.iter_mut().for_each(|caller| attend(caller, each));
            own_calls += own_call(&mut own, &wards);
            if Instant::now() > end {
                break;
            }
        }
        let restarts: u64 = callers.iter().map(|caller| caller.restarts).sum();
        check.within("restarts", restarts, 1000, u64::MAX);
        defmt::info!("restarts: {=u64}, calls of the supervisor: {=u64}", restarts, own_calls);
        let ended: u64 = callers.iter().map(|caller| caller.ended).sum();
        count(check, &wards, each, ended);
    });
    report.case("bystanders", |check| {
        for ward in &bystanders {
            check.holds("it answers", ward.is_alive());
            check.equal("lives", ward.page.get(LIVES), 1);
        }
    });
    report.case("the callers can be restarted to order", |check| {
        for ward in &wards {
            if ward.state() == TaskState::Running {
                ward.stop(check);
            } else {
                ward.parked();
            }
            ward.generation.set(ward.fault().generation);
            ward.revive(check);
            check.holds("it answers", ward.is_alive());
        }
    });
}

/// Restarts what has stopped, and stops what is stuck.
fn attend(caller: &mut Caller, each: u64) {
    let ward = caller.ward;
    let state = ward.state();
    match state {
        TaskState::Faulted | TaskState::Stopped if begun(ward) < each => {
            let kind = ward.fault().kind;
            if ward.task.control.restart().is_ok() {
                caller.restarts += 1;
                let by_call = matches!(kind, FaultKind::BadCall | FaultKind::Leave);
                caller.ended += u64::from(by_call && state == TaskState::Faulted);
                ward.order(FUZZ, &[each]);
            }
            caller.since = Instant::now();
        }
        TaskState::Running => {
            let beat = ward.beat();
            if beat != caller.beat {
                (caller.beat, caller.since) = (beat, Instant::now());
            } else if caller.since.elapsed() > STUCK && begun(ward) < each {
                let _ = ward.task.control.stop();
                caller.since = Instant::now();
            }
        }
        _ => {}
    }
}

/// The supervisor's own random calls: all that do not end it or the machine. Bystanders are not
/// its target, and waits do not last. Returns how many it made.
fn own_call(random: &mut Random, wards: &[Ward]) -> u64 {
    const CALLS: [Call; 9] = [
        Call::Signal,
        Call::VcpuRun,
        Call::IrqAck,
        Call::DeviceReset,
        Call::Restart,
        Call::Stop,
        Call::Resume,
        Call::FaultInfo,
        Call::Wait,
    ];
    for _ in 0..8 {
        let call = CALLS[random.below(9) as usize];
        let target = wards[random.below(3) as usize].slot;
        let slot = match random.below(4) {
            0 => random.draw(),
            1 => raw::slots() + random.below(4),
            _ => target,
        };
        let (a, b) = if call as u32 == Call::Wait as u32 {
            (0, random.below(1000))
        } else {
            (slot, random.below(9))
        };
        raw::known(call, a, b, random.draw());
    }
    8
}

/// Every call number was used. A call was made for certain if it returned or ended the caller;
/// those in which a probe was stopped are not counted.
fn count(check: &mut Check, wards: &[Ward], each: u64, ended: u64) {
    for number in 0..17 {
        let made = wards.iter().map(|ward| ward.page.get(CALLS_BY_NUMBER + number)).sum();
        check.within("calls of one number", made, each / 100, u64::MAX);
    }
    let all: u64 = wards.iter().map(begun).sum();
    check.equal("calls begun", all, each * wards.len() as u64);
    let returned: u64 = wards.iter().map(|ward| ward.page.get(CALLS)).sum();
    let made = returned + ended;
    check.within("calls made", made, all * 9 / 10, all);
    defmt::info!(
        "random calls: {=u64} begun, {=u64} returned, {=u64} ended the caller; made: {=u64}",
        all,
        returned,
        ended,
        made
    );
}
