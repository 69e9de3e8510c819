//! Every system call, through success and through each refusal that it can give.
//!
//! What an ordinary task may call is called by a probe, which holds a signal to the supervisor, one
//! to itself and an interrupt; what only a supervisor may call is called from here. Not reachable
//! by any manifest, and therefore not here: `NoRight` (the builder gives every right that a kind
//! of capability has), success of `vcpu_run` and `device_reset` (no table holds such a capability).

use boot_common::faults::{ALL, Act};
use boot_common::orders::{CALL, FAULT_AT, IRQ_CYCLE, WAIT};
use boot_common::page::{OWN_BITS, SLOTS};
use boot_common::raw::{self, Reply};
use cloister_rt::abi::call::{Call, NEVER, Status};
use cloister_rt::abi::fault::TaskState;
use cloister_rt::abi::table::CapKind;
use cloister_rt::{Duration, Instant};

use crate::report::{Check, Report};
use crate::ward::{Ward, pause};
use crate::{faults, ward};

/// Runs everything.
pub fn run(report: &mut Report) {
    let near = ward!("near", 0);
    let far = ward!("far", 1);
    by_probe(report, &near);
    waits(report, &near);
    waits(report, &far);
    by_supervisor(report, &near);
    states(report, &near);
    states(report, &far);
    interrupt(report, &near);
    for (index, case) in ALL.iter().enumerate() {
        if matches!(case.act, Act::Call(_) | Act::Leave(..)) {
            faults::one(report, &near, &[&far], index);
            faults::one(report, &far, &[&near], index);
        }
    }
}

/// An argument of a probe's call.
#[derive(Clone, Copy)]
enum Slot {
    Number(u64),
    /// The first one beyond the table.
    Beyond,
    Boss,
    Own,
    Irq,
}

impl Slot {
    fn number(self, ward: &Ward) -> u64 {
        match self {
            Slot::Number(number) => number,
            Slot::Beyond => ward.page.get(SLOTS),
            Slot::Boss => ward.page.get(SLOTS + 1),
            Slot::Own => ward.page.get(SLOTS + 2),
            Slot::Irq => ward.page.get(SLOTS + 3),
        }
    }
}

use Slot::{Beyond, Boss, Irq, Number, Own};

const FAR_AWAY: u64 = 1 << 32;

/// Name, call, slot, second argument, status.
const BY_PROBE: &[(&str, Call, Slot, u64, Status)] = &[
    ("signal the supervisor", Call::Signal, Boss, 0, Status::Ok),
    ("signal oneself", Call::Signal, Own, 0, Status::Ok),
    ("signal twice", Call::Signal, Own, 0, Status::Ok),
    ("signal without capability", Call::Signal, Beyond, 0, Status::NoCap),
    ("signal the last slot there is", Call::Signal, Number(u64::MAX), 0, Status::NoCap),
    ("signal a slot of 33 bits", Call::Signal, Number(FAR_AWAY), 0, Status::NoCap),
    ("signal an interrupt", Call::Signal, Irq, 0, Status::WrongKind),
    ("acknowledge", Call::IrqAck, Irq, 0, Status::Ok),
    ("acknowledge without capability", Call::IrqAck, Beyond, 0, Status::NoCap),
    ("acknowledge slot u64::MAX", Call::IrqAck, Number(u64::MAX), 0, Status::NoCap),
    ("acknowledge a thread", Call::IrqAck, Boss, 0, Status::WrongKind),
    ("run no processor", Call::VcpuRun, Beyond, 0, Status::NoCap),
    ("run a thread as a processor", Call::VcpuRun, Boss, 0, Status::WrongKind),
    ("run an interrupt as a processor", Call::VcpuRun, Irq, 0, Status::WrongKind),
    ("reset no device", Call::DeviceReset, Beyond, 0, Status::NoCap),
    ("reset a thread as a device", Call::DeviceReset, Boss, 0, Status::WrongKind),
    ("reset an interrupt as a device", Call::DeviceReset, Irq, 1, Status::WrongKind),
    ("restart nothing", Call::Restart, Beyond, 0, Status::NoCap),
    ("restart a thread", Call::Restart, Boss, 0, Status::WrongKind),
    ("stop nothing", Call::Stop, Beyond, 0, Status::NoCap),
    ("stop a thread", Call::Stop, Own, 0, Status::WrongKind),
    ("resume nothing", Call::Resume, Beyond, 0, Status::NoCap),
    ("resume an interrupt", Call::Resume, Irq, 0, Status::WrongKind),
    ("fault_info of nothing", Call::FaultInfo, Beyond, 0, Status::NoCap),
    ("fault_info of a thread", Call::FaultInfo, Boss, 0, Status::WrongKind),
    ("power without capability", Call::Power, Beyond, 0, Status::NoCap),
    ("power off by a thread", Call::Power, Boss, 0, Status::WrongKind),
    ("reboot by an interrupt", Call::Power, Irq, 1, Status::WrongKind),
    ("power in an unknown way", Call::Power, Boss, 2, Status::BadArgument),
];

