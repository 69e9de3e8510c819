//! The driver's side of a release: asks the vault for the key of a header, slot by slot.
//!
//! [`Asker`] is stepped each time the vault has signalled. It asks for the kind of key that the
//! first slot wants, goes on to the next slot when the vault has no such key, and asks anew when
//! the vault was restarted or a passphrase was mistyped. [`Asker::listen`] is for a volume that has
//! its answer. Every message that may hold a key is
//! wiped from the mailbox as it is taken. Invariant: a step never waits.

use cloister_ring::{Link, Lost, Message, Rule, Unsent};
use zeroize::Zeroize;

use crate::erase::{Order, Outcome};
use crate::header::Header;
use crate::key::VolumeKey;
use crate::release::{Reason, Reply, Request};
use crate::slot::Kind;

/// What came of a step.
#[derive(Debug)]
pub enum Step {
    /// The vault has not answered yet: wait for its signal.
    Wait,
    /// The volume is open.
    Key(VolumeKey),
    /// It stays closed.
    Failed(Failure),
    /// The vault wants it erased, and waits for [`Asker::report`].
    Erase(Order),
}

/// Why a volume stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was erased.
    Erased,
    /// The vault said no, for the last of the slots.
    Refused(Reason),
    /// The key of the manifest is not the one that the volume was encrypted for.
    WrongKey,
    /// The vault broke a rule of the mailbox.
    BadVault(Rule),
}

/// A conversation about one volume.
pub struct Asker<'a> {
    link: Link<'a>,
    nonce: u64,
    /// The slot that is being tried.
    slot: usize,
    /// Its passphrase was mistyped.
    is_wrong: bool,
    is_asked: bool,
}

impl<'a> Asker<'a> {
    /// Begins one; `nonce` is best a number that no earlier life used, like the time.
    pub fn new(link: Link<'a>, nonce: u64) -> Asker<'a> {
        Asker { link, nonce, slot: 0, is_wrong: false, is_asked: false }
    }

    /// Does what can be done now. `wake` signals the vault.
    pub fn step(&mut self, header: &Header, wake: impl Fn()) -> Step {
        loop {
            let Some(kind) = self.kind(header) else { return Step::Failed(Failure::Erased) };
            match self.ask(kind, &wake) {
                Ok(true) => {}
                Ok(false) => return Step::Wait,
                Err(failure) => return Step::Failed(failure),
            }
            let mut message = match self.link.receive_secret(&wake) {
                Ok(Some(message)) => message,
                Ok(None) => return Step::Wait,
                Err(Lost::Gone) => {
                    self.is_asked = false;
                    continue;
                }
                Err(Lost::Retired(rule)) => return Step::Failed(Failure::BadVault(rule)),
            };
            if let Some(order) = Order::from_words(&message.0) {
                return Step::Erase(order);
            }
            let reply = Reply::from_words(&message.0, self.nonce);
            message.0.zeroize();
            if let Some(step) = reply.and_then(|reply| self.answered(header, kind, reply)) {
                return step;
            }
        }
    }

    /// Looks for an order when there is nothing to ask any more. A key that comes late is wiped.
    pub fn listen(&mut self, wake: impl Fn()) -> Option<Order> {
        loop {
            match self.link.receive_secret(&wake) {
                Ok(Some(mut message)) => {
                    let order = Order::from_words(&message.0);
                    message.0.zeroize();
                    if order.is_some() {
                        return order;
                    }
                }
                Ok(None) | Err(Lost::Retired(_)) => return None,
                Err(Lost::Gone) => {}
            }
        }
    }

    /// Tells the vault what became of its order. One that was restarted meanwhile does not hear it.
    pub fn report(&mut self, outcome: Outcome, wake: impl Fn()) -> Result<(), Unsent> {
        self.link.send(&Message(outcome.to_words()), wake)
    }

    /// The kind of the slot that is being tried, or of the next one that there is.
    fn kind(&mut self, header: &Header) -> Option<Kind> {
        let mut later = header.slots.iter().enumerate().skip(self.slot);
        let (slot, kind) = later.find_map(|(nth, slot)| Some((nth, slot.as_ref()?.kind)))?;
        self.slot = slot;
        Some(kind)
    }

    /// Sends the request if it is not under way; whether it is now.
    fn ask(&mut self, kind: Kind, wake: &impl Fn()) -> Result<bool, Failure> {
        if self.is_asked {
            return Ok(true);
        }
        let nonce = self.nonce.wrapping_add(1);
        let request = match self.is_wrong {
            true => Request::Wrong { nonce, kind },
            false => Request::Ask { nonce, kind },
        };
        match self.link.send(&Message(request.to_words()), wake) {
            Ok(()) => (self.nonce, self.is_asked) = (nonce, true),
            Err(Unsent::NoPeer | Unsent::Full | Unsent::Lost(Lost::Gone)) => {}
            Err(Unsent::Lost(Lost::Retired(rule))) => return Err(Failure::BadVault(rule)),
        }
        Ok(self.is_asked)
    }

    /// What a reply leads to; `None` if there is more to ask.
    fn answered(&mut self, header: &Header, kind: Kind, reply: Reply) -> Option<Step> {
        self.is_asked = false;
        match reply {
            Reply::Key { key, .. } => match (header.unlock(&key), kind) {
                (Some(volume), _) => return Some(Step::Key(volume)),
                (None, Kind::Sealed) => return Some(Step::Failed(Failure::WrongKey)),
                (None, Kind::Passphrase { .. }) => self.is_wrong = true,
            },
            Reply::Refused { reason, .. } => {
                let slot = self.slot.wrapping_add(1);
                if reason != Reason::NoSuchKey
                    || header.slots.iter().skip(slot).all(Option::is_none)
                {
                    return Some(Step::Failed(Failure::Refused(reason)));
                }
                (self.slot, self.is_wrong) = (slot, false);
            }
        }
        None
    }
}
