//! A probe, as the supervisor sees it: its page, its wire, control over it.

use core::cell::Cell;

use boot_common::page::{
    ARGUMENTS, ASKED, BEAT, DIRT, DONE, GENERATION, LIVES, ORDER, Page, RESULTS, THREAD_BEAT,
};
use boot_common::{orders, raw};
use cloister_rt::abi::fault::TaskState;
use cloister_rt::abi::name_str;
use cloister_rt::abi::table::CapKind;
use cloister_rt::{Deadline, Duration, FaultReport, Instant, Mailbox, Supervised, grants, wait};

use crate::report::Check;

/// How long anything may take that takes no time: emulated machines stall.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How often a condition is looked at that no signal tells of.
const POLL: Duration = Duration::from_micros(500);

/// A probe.
pub struct Ward {
    /// The core of its first thread.
    pub core: u64,
    /// The wire.
    pub mail: Mailbox,
    /// The page.
    pub page: Page,
    /// Control.
    pub task: Supervised,
    /// The slot of the control.
    pub slot: u64,
    asked: Cell<u64>,
    /// Restarts that were made.
    pub generation: Cell<u64>,
}

/// Finds a probe by its name; the supervisor's export has the same.
#[macro_export]
macro_rules! ward {
    ($name:literal, $core:expr) => {
        $crate::ward::Ward::find($name, concat!($name, "/", $name), concat!("task/", $name), $core)
    };
}

impl Ward {
    /// A probe whose first life has begun. Whatever is missing ends the supervisor, and the run.
    pub fn find(name: &'static str, wire: &'static str, task: &'static str, core: u64) -> Ward {
        let mail = grants().mailbox(wire).expect("the manifest wires the probe");
        let mut all = grants().supervised().expect("the builder gives the policies");
        let task_record = all.find(|t| name_str(&t.policy.name) == name);
        let page = Page(mail.memory.words());
        let ward = Ward {
            core,
            mail,
            page,
            task: task_record.expect("the probe is supervised"),
            slot: raw::slot(task, CapKind::Task).expect("the builder gives the capability"),
            asked: Cell::new(0),
            generation: Cell::new(0),
        };
        assert!(ward.until(PATIENCE, || page.get(LIVES) == 1), "the probe did not begin");
        assert!(page.get(GENERATION) == 1 && page.get(DIRT) == 0, "the probe began dirty");
        ward
    }

    /// Waits until something is so; `false` if it is not in time.
    pub fn until(&self, patience: Duration, is_so: impl Fn() -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            if is_so() {
                return true;
            }
            let now = Instant::now();
            if now >= end {
                return false;
            }
            wait(self.mail.bits, Deadline::At(end.min(now + POLL)));
        }
    }

    /// Gives an order.
    pub fn order(&self, order: u64, arguments: &[u64]) {
        for (index, argument) in arguments.iter().enumerate() {
            self.page.set(ARGUMENTS + index, *argument);
        }
        self.page.set(ORDER, order);
        self.asked.set(self.asked.get() + 1);
        self.page.set(ASKED, self.asked.get());
        self.mail.peer.wake();
    }

    /// Has the probe wait, and waits until it does: two signals are one while nobody takes them, so
    /// a signal that is sent too early would end nothing.
    pub fn begin_wait(&self, deadline: u64) -> bool {
        self.page.set(RESULTS + 2, 0);
        self.order(orders::WAIT, &[deadline]);
        let begun = self.until(PATIENCE, || self.result(2) != 0);
        pause(Duration::from_millis(1));
        begun
    }

    /// Whether the last order was carried out.
    pub fn is_done(&self) -> bool {
        self.page.get(DONE) == self.asked.get()
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&self, order: u64, arguments: &[u64]) -> bool {
        self.order(order, arguments);
        self.until(PATIENCE, || self.is_done())
    }

    /// Whether the probe runs and answers.
    pub fn is_alive(&self) -> bool {
        self.ask(orders::PING, &[])
    }

    /// A result of the last order.
    pub fn result(&self, index: usize) -> u64 {
        self.page.get(RESULTS + index)
    }

    /// What counts up while the probe spins.
    pub fn beat(&self) -> u64 {
        self.page.get(BEAT)
    }

    /// What a further thread counts.
    pub fn thread_beat(&self, thread: usize) -> u64 {
        self.page.get(THREAD_BEAT + thread)
    }

    /// The state that the kernel tells of.
    pub fn state(&self) -> TaskState {
        self.task.control.state().unwrap_or(TaskState::Parking)
    }

    /// Sleeps until the kernel signals that the probe is parked. No polling: the signal is part of
    /// what is tested.
    pub fn parked(&self) -> bool {
        let end = Deadline::after(PATIENCE);
        while !wait(self.task.bits, end).bits().is_empty() {
            if matches!(self.state(), TaskState::Stopped | TaskState::Faulted) {
                return true;
            }
        }
        false
    }

    /// The fault record.
    pub fn fault(&self) -> FaultReport {
        self.task.control.fault().expect("the supervisor may read it")
    }

    /// Restarts the parked probe and checks that its new life is as the first one.
    pub fn revive(&self, check: &mut Check) {
        if check.has_failed() && self.state() == TaskState::Running {
            // The case went wrong before the probe stopped; the next one shall find it whole.
            let _ = self.task.control.stop();
            self.parked();
        }
        let lives = self.void_orders();
        check.holds("restart is allowed", self.task.control.restart().is_ok());
        self.expect_life(check, lives);
    }

    /// After a restart: a new life begins, whole.
    pub fn expect_life(&self, check: &mut Check, lives: u64) {
        self.generation.set(self.generation.get() + 1);
        let begun = self.until(PATIENCE, || self.page.get(LIVES) != lives);
        check.holds("a new life begins", begun);
        check.equal("lives", self.page.get(LIVES), lives + 1);
        check.equal("generation", self.page.get(GENERATION), self.generation.get() + 1);
        check.equal("what was not pristine", self.page.get(DIRT), 0);
    }

    /// Before a restart: what was ordered from the old life is not for the new one. How many lives
    /// there were.
    pub fn void_orders(&self) -> u64 {
        self.page.set(DONE, self.page.get(ASKED));
        self.page.get(LIVES)
    }

    /// Stops the running probe and waits until it is parked.
    pub fn stop(&self, check: &mut Check) {
        check.holds("stop is allowed", self.task.control.stop().is_ok());
        check.holds("the stop is signalled", self.parked());
        check.equal("state", self.state() as u64, TaskState::Stopped as u64);
    }
}

/// Lets time pass.
pub fn pause(duration: Duration) {
    cloister_rt::sleep_until(Instant::now() + duration);
}
