//! Device interrupts: the owner's next life begins with them masked, their rate is bounded, and a
//! storm stops the device and its owner but nobody else.

use boot_common::orders::{FAULT_AT, IRQ_CYCLE, IRQ_PACED, IRQ_STORM};
use cloister_rt::abi::fault::{FaultKind, TaskState};
use cloister_rt::{Duration, Instant, clock};

use crate::report::{Check, Report};
use crate::ward;
use crate::ward::Ward;

/// What the board file allows in a second.
const RATE_MAX: u64 = 2000;

/// Runs everything; the manifest decides on which core the supervisor is.
pub fn run(report: &mut Report) {
    let owner = ward!("near", 0);
    let far = ward!("far", 1);
    let bystander = ward!("bystander", 0);
    cycle(report, "interrupts come, masked until acknowledged", &owner);
    report.case("a new life begins with its interrupt masked", |check| {
        // Left unmasked, then the task dies.
        check.holds("it answers", owner.ask(IRQ_PACED, &[1, 0]));
        owner.order(FAULT_AT, &[0]);
        check.holds("the fault is signalled", owner.parked());
        owner.revive(check);
    });
    cycle(report, "and so it is", &owner);
    report.case("below the rate nothing is stopped", |check| {
        let pause = clock().ticks(Duration::from_micros(800));
        check.holds("it answers", owner.ask(IRQ_PACED, &[2500, pause]));
        check.equal("interrupts", owner.result(0), 2500);
    });
    for _ in 0..3 {
        report.case("a storm stops the device and its owner", |check| {
            storm(check, &owner, &[&far, &bystander]);
        });
        cycle(report, "after the storm", &owner);
    }
}

fn cycle(report: &mut Report, name: &'static str, owner: &Ward) {
    report.case(name, |check| {
        owner.stop(check);
        owner.revive(check);
        check.holds("it answers", owner.ask(IRQ_CYCLE, &[]));
        check.equal("the device is there", owner.result(6), 1);
        check.equal("before the first acknowledgement", owner.result(0), 0);
        check.equal("after it", owner.result(1), 1);
        check.equal("without another one", owner.result(2), 0);
        check.equal("after another one", owner.result(3), 1);
        check.equal("refused acknowledgements", owner.result(5), 0);
    });
}

fn storm(check: &mut Check, owner: &Ward, others: &[&Ward]) {
    let (before, start) = (owner.beat(), Instant::now());
    owner.order(IRQ_STORM, &[]);
    check.holds("the storm is signalled", owner.parked());
    let found = owner.fault();
    check.equal("state", found.state as u64, TaskState::Faulted as u64);
    check.equal("kind", found.kind as u64, FaultKind::InterruptStorm as u64);
    // The console's interrupt comes first in the system table.
    check.equal("index of the interrupt", found.address, 1);
    check.equal("core", found.core, 0);
    // The second of counting began with an earlier interrupt, so some may have counted already;
    // where it ended in between, counting began anew.
    let (came, took) = (owner.beat() - before, start.elapsed());
    let seconds = 2 + took.as_millis() / 1000;
    check.within("interrupts until then", came, RATE_MAX / 2, RATE_MAX * seconds);
    for other in others {
        check.holds("the others run on", other.is_alive());
    }
    owner.revive(check);
}
