//! The tasks that are supervised: their handles, beside the agenda that decides.
//!
//! Invariant: handle and agenda entry of a task have the same index.

use core::sync::atomic::Ordering;

use cloister_ring::orders::{Name, Operation, VmState};
use cloister_ring::pulse::Asker;
use cloister_rt::abi::call::CLIENT_BITS;
use cloister_rt::abi::fault::TaskState;
use cloister_rt::abi::name_str;
use cloister_rt::proto::policy::DEVICE_GONE as GONE;
use cloister_rt::proto::policy::{
    FLAG_DMA, FLAG_ESSENTIAL, FLAG_VM, RestartPolicy, THEN_POWER_OFF, THEN_REBOOT,
};
use cloister_rt::{Bits, Duration, Grants, Instant, Signal, Supervised, clock, grants};
use cloister_supervisor_core::{Act, Agenda, Cause, Limits, Look, Next, Then, Watch};

use crate::console::Console;
use crate::ending::How;
use crate::still;
use crate::words;

/// Most tasks: each needs a signal bit.
pub const MAX: usize = CLIENT_BITS as usize;

/// The least time between two lines about what a task's devices were refused.
const BETWEEN_REFUSALS: Duration = Duration::from_millis(500);

/// How often the devices of a machine that was stopped are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How a task is asked whether it lives.
struct Watched {
    watch: Watch,
    asker: Asker<'static>,
    wake: Signal,
}

/// What was told of a task's devices: how often they were refused, and when that was.
#[derive(Clone, Copy, Default)]
struct Told {
    count: u64,
    at: Option<Instant>,
}

/// Everything that is supervised.
pub struct Wards {
    tasks: [Option<Supervised>; MAX],
    watched: [Option<Watched>; MAX],
    agenda: Agenda<MAX>,
    bits: Bits,
    /// What was told of refusals by each task's devices.
    refused: [Told; MAX],
}

impl Default for Wards {
    fn default() -> Self {
        Wards {
            tasks: [const { None }; MAX],
            watched: [const { None }; MAX],
            agenda: Agenda::default(),
            bits: Bits::NONE,
            refused: [Told::default(); MAX],
        }
    }
}

impl Wards {
    /// Takes the manifest's records.
    pub fn add_all(&mut self, grants: Grants, supervised: impl Iterator<Item = Supervised>) {
        let mut places = self.tasks.iter_mut().zip(&mut self.watched);
        for task in supervised {
            let is_essential = task.policy.flags & FLAG_ESSENTIAL != 0;
            let Some((place, watched)) = places.next() else {
                defmt::error!("{=str} is one task too many to supervise", name_of(task.policy));
                return;
            };
            self.agenda.add(limits(task.policy), is_essential);
            self.bits |= task.bits;
            *watched = watch(grants, task.policy);
            *place = Some(task);
        }
    }

    /// The bits that tell of stops.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Whether every essential task is done.
    pub fn is_finished(&self) -> bool {
        self.agenda.is_finished()
    }

    /// When the next restart is due, or the next look at a task that is watched.
    pub fn next_due(&self) -> Option<Instant> {
        let looks = self.watched.iter().flatten().map(|watched| watched.watch.due());
        let next = self.agenda.next_due().into_iter().chain(looks).min().map(Instant::from_tsc);
        let is_stilling = (0..MAX).any(|index| self.agenda.is_stilling(index));
        let look = is_stilling.then(|| Instant::now() + LOOK);
        next.into_iter().chain(look).min()
    }

    /// Looks whether the devices of machines that were stopped are still.
    pub fn settle(&mut self) {
        for (index, task) in self.tasks.iter().enumerate() {
            let Some(task) = task.as_ref().filter(|_| self.agenda.is_stilling(index)) else {
                continue;
            };
            let name = name_of(task.policy);
            if still::is_still(name) {
                self.agenda.stilled(index);
                defmt::info!("vm {=str}: stopped, and its devices are still", name);
            }
        }
    }

    /// Asks the tasks that are watched whether they live, and has those parked that hang.
    pub fn watch(&mut self) {
        let now = Instant::now().tsc();
        for (index, (task, watched)) in self.tasks.iter().zip(&mut self.watched).enumerate() {
            let (Some(task), Some(watched)) = (task, watched) else { continue };
            let is_running = self.agenda.state(index) == Some(VmState::Running);
            match watched.watch.look(now, is_running, watched.asker.is_answered()) {
                Look::Nothing => {}
                Look::Ask => {
                    watched.asker.ask();
                    watched.wake.wake();
                }
                Look::Hangs if self.agenda.hangs(index) => {
                    let ms = Duration::from_nanos(task.policy.watchdog_ns).as_millis();
                    let name = name_of(task.policy);
                    defmt::error!("{=str} did not answer for {=u64} ms: it hangs", name, ms);
                    if let Err(refused) = task.control.stop() {
                        // Its bit is set, and it is dealt with as one that ended by itself.
                        defmt::info!("{=str} came to rest by itself first: {}", name, refused);
                    }
                }
                Look::Hangs => {}
            }
        }
    }