fn by_probe(report: &mut Report, ward: &Ward) {
    for (name, call, slot, second, status) in BY_PROBE.iter().copied() {
        report.case(name, |check| {
            let arguments = [call as u64, slot.number(ward), second, 0];
            expect(check, ward, arguments, status, 0);
        });
    }
    let [boss, own, _] = [0, 1, 2].map(|word| ward.page.get(OWN_BITS + word));
    let call = Call::Wait as u64;
    report.case("wait takes what is pending", |check| {
        // Pending from `signal oneself`, once although it was signalled twice.
        expect(check, ward, [call, own, NEVER, 0], Status::Ok, own);
        expect(check, ward, [call, own, 0, 0], Status::Deadline, 0);
    });
    report.case("wait takes no bit outside its mask", |check| {
        let signal = [Call::Signal as u64, Own.number(ward), 0, 0];
        expect(check, ward, signal, Status::Ok, 0);
        expect(check, ward, [call, boss | 1 << 63, 0, 0], Status::Deadline, 0);
        expect(check, ward, [call, 0, 0, 0], Status::Deadline, 0);
        // A bit that is pending wins over a deadline that has passed.
        expect(check, ward, [call, u64::MAX, 0, 0], Status::Ok, own);
        expect(check, ward, [call, u64::MAX, 0, 0], Status::Deadline, 0);
    });
}

/// Has the probe make a call.
fn expect(check: &mut Check, ward: &Ward, arguments: [u64; 4], status: Status, value: u64) {
    check.holds("it answers", ward.ask(CALL, &arguments));
    check.equal("status", ward.result(0), status as u64);
    check.equal("value", ward.result(1), value);
    for index in 2..5 {
        check.equal("a register without a value", ward.result(index), 0);
    }
    check.equal("registers that broke the contract", ward.result(5), 0);
}

