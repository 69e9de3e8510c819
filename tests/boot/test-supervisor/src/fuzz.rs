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
use cloister_rt::abi::fault::TaskState;
use cloister_rt::{Bits, Deadline, Duration, Instant, grants, wait};

use crate::report::Report;
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
            Caller { ward, beat: 0, since: Instant::now(), restarts: 0 }
        });
        let end = Instant::now() + PATIENCE;
        while !wards.iter().all(|ward| ward.page.get(CALLS) >= each) {
            wait(bits, Deadline::after(Duration::from_millis(1)));
            callers.iter_mut().for_each(|caller| attend(caller, each));
            own_calls += own_call(&mut own, &wards);
            if Instant::now() > end {
                break;
            }
        }
        let restarts: u64 = callers.iter().map(|caller| caller.restarts).sum();
        for ward in &wards {
            check.equal("calls that a probe made", ward.page.get(CALLS), each);
        }
        check.within("restarts", restarts, 1000, u64::MAX);
        defmt::info!("restarts: {=u64}, calls of the supervisor: {=u64}", restarts, own_calls);
    });
    count(report, &wards, each);
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
    match ward.state() {
        TaskState::Faulted | TaskState::Stopped if ward.page.get(CALLS) < each => {
            if ward.task.control.restart().is_ok() {
                caller.restarts += 1;
                ward.order(FUZZ, &[each]);
            }
            caller.since = Instant::now();
        }
        TaskState::Running => {
            let beat = ward.beat();
            if beat != caller.beat {
                (caller.beat, caller.since) = (beat, Instant::now());
            } else if caller.since.elapsed() > STUCK && ward.page.get(CALLS) < each {
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
            0 => random.next(),
            1 => raw::slots() + random.below(4),
            _ => target,
        };
        let (a, b) = if call as u32 == Call::Wait as u32 {
            (0, random.below(1000))
        } else {
            (slot, random.below(9))
        };
        raw::known(call, a, b, random.next());
    }
    8
}

/// Every call number was used, and the sums agree.
fn count(report: &mut Report, wards: &[Ward], each: u64) {
    report.case("every call was made", |check| {
        let mut total = 0;
        for number in 0..17 {
            let made = wards.iter().map(|ward| ward.page.get(CALLS_BY_NUMBER + number)).sum();
            check.within("calls of one number", made, each / 100, u64::MAX);
            total += made;
        }
        check.equal("sum over the numbers", total, each * wards.len() as u64);
        defmt::info!("random calls made: {=u64}", total);
    });
}
