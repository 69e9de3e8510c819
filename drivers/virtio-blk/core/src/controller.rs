//! A device, from the first look at its registers to its loss: [`Controller`].
//!
//! The caller takes the function off the bus, calls [`Controller::stop`], puts it back and calls
//! [`Controller::start`]; the same after [`Health::Sick`]. Requests in flight keep their slots over
//! a reset and are added again. A device that makes no progress over several resets, or that is no
//! longer there, is *lost*: every request fails then, at once.
//! Invariant: see [`Disk`]; after [`Controller::stop`] the device touches no memory.

use cloister_block::{Busy, Command, Disk, Limits, Outcome, Pause, Tag};
use cloister_dma::{Memory, Region};
use cloister_dma_queue::{Error, Lengths, Queue, RINGS_BYTES, Transport};

use crate::device::{Condition, Device};
use crate::fault::{Failure, Sick};
use crate::identity::{Identity, NO_LIMITS, WANTED};
use crate::plan::MEMORY_MIN;
use crate::registers::Registers;
use crate::slots::Slots;

/// The queue; there may be more, which are not used.
const QUEUE: u16 = 0;
/// Ticks that a request may take before the device is reset.
const PATIENCE: u32 = 30;
/// Resets in a row, without a request that succeeded, before the device is given up.
const RESETS_MAX: u32 = 4;

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not started, or was stopped.
    Stopped,
    /// It works.
    Up,
    /// It makes no sense; it is to be reset.
    Sick(Sick),
    /// It will not be tried any more.
    Lost,
}

/// What [`Controller::watch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing.
    Fine,
    /// The device is to be stopped and started again.
    Sick(Sick),
    /// It is not to be tried any more: off the bus with it, then [`Controller::lose`].
    Lost,
}

/// What is known once the device was up.
struct About {
    identity: Identity,
    features: u64,
    limits: Limits,
}

/// A device with its memory.
pub struct Controller<'m, R> {
    device: Device<R>,
    memory: &'m Region,
    queue: Queue<'m>,
    slots: Slots,
    about: Option<About>,
    /// The generation of the configuration that was read.
    generation: u32,
    /// Something was added that the device was not told of.
    has_news: bool,
    epoch: u32,
    state: State,
    resets: u32,
}

impl<'m, R: Registers> Controller<'m, R> {
    /// Bytes of the region for the rings, which is the queue's alone.
    pub const RINGS_BYTES: usize = RINGS_BYTES;

    /// Looks at a device. `lengths` are [`crate::LENGTHS_BYTES`] that nobody uses.
    pub fn new(
        registers: R,
        rings: Region,
        memory: &'m Region,
        lengths: &'m mut [u8],
    ) -> Result<Controller<'m, R>, Failure> {
        let device = Device::find(registers)?;
        let queue = Queue::new(rings, Lengths::new(lengths)).ok_or(Failure::Memory)?;
        if memory.len() < MEMORY_MIN {
            return Err(Failure::Memory);
        }
        Ok(Controller {
            device,
            memory,
            queue,
            slots: Slots::new(),
            about: None,
            generation: 0,
            has_news: false,
            epoch: 0,
            state: State::Stopped,
            resets: 0,
        })
    }

    /// Stops the device. Until it is started it touches no memory.
    pub fn stop(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.state = State::Stopped;
        self.device.reset(pause)?;
        self.queue.close();
        Ok(())
    }

    /// Starts the device that was stopped, and adds again what was in flight.
    pub fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.device.reset(pause)?;
        let features = self.device.negotiate(WANTED)?;
        self.generation = self.device.read_config_generation();
        let identity = Identity::read(&self.device, features)?;
        match &self.about {
            None => self.about = Some(About { identity, features, limits: identity.limits() }),
            // Volumes lie where they lay, and requests in flight stay as they are.
            Some(about) if about.features == features && about.identity.admits(&identity) => {}
            Some(_) => return Err(Failure::Changed),
        }
        let opened = self.queue.open(&mut self.device, QUEUE);
        opened.map_err(|error| match error {
            Error::DmaError => Failure::Memory,
            _ => Failure::Queue,
        })?;
        self.device.begin()?;
        self.state = State::Up;
        self.slots.again(self.memory, &mut self.queue, self.epoch);
        self.has_news = !self.slots.is_empty();
        self.ring();
        Ok(())
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the device says of itself; known once it was started.
    pub fn identity(&self) -> Option<&Identity> {
        self.about.as_ref().map(|about| &about.identity)
    }

    /// Whether no request is in flight.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Looks after the device. Called once a tick, for as long as requests are in flight, and after
    /// [`Controller::state`] became sick.
    pub fn watch(&mut self) -> Health {
        self.epoch = self.epoch.wrapping_add(1);
        if self.state == State::Up
            && let Some(sick) = self.look()
        {
            self.state = State::Sick(sick);
        }
        match self.state {
            State::Stopped | State::Lost | State::Sick(Sick::Gone | Sick::Shrunk) => Health::Lost,
            State::Up => Health::Fine,
            State::Sick(sick) => {
                self.resets = self.resets.saturating_add(1);
                if self.resets > RESETS_MAX { Health::Lost } else { Health::Sick(sick) }
            }
        }
    }

    fn look(&mut self) -> Option<Sick> {
        match self.device.condition() {
            Condition::Gone => return Some(Sick::Gone),
            Condition::NeedsReset => return Some(Sick::NeedsReset),
            Condition::Fine => {}
        }
        let generation = self.device.read_config_generation();
        if generation != self.generation {
            self.generation = generation;
            let about = self.about.as_ref()?;
            let now = Identity::read(&self.device, about.features);
            // One that changes all the time is looked at again in the next tick.
            match now {
                Ok(now) if !about.identity.admits(&now) => return Some(Sick::Shrunk),
                Err(Failure::Blocks) => return Some(Sick::Shrunk),
                _ => {}
            }
        }
        let slot = self.slots.older_than(self.epoch, PATIENCE)?;
        Some(Sick::TimedOut { slot })
    }

    /// Gives the device up: what is in flight fails, and what comes. It is off the bus, so it touches
    /// no memory any more.
    pub fn lose(&mut self) {
        self.state = State::Lost;
        self.queue.close();
        self.slots.refuse_all();
    }
}

impl<R: Registers> Disk for Controller<'_, R> {
    fn limits(&self) -> &Limits {
        self.about.as_ref().map_or(&NO_LIMITS, |about| &about.limits)
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        match self.state {
            State::Up => {
                let block_size = self.limits().block_size;
                let Controller { memory, queue, slots, epoch, .. } = self;
                slots.submit(*memory, queue, (tag, command), block_size, *epoch)?;
                self.has_news = true;
                Ok(())
            }
            State::Lost => self.slots.refuse(tag),
            State::Stopped | State::Sick(_) => Err(Busy),
        }
    }

    fn ring(&mut self) {
        if self.state == State::Up && self.has_news {
            self.has_news = false;
            if self.queue.wants_notice() {
                self.device.notify(QUEUE);
            }
        }
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if let Some(failed) = self.slots.failed() {
            return Some(failed);
        }
        if self.state != State::Up {
            return None;
        }
        match self.slots.ended(self.memory, &mut self.queue)? {
            Ok((tag, outcome)) => {
                if outcome == Outcome::Done {
                    self.resets = 0;
                }
                Some((tag, outcome))
            }
            Err(fault) => {
                self.state = State::Sick(Sick::Fault(fault));
                None
            }
        }
    }

    fn cancel(&mut self, tag: Tag) {
        self.slots.cancel(tag);
    }
}
