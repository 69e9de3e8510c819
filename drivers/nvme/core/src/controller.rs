//! A controller, from the first look at its registers to its loss: [`Controller`].
//!
//! The caller takes the function off the bus, calls [`Controller::stop`], puts it back and calls
//! [`Controller::start`]; the same after [`Health::Sick`]. Commands in flight keep their slots over
//! a reset and are submitted again. One that makes no progress over several resets, or that is no
//! longer there, is *lost*: every command fails then, at once.
//! Invariant: see [`Disk`]; after [`Controller::stop`] the controller touches no memory.

use cloister_block::{Busy, Command, Disk, Fit, Limits, Outcome, PAGE, Pause, SEGMENTS_MAX, Tag};
use cloister_dma::Memory;

use crate::admin;
use crate::fault::{Failure, Sick};
use crate::identify::{Identity, Namespace};
use crate::pair::Pair;
use crate::plan::{ENTRIES_MAX, PAIRS_MAX, Plan};
use crate::prp;
use crate::registers::{self, Capabilities, Registers};

/// Ticks that a command may take before the controller is reset.
const PATIENCE: u32 = 30;
/// Resets in a row, without a command that succeeded, before the controller is given up.
const RESETS_MAX: u32 = 4;
/// Most blocks of a *Write Zeroes*: the count has 16 bits.
const ZERO_BLOCKS_MAX: u32 = 1 << 16;
/// Most blocks of a range to deallocate: bounds the time that one command takes.
const DISCARD_BLOCKS_MAX: u32 = 1 << 22;

/// A bit for each pair.
const ALL_PAIRS: u8 = (1 << PAIRS_MAX) - 1;

fn bit(pair: usize) -> u8 {
    u32::try_from(pair).ok().and_then(|pair| 1u8.checked_shl(pair)).unwrap_or(0)
}

/// How far a controller has come.
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
    /// The controller is to be stopped and started again.
    Sick(Sick),
    /// It is not to be tried any more: off the bus with it, then [`Controller::lose`].
    Lost,
}

/// What is known of the disk once the controller was up.
struct About {
    identity: Identity,
    namespace: Namespace,
    limits: Limits,
}

/// A controller with its memory.
pub struct Controller<R, M> {
    registers: R,
    memory: M,
    capabilities: Capabilities,
    plan: Plan,
    pairs: [Pair; PAIRS_MAX],
    /// Pairs that were made.
    count: usize,
    /// The pair that is looked at next for completions.
    current: usize,
    /// A bit for each pair that has commands, or of which an interrupt told: others have nothing
    /// that they could end.
    busy: u8,
    about: About,
    epoch: u32,
    state: State,
    resets: u32,
}

impl<R: Registers, M: Memory> Controller<R, M> {
    /// Looks at a controller. `vectors` are the interrupts that there are; each pair of queues has
    /// one, so there are no more pairs.
    pub fn new(registers: R, memory: M, vectors: u16) -> Result<Controller<R, M>, Failure> {
        let capabilities = Capabilities::read(&registers)?;
        let plan = Plan::new(memory.len(), usize::from(vectors)).ok_or(Failure::Memory)?;
        let entries = u16::try_from(capabilities.entries_max).unwrap_or(u16::MAX).min(ENTRIES_MAX);
        let mut ids = 0u16;
        let pairs = [(); PAIRS_MAX].map(|()| {
            let places = plan.pair(usize::from(ids));
            ids = ids.saturating_add(1);
            Pair::new(ids, entries, places)
        });
        Ok(Controller {
            registers,
            memory,
            capabilities,
            plan,
            pairs,
            count: 0,
            current: 0,
            busy: ALL_PAIRS,
            about: About::NONE,
            epoch: 0,
            state: State::Stopped,
            resets: 0,
        })
    }

    /// Stops the controller. Until it is started it touches no memory. One that says that it failed,
    /// like a virtual function that is not online yet, is given time to get over it.
    pub fn stop(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.state = State::Stopped;
        registers::stop(&self.registers, &self.capabilities, pause)?;
        registers::wait_online(&self.registers, pause);
        Ok(())
    }

    /// Starts the controller that was stopped, and submits again what was in flight.
    pub fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        let is_first = self.count == 0;
        let mut admin = admin::start(&self.registers, &self.memory, self.capabilities, pause)?;
        let (identity, namespace) = (admin.controller()?, admin.namespace()?);
        let wanted = if is_first { self.plan.pairs } else { self.count };
        let count = admin.pairs(u16::try_from(wanted).unwrap_or(1))?;
        for pair in self.pairs.iter_mut().take(count.into()) {
            pair.clear(&self.memory).ok_or(Failure::Memory)?;
            let vector = pair.id().saturating_sub(1);
            admin.create(pair.id(), pair.entries(), pair.places(), vector)?;
        }
        let about = About::new(identity, namespace);
        // Volumes lie where they lay, and commands in flight stay in their queues.
        let is_same = about.limits == self.about.limits && usize::from(count) == self.count;
        if !is_first && !is_same {
            return Err(Failure::Changed);
        }
        (self.about, self.count, self.current) = (about, count.into(), 0);
        (self.busy, self.state) = (ALL_PAIRS, State::Up);
        for pair in self.pairs.iter_mut().take(self.count) {
            pair.again(&self.memory, self.epoch);
            pair.ring(&self.registers, &self.capabilities);
        }
        Ok(())
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the controller says of itself; known once it was started.
    pub fn identity(&self) -> &Identity {
        &self.about.identity
    }

