//! A controller, from the first look at its registers to its loss: [`Controller`].
//!
//! Its states, and who calls what when, are those of [`cloister_block::Controller`], and so is the
//! invariant.

use cloister_block::{
    self as block, Busy, Command, Disk, Fit, Life, Limits, Outcome, PAGE, Pause, Registers,
    SEGMENTS_MAX, Tag,
};
use cloister_dma::Memory;

use crate::admin;
use crate::fault::{Failure, Sick, State};
use crate::identify::{Identity, Namespace};
use crate::pair::Pair;
use crate::plan::{ENTRIES_MAX, PAIRS_MAX, Plan};
use crate::prp;
use crate::registers::{self, Capabilities};

/// Most blocks of a *Write Zeroes*: the count has 16 bits.
const ZERO_BLOCKS_MAX: u32 = 1 << 16;
/// Most blocks of a range to deallocate: bounds the time that one command takes.
const DISCARD_BLOCKS_MAX: u32 = 1 << 22;

/// A bit for each pair.
const ALL_PAIRS: u8 = (1 << PAIRS_MAX) - 1;

fn bit(pair: usize) -> u8 {
    u32::try_from(pair).ok().and_then(|pair| 1u8.checked_shl(pair)).unwrap_or(0)
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
    life: Life<Sick>,
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
            life: Life::new(),
        })
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

    fn pair_of(&mut self, client: u8) -> Option<&mut Pair> {
        let place = usize::from(client).checked_rem(self.count)?;
        self.pairs.get_mut(place)
    }

    /// The next command that ended, of a pair that may have one.
    fn take(&mut self) -> Option<(Tag, Outcome)> {
        if !matches!(self.life.state(), State::Up | State::Lost) {
            return None;
        }
        while let Some(pair) = self.pairs.get_mut(self.current).filter(|_| self.busy != 0) {
            let own = bit(self.current);
            if self.busy & own != 0 {
                match pair.take(&self.memory, self.life.epoch()) {
                    Some(Ok((tag, outcome))) => {
                        if outcome == Outcome::Done {
                            self.life.succeeded();
                        }
                        // The last one: there is nothing to be looked at before the next command
                        // or interrupt, so the controller is told now.
                        if self.life.is_up() && pair.is_empty() {
                            pair.acknowledge(&self.registers, &self.capabilities);
                            self.busy &= !own;
                        }
                        return Some((tag, outcome));
                    }
                    Some(Err(fault)) if self.life.is_up() => {
                        self.life.turn(State::Sick(Sick::Fault(fault)));
                        return None;
                    }
                    Some(Err(_)) | None => {}
                }
                if self.life.is_up() {
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

    /// One that says that it failed, like a virtual function that is not online yet, is given time
    /// to get over it.
    fn stop(&mut self, pause: &impl Pause) -> Result<(), Failure> {
        self.life.turn(State::Stopped);
        registers::stop(&self.registers, &self.capabilities, pause)?;
        registers::wait_online(&self.registers, pause);
        Ok(())
    }

    fn start(&mut self, pause: &impl Pause) -> Result<(), Failure> {
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
        self.busy = ALL_PAIRS;
        self.life.turn(State::Up);
        for pair in self.pairs.iter_mut().take(self.count) {
            pair.again(&self.memory, self.life.epoch());
            pair.ring(&self.registers, &self.capabilities);
        }
        Ok(())
    }

    fn look(&mut self) -> Option<Sick> {
        match registers::is_ready(&self.registers) {
            Ok(true) => {}
            Err(Failure::Gone) => return Some(Sick::Gone),
            _ => return Some(Sick::Fatal),
        }
        let epoch = self.life.epoch();
        self.pairs.iter().find_map(|pair| {
            let id = pair.overdue(epoch)?;
            Some(Sick::TimedOut { queue: pair.id(), id })
        })
    }

    fn lose(&mut self) {
        self.busy = ALL_PAIRS;
        self.life.turn(State::Lost);
        self.pairs.iter_mut().for_each(Pair::refuse_all);
    }

    fn heard(&mut self, pair: usize) {
        // It is looked at whether it has commands or not.
        self.busy |= bit(pair);
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
        match self.life.state() {
            State::Up => {
                let namespace = self.about.namespace.id;
                pair.submit(&self.memory, tag, command, namespace, self.life.epoch())
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

    #[inline]
    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        if self.busy == 0 {
            // No commands, and no interrupt came. The next look begins with the first pair.
            self.current = 0;
            return None;
        }
        self.take()
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
