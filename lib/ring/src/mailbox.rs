//! One side of a mailbox: handshake, sending, receiving, and the two ways to lose the peer.
//!
//! Epochs. Each attempt to speak has its own epoch: the task's generation, counted from 1, and the
//! number of the attempt in its low bits. A side publishes one state word: its epoch, and the
//! peer's epoch that it has accepted. Both are ready when each has accepted the other. A side
//! announces a new epoch *before* it zeroes its counters, and accepts a peer *after*: so whoever
//! reads a zeroed counter and then looks at the state finds the new epoch, and whoever finds itself
//! accepted finds counters of this session.
//!
//! Invariant: once lost, a `Ring<Ready>` gives the same answer to every call.

use core::marker::PhantomData;

use crate::layout::{Field, Message, Side, TooSmall, View};
use crate::sync::AtomicU64;

/// Low bits of an epoch that count attempts within one life.
const ATTEMPT: u32 = 0xfff;
/// One life more, in an epoch.
const LIFE: u32 = ATTEMPT + 1;

/// State of a [`Ring`] that has not found its peer.
#[derive(Debug)]
pub enum Mapped {}
/// State of a [`Ring`] that has.
#[derive(Debug)]
pub enum Ready {}

/// Which rule the peer broke. Both its counters may only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It has sent fewer messages than it had before.
    ProducedBackwards,
    /// It has sent more messages than there is room for.
    ProducedTooFar,
    /// It has taken fewer messages than it had before.
    ConsumedBackwards,
    /// It has taken more messages than were sent.
    ConsumedTooFar,
}

/// The peer is lost. What was sent and not answered will not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was restarted, or began anew; [`Ring::again`] finds it.
    Gone,
    /// It broke a rule. [`Ring::again`] waits for its next life.
    Retired(Rule),
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The peer has not taken enough of the earlier ones.
    Full,
    /// There is no peer.
    Lost(Lost),
}

/// One side of a mailbox.
#[derive(Debug)]
pub struct Ring<'a, S> {
    view: View<'a>,
    side: Side,
    epoch: u32,
    /// The peer's epoch: accepted, or, while mapped, one of a life that is not accepted again.
    theirs: u32,
    produced: u64,
    consumed: u64,
    their_produced: u64,
    their_consumed: u64,
    lost: Option<Lost>,
    _state: PhantomData<fn() -> S>,
}

impl<'a> Ring<'a, Mapped> {
    /// One side of the mailbox in `words`. `generation` says how often this task was restarted.
    pub fn new(words: &'a [AtomicU64], side: Side, generation: u64) -> Result<Self, TooSmall> {
        // Life 0 is "nobody": it is what zeroed memory says.
        let life = (generation as u32).wrapping_add(1).wrapping_mul(LIFE).max(LIFE);
        Ok(Ring::with(View::new(words)?, side, life, 0))
    }

    /// Looks for the peer. `wake` is called if the peer should look as well. Without a peer the
    /// ring comes back as it was; try again when the peer has signalled.
    pub fn handshake(self, wake: impl FnOnce()) -> Result<Ring<'a, Ready>, Self> {
        let before = self.view.load(self.side, Field::State);
        let (theirs, accepted) = halves(self.view.load(self.side.peer(), Field::State));
        let is_there = life(theirs) != 0 && life(theirs) != life(self.theirs);
        let mine = state(self.epoch, if is_there { theirs } else { 0 });
        if mine != before {
            self.view.store(self.side, Field::State, state(self.epoch, 0));
            self.view.store(self.side, Field::Produced, 0);
            self.view.store(self.side, Field::Consumed, 0);
            self.view.store(self.side, Field::State, mine);
            wake();
        }
        if is_there && accepted == self.epoch {
            Ok(Ring::with(self.view, self.side, self.epoch, theirs))
        } else {
            Err(self)
        }
    }
}

