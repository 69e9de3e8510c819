//! A controller with one disk, from the first look at its registers to its loss: [`Controller`].
//!
//! Its states, and who calls what when, are those of [`cloister_block::Controller`], and so is the
//! invariant. After a command's error the port is recovered, with the function on the bus.

use cloister_block::{
    self as block, Busy, Command, Disk, Life, Limits, Outcome, Pause, Registers, Tag,
};
use cloister_dma::Memory;

use crate::commands::Commands;
use crate::fault::{Failure, Fault, Sick, State};
use crate::host::Host;
use crate::identify::Identity;
use crate::limits::{self, limits};
use crate::plan::{MEMORY_MIN, Plan};
use crate::port::{Events, Port};
use crate::recovery;

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
    commands: Commands,
    about: Option<About>,
    life: Life<Sick>,
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
            commands: Commands::new(),
            about: None,
            life: Life::new(),
        })
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
        self.commands.is_empty()
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
        self.life.turn(State::Sick(sick));
    }

    /// Takes note of the commands that ended; whether there was an error.
    fn settle_slots(&mut self, port: Port, has_error: bool) -> Result<bool, Fault> {
        if !self.commands.is_issued() {
            return Ok(has_error);
        }
        let Some(busy) = port.busy_slots(&self.registers) else {
            return Ok(has_error);
        };
        // A command by itself that failed may look as if it had ended, and its error may have come
        // since the port's events were taken.
        let is_alone = self.commands.alone().is_some();
        let has_error = has_error || is_alone && port.has_error(&self.registers);
        cloister_dma::observe();
        self.commands.settle(busy.into(), has_error)?;
        Ok(has_error)
    }
}

impl<R: Registers, M: Memory> block::Controller for Controller<R, M> {
    type Sick = Sick;
    type Failure = Failure;

    const GONE: Failure = Failure::Gone;

    fn life(&self) -> &Life<Sick> {
        &self.life
    }

    fn life_mut(&mut self) -> &mut Life<Sick> {
        &mut self.life
    }

    fn stop(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        match self.life.state() {
            State::Sick(Sick::TimedOut { .. }) => self.commands.blame_overdue(self.life.epoch()),
            // Blame has been laid, as far as it is known.
            State::Sick(Sick::Error) | State::Stopped | State::Up | State::Lost => {}
            State::Sick(_) => self.commands.blame_all(),
        }
        self.life.turn(State::Stopped);
        self.host.reset(&self.registers, pause)
    }

    fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
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
                self.commands.open(count, is_queued);
            }
            // Volumes lie where they lay, and commands in flight stay as they are.
            Some(about) if about.identity == identity => {}
            Some(_) => return Err(Failure::Changed),
        }
        self.about = Some(About { limits: limits(&identity), identity });
        self.port = Some(port);
        self.host.start(&self.registers)?;
        port.listen(&self.registers)?;
        self.life.turn(State::Up);
        self.commands.again();
        self.ring();
        Ok(())
    }

    fn look(&mut self) -> Option<Sick> {
        let port = self.port.filter(|port| port.is_connected(&self.registers));
        let Some(port) = port else {
            return Some(Sick::Gone);
        };
        // Whatever an interrupt that was lost would have told.
        self.settle();
        if let State::Sick(sick) = self.life.state() {
            return Some(sick);
        }
        // Not every controller interrupts for an error of the disk's queue.
        if self.commands.is_issued() && port.error(&self.registers).is_some() {
            return Some(Sick::Error);
        }
        let slot = self.commands.overdue(self.life.epoch())?;
        Some(Sick::TimedOut { slot })
    }

    /// Has the port go on. The command that was to blame fails, or is tried again if that may help;
    /// the others are issued again.
    fn recover(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        let port = self.port.ok_or(Failure::NoDisk)?;
        let has_log = self.about.as_ref().is_some_and(|about| about.identity.has_log);
        let Controller { registers, memory, commands, .. } = self;
        recovery::recover(registers, memory, port, commands, has_log, pause)?;
        self.life.turn(State::Up);
        self.commands.again();
        self.ring();
        Ok(())
    }

    fn lose(&mut self) {
        self.life.turn(State::Lost);
        self.commands.refuse_all();
    }
}

impl<R: Registers, M: Memory> Disk for Controller<R, M> {
    fn limits(&self) -> &Limits {
        self.about.as_ref().map_or(&limits::NONE, |about| &about.limits)
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        match self.life.state() {
            State::Up => self.commands.submit(&self.memory, tag, command),
            State::Lost => self.commands.refuse(tag),
            State::Stopped | State::Sick(_) => Err(Busy),
        }
    }

    fn ring(&mut self) {
        if !self.life.is_up() {
            return;
        }
        let issue = self.commands.issue(&self.memory, self.life.epoch());
        if let Some(port) = self.port.filter(|_| !issue.slots.is_empty()) {
            cloister_dma::publish();
            port.issue(&self.registers, issue.slots.bits(), issue.queued.bits());
        }
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if let Some((tag, outcome)) = self.commands.answer() {
            if outcome == Outcome::Done {
                self.life.succeeded();
            }
            return Some((tag, outcome));
        }
        if self.life.is_up() {
            self.settle();
            // What waited for the end of others.
            self.ring();
            return self.commands.answer();
        }
        None
    }

    fn cancel(&mut self, tag: Tag) {
        self.commands.cancel(tag);
    }
}