    /// Looks at every task whose bit is set. What a policy wants for the whole machine, if it does.
    pub fn attend(&mut self, woken: Bits) -> Option<How> {
        let mut asked = None;
        let refused = self.refused.iter_mut();
        for ((index, task), refused) in self.tasks.iter().enumerate().zip(refused) {
            let Some(task) = task else { continue };
            if task.bits.intersects(woken) {
                if task.policy.flags & FLAG_DMA != 0 {
                    tell_dma(task, refused);
                }
                asked = asked.or(stopped(&mut self.agenda, index, task));
            }
        }
        asked
    }

    /// Does something to a virtual machine, which a person wants; a task can be killed and started
    /// again, and nothing else. Refused with the state that does not allow it.
    pub fn command(&mut self, name: &Name, operation: Operation) -> Result<(), VmState> {
        let mut places = self.tasks.iter().enumerate();
        let found = places.find_map(|(index, task)| {
            let task = task.as_ref()?;
            let is_open = is_vm(task.policy) || operation == Operation::Reset;
            (is_open && task.policy.name == *name).then_some((index, task))
        });
        let Some((index, task)) = found else {
            defmt::warn!(
                "the console commands `{=str}`, which is not there for that",
                name_str(name)
            );
            return Err(VmState::GivenUp);
        };
        let act = self.agenda.command(index, Instant::now().tsc(), operation)?;
        let name = name_of(task.policy);
        if self.agenda.is_stilling(index) {
            still::order(name);
        }
        let done = match act {
            Act::Nothing => Ok(()),
            Act::Stop => task.control.stop(),
            Act::Resume => task.control.resume(),
        };
        match done {
            Ok(()) if !is_vm(task.policy) => {
                defmt::info!("{=str}: killed, as a person wants; it is started again", name);
            }
            Ok(()) => defmt::info!("vm {=str}: {=str}, as a person wants", name, operation.name()),
            // It came to rest by itself a moment ago; its bit is set, and what follows is decided
            // when it is looked at.
            Err(refused) => defmt::info!("{=str} ended by itself first: {}", name, refused),
        }
        Ok(())
    }

    /// Tells the console how each virtual machine fares.
    pub fn tell(&self, console: &mut Console) {
        for (index, task) in self.tasks.iter().enumerate() {
            if let Some(task) = task
                && is_vm(task.policy)
                && let Some(state) = self.agenda.state(index)
            {
                console.tell(index, &task.policy.name, state);
            }
        }
    }

    /// Restarts what is due.
    pub fn restart_due(&mut self) {
        // At most one restart of each: the agenda takes turns, and a delay of zero must not keep
        // the supervisor here.
        for _ in 0..MAX {
            let Some(index) = self.agenda.take_due(Instant::now().tsc()) else {
                return;
            };
            let Some(Some(task)) = self.tasks.get(index) else {
                continue;
            };
            if let Err(refused) = task.control.restart() {
                let name = name_of(task.policy);
                defmt::error!("{=str} cannot be restarted: {}; it stays stopped", name, refused);
                self.agenda.give_up(index);
                bury(name, Next::GiveUp(Then::Stop));
            }
        }
    }
}

/// The task's devices may have been refused memory: says so, once for all that came since it was
/// last said, and not again soon. A driver that goes on with it must not fill the log.
fn tell_dma(task: &Supervised, told: &mut Told) {
    let now = Instant::now();
    if told.at.is_some_and(|at| now < at + BETWEEN_REFUSALS) {
        return;
    }
    // Without the right to ask there is nothing to tell; the kernel confines them all the same.
    let Ok(faults) = task.control.dma_faults() else { return };
    if faults.count != told.count {
        words::say_dma(name_of(task.policy), &faults, faults.count.wrapping_sub(told.count));
        *told = Told { count: faults.count, at: Some(now) };
    }
}