impl<'a> Ring<'a, Ready> {
    /// Sends a message, if there is room. The caller then signals the peer.
    pub fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let consumed = self.look(Field::Consumed).map_err(SendError::Lost)?;
        if consumed < self.their_consumed {
            return Err(SendError::Lost(self.retire(Rule::ConsumedBackwards)));
        }
        if consumed > self.produced {
            return Err(SendError::Lost(self.retire(Rule::ConsumedTooFar)));
        }
        self.their_consumed = consumed;
        if self.produced - consumed >= self.view.capacity() {
            return Err(SendError::Full);
        }
        self.view.put(self.side, self.produced, message);
        self.produced += 1;
        self.view.store(self.side, Field::Produced, self.produced);
        Ok(())
    }

    /// Takes the next message, if there is one.
    pub fn receive(&mut self) -> Result<Option<Message>, Lost> {
        self.next(false)
    }

    /// As [`Ring::receive`], and leaves zeros in the message's place: for messages that hold a
    /// secret, which the region would keep until the ring comes round.
    pub fn receive_secret(&mut self) -> Result<Option<Message>, Lost> {
        self.next(true)
    }

    /// Which life of the peer this is: it counts up with its restarts. The peer says so itself.
    pub fn peer_life(&self) -> u32 {
        self.theirs / LIFE
    }

    fn next(&mut self, is_secret: bool) -> Result<Option<Message>, Lost> {
        let produced = self.look(Field::Produced)?;
        if produced < self.their_produced {
            return Err(self.retire(Rule::ProducedBackwards));
        }
        // `their_produced` is never below `consumed`, so this cannot wrap.
        if produced - self.consumed > self.view.capacity() {
            return Err(self.retire(Rule::ProducedTooFar));
        }
        self.their_produced = produced;
        if produced == self.consumed {
            return Ok(None);
        }
        let message = self.view.get(self.side.peer(), self.consumed);
        if is_secret {
            self.view.wipe(self.side.peer(), self.consumed);
        }
        self.consumed += 1;
        self.view.store(self.side, Field::Consumed, self.consumed);
        Ok(Some(message))
    }

    /// Messages that fit in one direction.
    pub fn capacity(&self) -> u64 {
        self.view.capacity()
    }

    /// Begins anew with the same region, lost or not; the peer will find this side gone and begin
    /// anew as well. A life of the peer that broke a rule is waited out. (A hostile peer can claim
    /// to be a new one, and then breaks the next rule: the cost is a handshake each time.)
    pub fn again(self) -> Ring<'a, Mapped> {
        let banned = match self.lost {
            Some(Lost::Retired(_)) => self.theirs,
            Some(Lost::Gone) | None => 0,
        };
        let attempt = self.epoch.wrapping_add(1) & ATTEMPT;
        Ring::with(self.view, self.side, life(self.epoch) | attempt, banned)
    }

    /// Reads one of the peer's counters, and then whether it is still of this session.
    fn look(&mut self, field: Field) -> Result<u64, Lost> {
        if let Some(lost) = self.lost {
            return Err(lost);
        }
        let value = self.view.load(self.side.peer(), field);
        if self.view.load(self.side.peer(), Field::State) != state(self.theirs, self.epoch) {
            self.lost = Some(Lost::Gone);
            return Err(Lost::Gone);
        }
        Ok(value)
    }

    fn retire(&mut self, rule: Rule) -> Lost {
        let lost = Lost::Retired(rule);
        self.lost = Some(lost);
        lost
    }
}

impl<'a, S> Ring<'a, S> {
    fn with(view: View<'a>, side: Side, epoch: u32, theirs: u32) -> Self {
        Ring {
            view,
            side,
            epoch,
            theirs,
            produced: 0,
            consumed: 0,
            their_produced: 0,
            their_consumed: 0,
            lost: None,
            _state: PhantomData,
        }
    }
}

/// Which life of a task an epoch belongs to.
fn life(epoch: u32) -> u32 {
    epoch & !ATTEMPT
}

fn state(epoch: u32, accepted: u32) -> u64 {
    u64::from(epoch) << 32 | u64::from(accepted)
}

fn halves(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}
