//! A mailbox side that lives in a struct: it finds its peer, and finds it again after a loss.
//!
//! [`Link`] holds a [`Ring`] in whichever state it is and moves it on with each call. A loss is
//! returned once, as a value that the caller must match: what was asked before will not be
//! answered. Invariant: a call never waits; `wake` is called when the peer should look.

use crate::layout::{Message, Side, TooSmall};
use crate::mailbox::{Lost, Mapped, Ready, Ring, SendError};
use crate::sync::AtomicU64;

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The peer has not been found yet, or not again.
    NoPeer,
    /// The peer has not taken enough of the earlier ones.
    Full,
    /// The peer was lost just now.
    Lost(Lost),
}

enum State<'a> {
    Mapped(Ring<'a, Mapped>),
    Ready(Ring<'a, Ready>),
}

/// One side of a mailbox, at any stage of its life.
pub struct Link<'a> {
    /// `None` only while a ring moves from one state to the next.
    state: Option<State<'a>>,
}

impl<'a> Link<'a> {
    /// As [`Ring::new`].
    pub fn new(words: &'a [AtomicU64], side: Side, generation: u64) -> Result<Self, TooSmall> {
        let ring = Ring::new(words, side, generation)?;
        Ok(Link { state: Some(State::Mapped(ring)) })
    }

    /// Looks for the peer if there is none. Whether there is one now.
    pub fn meet(&mut self, wake: impl FnOnce()) -> bool {
        self.state = match self.state.take() {
            Some(State::Mapped(ring)) => Some(match ring.handshake(wake) {
                Ok(ready) => State::Ready(ready),
                Err(mapped) => State::Mapped(mapped),
            }),
            other => other,
        };
        matches!(self.state, Some(State::Ready(_)))
    }

    /// Sends a message and wakes the peer.
    pub fn send(&mut self, message: &Message, wake: impl Fn()) -> Result<(), Unsent> {
        self.meet(&wake);
        let Some(State::Ready(ring)) = &mut self.state else {
            return Err(Unsent::NoPeer);
        };
        match ring.send(message) {
            Ok(()) => {
                wake();
                Ok(())
            }
            Err(SendError::Full) => Err(Unsent::Full),
            Err(SendError::Lost(lost)) => {
                self.begin_anew(&wake);
                Err(Unsent::Lost(lost))
            }
        }
    }

    /// Takes the next message, if there is a peer that sent one.
    pub fn receive(&mut self, wake: impl Fn()) -> Result<Option<Message>, Lost> {
        self.meet(&wake);
        let Some(State::Ready(ring)) = &mut self.state else {
            return Ok(None);
        };
        let result = ring.receive();
        if result.is_err() {
            self.begin_anew(&wake);
        }
        result
    }

    /// As [`Link::receive`], and leaves zeros in the message's place; see [`Ring::receive_secret`].
    pub fn receive_secret(&mut self, wake: impl Fn()) -> Result<Option<Message>, Lost> {
        self.meet(&wake);
        let Some(State::Ready(ring)) = &mut self.state else {
            return Ok(None);
        };
        let result = ring.receive_secret();
        if result.is_err() {
            self.begin_anew(&wake);
        }
        result
    }

    /// Which life of the peer this side talks to; see [`Ring::peer_life`].
    pub fn peer_life(&self) -> Option<u32> {
        match &self.state {
            Some(State::Ready(ring)) => Some(ring.peer_life()),
            _ => None,
        }
    }

    fn begin_anew(&mut self, wake: impl FnOnce()) {
        self.state = match self.state.take() {
            Some(State::Ready(ring)) => Some(State::Mapped(ring.again())),
            other => other,
        };
        self.meet(wake);
    }
}