/// Waits that sleep: ended by a bit, by a deadline, by a bit that comes first.
fn waits(report: &mut Report, ward: &Ward) {
    let bit = ward.page.get(OWN_BITS);
    report.case("wait sleeps until a signal", |check| {
        check.holds("it begins", ward.begin_wait(NEVER));
        check.holds("it sleeps", !ward.is_done());
        ward.mail.peer.wake();
        check.holds("it wakes", ward.until(crate::ward::PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Ok as u64);
        check.equal("bits", ward.result(1), bit);
    });
    report.case("wait sleeps until a deadline", |check| {
        let deadline = (Instant::now() + Duration::from_millis(3)).tsc();
        check.holds("it wakes", ward.ask(WAIT, &[deadline]));
        check.equal("status", ward.result(0), Status::Deadline as u64);
        check.equal("bits", ward.result(1), 0);
        let patience = (Instant::from_tsc(deadline) + crate::ward::PATIENCE).tsc();
        check.within("when it woke", ward.result(3), deadline, patience);
    });
    report.case("a signal comes before the deadline", |check| {
        let deadline = (Instant::now() + Duration::from_secs(600)).tsc();
        check.holds("it begins", ward.begin_wait(deadline));
        ward.mail.peer.wake();
        check.holds("it wakes", ward.until(crate::ward::PATIENCE, || ward.is_done()));
        check.equal("status", ward.result(0), Status::Ok as u64);
        check.equal("bits", ward.result(1), bit);
    });
    report.case("an early deadline does not hide a later one", |check| {
        // The timer is set for the nearer of several deadlines and must be set again for the rest.
        for ms in [9, 5, 2, 1] {
            let deadline = (Instant::now() + Duration::from_millis(ms)).tsc();
            ward.order(WAIT, &[deadline]);
            pause(Duration::from_millis(ms / 2));
            check.holds("it wakes", ward.until(crate::ward::PATIENCE, || ward.is_done()));
            check.holds("not too early", ward.result(3) >= deadline);
        }
    });
}

fn reply(check: &mut Check, reply: Reply, status: Status) {
    check.equal("status", reply.status, status as u64);
    check.equal("registers that broke the contract", reply.broken, 0);
    if status != Status::Ok {
        check.equal("values", reply.values.iter().fold(0, |all, v| all | v), 0);
    }
}

fn by_supervisor(report: &mut Report, ward: &Ward) {
    let power = raw::slot("power", CapKind::Power).unwrap_or(0);
    let thread = raw::slot("near/near", CapKind::Thread).unwrap_or(0);
    let (task, beyond) = (ward.slot, raw::slots());
    let table: &[(&'static str, Call, u64, u64, Status)] = &[
        ("supervisor: signal", Call::Signal, thread, 0, Status::Ok),
        ("supervisor: signal a task", Call::Signal, task, 0, Status::WrongKind),
        ("supervisor: signal the power", Call::Signal, power, 0, Status::WrongKind),
        ("supervisor: signal nothing", Call::Signal, beyond, 0, Status::NoCap),
        ("supervisor: acknowledge a task", Call::IrqAck, task, 0, Status::WrongKind),
        ("supervisor: acknowledge nothing", Call::IrqAck, beyond, 0, Status::NoCap),
        ("supervisor: run a task", Call::VcpuRun, task, 0, Status::WrongKind),
        ("supervisor: reset a task", Call::DeviceReset, task, 0, Status::WrongKind),
        ("restart what runs", Call::Restart, task, 0, Status::WrongState),
        ("restart a thread's signal", Call::Restart, thread, 0, Status::WrongKind),
        ("restart the power", Call::Restart, power, 0, Status::WrongKind),
        ("restart beyond the table", Call::Restart, beyond, 0, Status::NoCap),
        ("resume what runs", Call::Resume, task, 0, Status::WrongState),
        ("resume the power", Call::Resume, power, 0, Status::WrongKind),
        ("resume beyond the table", Call::Resume, beyond, 0, Status::NoCap),
        ("stop the power", Call::Stop, power, 0, Status::WrongKind),
        ("stop a signal", Call::Stop, thread, 0, Status::WrongKind),
        ("stop beyond the table", Call::Stop, u64::MAX, 0, Status::NoCap),
        ("fault_info: first words", Call::FaultInfo, task, 0, Status::Ok),
        ("fault_info: last words", Call::FaultInfo, task, 6, Status::Ok),
        ("fault_info: one too far", Call::FaultInfo, task, 7, Status::BadArgument),
        ("fault_info: much too far", Call::FaultInfo, task, u64::MAX, Status::BadArgument),
        ("fault_info: 33 bits", Call::FaultInfo, task, FAR_AWAY, Status::BadArgument),
        ("fault_info of a signal", Call::FaultInfo, thread, 0, Status::WrongKind),
        ("fault_info of the power", Call::FaultInfo, power, 7, Status::WrongKind),
        ("fault_info of nothing at all", Call::FaultInfo, beyond, 0, Status::NoCap),
        ("power: third operation", Call::Power, power, 2, Status::BadArgument),
        ("power: 33 bits", Call::Power, power, FAR_AWAY, Status::BadArgument),
        ("power: last operation", Call::Power, power, u64::MAX, Status::BadArgument),
        ("power of a task", Call::Power, task, 0, Status::WrongKind),
        ("power of nothing", Call::Power, beyond, 1, Status::NoCap),
    ];
    for (name, call, slot, second, status) in table.iter().copied() {
        report.case(name, |check| reply(check, raw::known(call, slot, second, 0), status));
    }
    report.case("fault_info of a task that runs", |check| {
        let reply = raw::known(Call::FaultInfo, task, 0, 0);
        check.equal("state", reply.values[0], TaskState::Running as u64);
        check.equal("generation", reply.values[3], ward.generation.get());
    });
}

/// `restart`, `stop` and `resume` in every state of a task.
fn states(report: &mut Report, ward: &Ward) {
    let call = |number, check: &mut Check, status| {
        reply(check, raw::known(number, ward.slot, 0, 0), status);
    };
    report.case("stop, then every call", |check| {
        call(Call::Stop, check, Status::Ok);
        // Parking or parked: both refuse.
        call(Call::Stop, check, Status::WrongState);
        check.holds("the stop is signalled", ward.parked());
        call(Call::Stop, check, Status::WrongState);
        call(Call::Resume, check, Status::Ok);
        call(Call::Resume, check, Status::WrongState);
        call(Call::Restart, check, Status::WrongState);
        check.holds("it runs on", ward.is_alive());
        check.equal("generation", ward.fault().generation, ward.generation.get());
    });
    report.case("restart what was stopped", |check| {
        ward.stop(check);
        let lives = ward.void_orders();
        call(Call::Restart, check, Status::Ok);
        call(Call::Restart, check, Status::WrongState);
        call(Call::Resume, check, Status::WrongState);
        ward.expect_life(check, lives);
    });
    report.case("fault, then every call", |check| {
        ward.order(FAULT_AT, &[0]);
        check.holds("the fault is signalled", ward.parked());
        call(Call::Stop, check, Status::WrongState);
        call(Call::Resume, check, Status::WrongState);
        check.equal("state", ward.state() as u64, TaskState::Faulted as u64);
        // What was signalled to a task that is parked does no harm.
        ward.mail.peer.wake();
        ward.revive(check);
        check.holds("it runs", ward.is_alive());
    });
}

/// A device interrupt arrives once for each acknowledgement.
fn interrupt(report: &mut Report, ward: &Ward) {
    report.case("interrupts come, masked until acknowledged", |check| {
        // `acknowledge` above has unmasked it; a new life begins with it masked.
        ward.stop(check);
        ward.revive(check);
        check.holds("it answers", ward.ask(IRQ_CYCLE, &[]));
        check.equal("the device is there", ward.result(6), 1);
        check.equal("before the first acknowledgement", ward.result(0), 0);
        check.equal("after it", ward.result(1), 1);
        check.equal("without another one", ward.result(2), 0);
        check.equal("after another one", ward.result(3), 1);
        check.equal("after two in a row", ward.result(4), 1);
        check.equal("refused acknowledgements", ward.result(5), 0);
    });
}
