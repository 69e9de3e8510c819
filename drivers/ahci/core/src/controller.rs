//! A controller with one disk, from the first look at its registers to its loss: [`Controller`].
//!
//! The caller takes the function off the bus, calls [`Controller::stop`], puts it back and calls
//! [`Controller::start`]; the same after [`Health::Sick`]. After [`Health::Error`] the function
//! stays on the bus and [`Controller::recover`] is enough. Commands in flight keep their slots over
//! either and are issued again. A controller that makes no progress over several resets, or whose
//! disk is no longer connected, is *lost*: every command fails then, at once.
//! Invariant: see [`Disk`]; after [`Controller::stop`] the controller touches no memory.

use cloister_block::{Busy, Command, Disk, Limits, Outcome, Pause, Tag};
use cloister_dma::Memory;

use crate::fault::{Failure, Fault, Sick};
use crate::host::Host;
use crate::identify::Identity;
use crate::limits::{self, limits};
use crate::plan::{MEMORY_MIN, Plan};
use crate::port::{Events, Port};
use crate::recovery;
use crate::registers::Registers;
use crate::slots::Slots;

/// Ticks that a command may take before the controller is reset.
const PATIENCE: u32 = 30;
/// Resets in a row, without a command that succeeded, before the controller is given up.
const RESETS_MAX: u32 = 4;

/// How far a controller has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not started, or was stopped.
    Stopped,
    /// It works.
    Up,
    /// It does not go on by itself.
    Sick(Sick),
    /// It will not be tried any more.
    Lost,
}

/// What [`Controller::watch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing.
    Fine,
    /// A command failed: [`Controller::recover`] is to be called.
    Error,
    /// The controller is to be stopped and started again.
    Sick(Sick),
    /// It is not to be tried any more: off the bus with it, then [`Controller::lose`].
    Lost,
}

/// What is known once the controller was up.
struct About {
    identity: Identity,
    limits: Limits,
}

/// A controller with its memory.
pub struct Controller<R, M> {
    registers: R,
    memory: M,
    host: Host,
    port: Option<Port>,
    slots: Slots,
    about: Option<About>,
    epoch: u32,
    state: State,
    resets: u32,
}

impl<R: Registers, M: Memory> Controller<R, M> {
    /// Looks at a controller.
    pub fn new(registers: R, memory: M) -> Result<Controller<R, M>, Failure> {
        let host = Host::read(&registers)?;
        if memory.len() < MEMORY_MIN {
            return Err(Failure::Memory);
        }
        // Clients' memory lies above what 32 bits reach.
        if !host.is_wide {
            return Err(Failure::Narrow);
        }
        Ok(Controller {
            registers,
            memory,
            host,
            port: None,
            slots: Slots::new(),
            about: None,
            epoch: 0,
            state: State::Stopped,
            resets: 0,
        })
    }

    /// Stops the controller. Until it is started it touches no memory.
    pub fn stop(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.state = State::Stopped;
        self.host.reset(&self.registers, pause)
    }