    /// The namespace; known once the controller was started.
    pub fn namespace(&self) -> &Namespace {
        &self.about.namespace
    }

    /// Pairs of queues; known once the controller was started.
    pub fn pairs(&self) -> usize {
        self.count
    }

    /// The memory, and where the driver's own part of it begins.
    pub fn memory(&self) -> (&M, u64) {
        (&self.memory, self.plan.end())
    }

    /// Whether no command is in flight.
    pub fn is_idle(&self) -> bool {
        self.pairs.iter().all(Pair::is_empty)
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
            State::Stopped | State::Lost => Health::Lost,
            State::Up => Health::Fine,
            State::Sick(Sick::Gone) => Health::Lost,
            State::Sick(sick) => {
                self.resets = self.resets.saturating_add(1);
                if self.resets > RESETS_MAX { Health::Lost } else { Health::Sick(sick) }
            }
        }
    }

    fn look(&mut self) -> Option<Sick> {
        match registers::is_ready(&self.registers) {
            Ok(true) => {}
            Err(Failure::Gone) => return Some(Sick::Gone),
            _ => return Some(Sick::Fatal),
        }
        let epoch = self.epoch;
        self.pairs.iter().find_map(|pair| {
            let id = pair.older_than(epoch, PATIENCE)?;
            Some(Sick::TimedOut { queue: pair.id(), id })
        })
    }

    /// Gives the controller up: what is in flight fails, and what comes. It is off the bus, so it
    /// touches no memory any more.
    pub fn lose(&mut self) {
        (self.busy, self.state) = (ALL_PAIRS, State::Lost);
        self.pairs.iter_mut().for_each(Pair::refuse_all);
    }

    /// Whether [`Disk::poll`] has nothing to look at: no commands, and no interrupt came.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.busy == 0
    }

    /// The interrupt of a pair came: it is looked at whether it has commands or not.
    pub fn heard(&mut self, pair: usize) {
        self.busy |= bit(pair);
    }

    fn pair_of(&mut self, client: u8) -> Option<&mut Pair> {
        let place = usize::from(client).checked_rem(self.count)?;
        self.pairs.get_mut(place)
    }
}

impl<R: Registers, M: Memory> Disk for Controller<R, M> {
    fn limits(&self) -> &Limits {
        &self.about.limits
    }

    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy> {
        let place = usize::from(tag.client).checked_rem(self.count).ok_or(Busy)?;
        let pair = self.pairs.get_mut(place).ok_or(Busy)?;
        self.busy |= bit(place);
        match self.state {
            State::Up => {
                let namespace = self.about.namespace.id;
                pair.submit(&self.memory, tag, command, namespace, self.epoch)
            }
            State::Lost => pair.refuse(tag),
            State::Stopped | State::Sick(_) => Err(Busy),
        }
    }

    fn ring(&mut self) {
        for pair in self.pairs.iter_mut().take(self.count) {
            pair.ring(&self.registers, &self.capabilities);
        }
    }

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if !matches!(self.state, State::Up | State::Lost) {
            return None;
        }
        while let Some(pair) = self.pairs.get_mut(self.current).filter(|_| self.busy != 0) {
            let own = bit(self.current);
            if self.busy & own != 0 {
                match pair.take(&self.memory, self.epoch) {
                    Some(Ok((tag, outcome))) => {
                        if outcome == Outcome::Done {
                            self.resets = 0;
                        }
                        // The last one: there is nothing to be looked at before the next command
                        // or interrupt, so the controller is told now.
                        if self.state == State::Up && pair.is_empty() {
                            pair.acknowledge(&self.registers, &self.capabilities);
                            self.busy &= !own;
                        }
                        return Some((tag, outcome));
                    }
                    Some(Err(fault)) if self.state == State::Up => {
                        self.state = State::Sick(Sick::Fault(fault));
                        return None;
                    }
                    Some(Err(_)) | None => {}
                }
                if self.state == State::Up {
                    pair.acknowledge(&self.registers, &self.capabilities);
                }
                if pair.is_empty() {
                    self.busy &= !own;
                }
            }
            self.current = self.current.saturating_add(1);
        }
        self.current = 0;
        None
    }

    fn cancel(&mut self, tag: Tag) {
        if let Some(pair) = self.pair_of(tag.client) {
            pair.cancel(tag);
        }
    }
}

impl About {
    const NONE: About = About {
        identity: Identity {
            model: [b' '; 40],
            bytes_max: None,
            has_zeroes: false,
            has_deallocate: false,
            has_write_cache: false,
        },
        namespace: Namespace { id: 0, blocks: 0, block_size: 512 },
        limits: Limits {
            block_size: 512,
            blocks: 0,
            bytes_max: PAGE,
            segments_max: 1,
            fit: Fit::Pages,
            align: 4,
            zero_blocks_max: 0,
            discard_blocks_max: 0,
            write_cache: false,
        },
    };

    fn new(identity: Identity, namespace: Namespace) -> About {
        let limits = Limits {
            block_size: namespace.block_size,
            blocks: namespace.blocks,
            bytes_max: identity.bytes_max.unwrap_or(u64::MAX).min(prp::BYTES_MAX),
            segments_max: SEGMENTS_MAX,
            fit: Fit::Pages,
            align: 4,
            zero_blocks_max: if identity.has_zeroes { ZERO_BLOCKS_MAX } else { 0 },
            discard_blocks_max: if identity.has_deallocate { DISCARD_BLOCKS_MAX } else { 0 },
            write_cache: identity.has_write_cache,
        };
        About { identity, namespace, limits }
    }
}