/// One task may have stopped: finds out, says why, decides.
fn stopped(agenda: &mut Agenda<MAX>, index: usize, task: &Supervised) -> Option<How> {
    let name = name_of(task.policy);
    let report = match task.control.fault() {
        Ok(report) => report,
        Err(refused) => {
            defmt::error!("the fault record of {=str} cannot be read: {}", name, refused);
            return None;
        }
    };
    let now = Instant::now().tsc();
    // Bits are hints: the task may run, or not be parked whole yet. Then the bit comes again.
    match report.state {
        TaskState::Running | TaskState::Parking => return None,
        TaskState::Stopped => {
            let next = agenda.parked(index, now);
            if agenda.is_stilling(index) {
                still::order(name);
            }
            follow(name, next, task.policy.tries);
            bury(name, next);
            return machine(next);
        }
        TaskState::Faulted => {}
    }
    let cause = words::cause(&report);
    let next = agenda.ended(index, now, cause.ended(is_vm(task.policy)));
    if next == Next::Stopped && agenda.is_stilling(index) {
        still::order(name);
    }
    if next == Next::Nothing {
        return None;
    }
    bury(name, next);
    if is_vm(task.policy) {
        words::say_vm(name, &cause, &report, next, task.policy.tries);
        if is_of_monitor(&cause) {
            words::backtrace(name, &report);
        }
    } else {
        say(name, &cause, &report, next, task.policy.tries);
    }
    machine(next)
}

/// A task is given up: the monitors whose devices it worked learn that nobody does any more.
fn bury(name: &'static str, next: Next) {
    if !matches!(next, Next::GiveUp(_)) {
        return;
    }
    for (page, monitor) in grants().devices_of(name) {
        if let Some(word) = page.words().get(GONE) {
            // Release: the task is parked and its functions are off the bus.
            word.store(1, Ordering::Release);
            monitor.wake();
        }
    }
}

/// What a task's end means for the whole machine.
fn machine(next: Next) -> Option<How> {
    match next {
        Next::GiveUp(Then::Reboot) => Some(How::Reboot),
        Next::GiveUp(Then::PowerOff) => Some(How::PowerOff),
        _ => None,
    }
}

/// The means to watch a task, if the manifest wants that.
fn watch(grants: Grants, policy: &'static RestartPolicy) -> Option<Watched> {
    if policy.watchdog_ns == 0 {
        return None;
    }
    let found = grants.watch(name_of(policy));
    let Some((asker, wake)) =
        found.and_then(|(page, wake)| Some((Asker::new(page.words())?, wake)))
    else {
        defmt::error!("{=str} is to be watched, and there is no page for it", name_of(policy));
        return None;
    };
    let time = clock().ticks(Duration::from_nanos(policy.watchdog_ns));
    Some(Watched { watch: Watch::new(time, Instant::now().tsc()), asker, wake })
}

/// Whether the monitor itself failed, and not its guest.
fn is_of_monitor(cause: &Cause) -> bool {
    !matches!(cause, Cause::Left { .. } | Cause::GuestReset | Cause::VmStopped(_))
}

fn say(name: &str, cause: &Cause, report: &cloister_rt::FaultReport, next: Next, tries: u32) {
    words::say(name, cause, report);
    if !matches!(cause, Cause::Left { .. }) {
        words::backtrace(name, report);
    }
    follow(name, next, tries);
}

/// Says what follows for a task.
fn follow(name: &str, next: Next, tries: u32) {
    match next {
        Next::Restart { delay, nth } => {
            let ms = clock().duration(delay).as_millis();
            defmt::warn!("{=str}: restart {=u32} of {=u32} in {=u64} ms", name, nth, tries, ms);
        }
        Next::GiveUp(then) => give_up(name, then),
        Next::Nothing | Next::Done | Next::Reset { .. } | Next::Stopped => {}
    }
}

fn give_up(name: &str, then: Then) {
    match then {
        Then::Stop => defmt::error!("{=str}: no try is left; it stays stopped", name),
        Then::Reboot => defmt::error!("{=str}: no try is left; the machine reboots", name),
        Then::PowerOff => defmt::error!("{=str}: no try is left; the machine powers off", name),
    }
}

fn limits(policy: &RestartPolicy) -> Limits {
    let ticks = |ns| clock().ticks(Duration::from_nanos(ns));
    Limits {
        tries: policy.tries,
        within: ticks(policy.within_ns),
        delay: ticks(policy.delay_ns),
        delay_max: ticks(policy.delay_max_ns),
        then: match policy.then {
            THEN_REBOOT => Then::Reboot,
            THEN_POWER_OFF => Then::PowerOff,
            // The image builder writes no other code.
            _ => Then::Stop,
        },
    }
}

fn is_vm(policy: &RestartPolicy) -> bool {
    policy.flags & FLAG_VM != 0
}

fn name_of(policy: &'static RestartPolicy) -> &'static str {
    name_str(&policy.name)
}