    /// Starts the controller that was stopped, and issues again what was in flight.
    pub fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        // Tables of commands in flight are behind that.
        self.memory.clear(0, Plan::OWN).ok_or(Failure::Memory)?;
        let port = self.connect(pause)?;
        port.start(&self.registers)?;
        recovery::identify(&self.registers, &self.memory, port, pause)?;
        let identity = Identity::read(&self.memory, Plan::ANSWER)?;
        let is_queued = self.host.has_queues && identity.depth.is_some();
        match &self.about {
            None => {
                let depth = identity.depth.filter(|_| is_queued);
                let count = depth.map_or(self.host.slots, |depth| depth.min(self.host.slots));
                self.slots.open(count, is_queued);
            }
            // Volumes lie where they lay, and commands in flight stay as they are.
            Some(about) if about.identity == identity => {}
            Some(_) => return Err(Failure::Changed),
        }
        self.about = Some(About { limits: limits(&identity), identity });
        self.port = Some(port);
        self.host.start(&self.registers)?;
        port.listen(&self.registers)?;
        self.state = State::Up;
        self.slots.again();
        self.ring();
        Ok(())
    }

    /// The port with the disk: the one that had it, or the first with one.
    fn connect(&self, pause: &impl Pause) -> Result<Port, Failure> {
        let is_wanted = |port: &Port| self.port.is_none_or(|known| known == *port);
        for port in self.host.ports().filter(is_wanted) {
            match port.connect(&self.registers, &self.memory, pause) {
                Ok(true) => return Ok(port),
                // One whose disk does not become ready may have a neighbour that does.
                Ok(false) | Err(Failure::NotReady) => port.stop(&self.registers, pause)?,
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::NoDisk)
    }

    /// After [`Health::Error`]: has the port go on. The command that was to blame fails, or is
    /// tried again if that may help; the others are issued again.
    pub fn recover(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        let port = self.port.ok_or(Failure::NoDisk)?;
        let has_log = self.about.as_ref().is_some_and(|about| about.identity.has_log);
        let Controller { registers, memory, slots, .. } = self;
        recovery::recover(registers, memory, port, slots, has_log, pause)?;
        self.state = State::Up;
        self.slots.again();
        self.ring();
        Ok(())
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the disk says of itself; known once the controller was started.
    pub fn identity(&self) -> Option<&Identity> {
        self.about.as_ref().map(|about| &about.identity)
    }

    /// The number of the port with the disk; known once the controller was started.
    pub fn port(&self) -> Option<u8> {
        self.port.map(Port::number)
    }

    /// Whether no command is in flight.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Looks after the controller. Called once a tick, for as long as commands are in flight, and
    /// after [`Controller::state`] became sick.
    pub fn watch(&mut self) -> Health {
        self.epoch = self.epoch.wrapping_add(1);
        if self.state == State::Up
            && let Some(sick) = self.look()
        {
            self.state = State::Sick(sick);
        }
        match self.state {
            State::Stopped | State::Lost | State::Sick(Sick::Gone) => Health::Lost,
            State::Up => Health::Fine,
            State::Sick(Sick::Error) => Health::Error,
            State::Sick(sick) => {
                match sick {
                    Sick::TimedOut { .. } => self.slots.blame_older_than(self.epoch, PATIENCE),
                    _ => self.slots.blame_all(),
                }
                self.resets = self.resets.saturating_add(1);
                if self.resets > RESETS_MAX { Health::Lost } else { Health::Sick(sick) }
            }
        }
    }

    fn look(&mut self) -> Option<Sick> {
        let port = self.port.filter(|port| port.is_connected(&self.registers));
        let Some(port) = port else {
            return Some(Sick::Gone);
        };
        // Whatever an interrupt that was lost would have told.
        self.settle();
        if let State::Sick(sick) = self.state {
            return Some(sick);
        }
        // Not every controller interrupts for an error of the disk's queue.
        if self.slots.is_issued() && port.error(&self.registers).is_some() {
            return Some(Sick::Error);
        }
        let slot = self.slots.older_than(self.epoch, PATIENCE)?;
        Some(Sick::TimedOut { slot })
    }

    /// Gives the controller up: what is in flight fails, and what comes. It is off the bus, so it
    /// touches no memory any more.
    pub fn lose(&mut self) {
        self.state = State::Lost;
        self.slots.refuse_all();
    }

    /// Takes note of what the port tells.
    fn settle(&mut self) {
        let Some(port) = self.port else {
            return;
        };
        let Some(events) = port.take_events(&self.registers) else {
            return;
        };
        let sick = match events {
            Events { has_changed: true, .. } if !port.is_connected(&self.registers) => Sick::Gone,
            Events { has_changed: true, .. } => Sick::Link,
            Events { is_fatal: true, .. } => Sick::Fatal,
            Events { has_error, .. } => match self.settle_slots(port, has_error) {
                Ok(false) => return,
                Ok(true) => Sick::Error,
                Err(fault) => Sick::Fault(fault),
            },
        };
        self.state = State::Sick(sick);
    }

    /// Takes note of the commands that ended; whether there was an error.
    fn settle_slots(&mut self, port: Port, has_error: bool) -> Result<bool, Fault> {
        if !self.slots.is_issued() {
            return Ok(has_error);
        }
        let Some(busy) = port.busy_slots(&self.registers) else {
            return Ok(has_error);
        };
        // A command by itself that failed may look as if it had ended, and its error may have come
        // since the port's events were taken.
        let is_alone = self.slots.alone().is_some();
        let has_error = has_error || is_alone && port.has_error(&self.registers);
        cloister_dma::observe();
        self.slots.settle(busy, has_error)?;
        Ok(has_error)
    }
}

impl<R: Registers, M: Memory> Disk for Controller<R, M> {
    fn limits(&self) -> &Limits {
        self.about.as_ref().map_or(&limits::NONE, |about| &about.limits)
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        match self.state {
            State::Up => self.slots.submit(&self.memory, tag, command),
            State::Lost => self.slots.refuse(tag),
            State::Stopped | State::Sick(_) => Err(Busy),
        }
    }

    fn ring(&mut self) {
        if self.state != State::Up {
            return;
        }
        let issue = self.slots.issue(&self.memory, self.epoch);
        if let Some(port) = self.port.filter(|_| issue.slots != 0) {
            cloister_dma::publish();
            port.issue(&self.registers, issue.slots, issue.queued);
        }
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if let Some((tag, outcome)) = self.slots.answer() {
            if outcome == Outcome::Done {
                self.resets = 0;
            }
            return Some((tag, outcome));
        }
        if self.state == State::Up {
            self.settle();
            // What waited for the end of others.
            self.ring();
            return self.slots.answer();
        }
        None
    }

    fn cancel(&mut self, tag: Tag) {
        self.slots.cancel(tag);
    }
}
