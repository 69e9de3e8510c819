//! A device, from the first look at its registers to its loss: [`Controller`].
//!
//! Its states, and who calls what when, are those of [`cloister_block::Controller`], and so is the
//! invariant.

use cloister_block::{self as block, Busy, Command, Disk, Life, Limits, Outcome, Pause, Tag};
use cloister_dma::{Memory, Region};
use cloister_dma_queue::{Error, Lengths, Queue, RINGS_BYTES, Transport};

use crate::device::{Condition, Device};
use crate::fault::{Failure, Sick, State};
use crate::identity::{Identity, NO_LIMITS, WANTED};
use crate::plan::MEMORY_MIN;
use crate::registers::Registers;
use crate::requests::Requests;

/// The queue; there may be more, which are not used.
const QUEUE: u16 = 0;

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
    requests: Requests,
    about: Option<About>,
    /// The generation of the configuration that was read.
    generation: u32,
    /// Something was added that the device was not told of.
    has_news: bool,
    life: Life<Sick>,
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
            requests: Requests::new(),
            about: None,
            generation: 0,
            has_news: false,
            life: Life::new(),
        })
    }

    /// What the device says of itself; known once it was started.
    pub fn identity(&self) -> Option<&Identity> {
        self.about.as_ref().map(|about| &about.identity)
    }

    /// Whether no request is in flight.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }
}

impl<R: Registers> block::Controller for Controller<'_, R> {
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
        self.life.turn(State::Stopped);
        self.device.reset(pause)?;
        self.queue.close();
        Ok(())
    }

    fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
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
        self.life.turn(State::Up);
        self.requests.again(self.memory, &mut self.queue, self.life.epoch());
        self.has_news = !self.requests.is_empty();
        self.ring();
        Ok(())
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
        let slot = self.requests.overdue(self.life.epoch())?;
        Some(Sick::TimedOut { slot })
    }

    fn lose(&mut self) {
        self.life.turn(State::Lost);
        self.queue.close();
        self.requests.refuse_all();
    }
}

impl<R: Registers> Disk for Controller<'_, R> {
    fn limits(&self) -> &Limits {
        self.about.as_ref().map_or(&NO_LIMITS, |about| &about.limits)
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        match self.life.state() {
            State::Up => {
                let block_size = self.limits().block_size;
                let Controller { memory, queue, requests, life, .. } = self;
                requests.submit(*memory, queue, (tag, command), block_size, life.epoch())?;
                self.has_news = true;
                Ok(())
            }
            State::Lost => self.requests.refuse(tag),
            State::Stopped | State::Sick(_) => Err(Busy),
        }
    }

    fn ring(&mut self) {
        if self.life.is_up() && self.has_news {
            self.has_news = false;
            if self.queue.wants_notice() {
                self.device.notify(QUEUE);
            }
        }
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if let Some(failed) = self.requests.failed() {
            return Some(failed);
        }
        if !self.life.is_up() {
            return None;
        }
        match self.requests.ended(self.memory, &mut self.queue)? {
            Ok((tag, outcome)) => {
                if outcome == Outcome::Done {
                    self.life.succeeded();
                }
                Some((tag, outcome))
            }
            Err(fault) => {
                self.life.turn(State::Sick(Sick::Fault(fault)));
                None
            }
        }
    }

    fn cancel(&mut self, tag: Tag) {
        self.requests.cancel(tag);
    }
}
