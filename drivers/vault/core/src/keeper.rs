//! The keys of one export and whom they were given to.

use cloister_keyslot::erase::{Order, Outcome};
use cloister_keyslot::passphrase::Cost;
use cloister_keyslot::release::{Reason, Reply, Request, Words};
use cloister_keyslot::{Kind, WrappingKey};

/// How often a life of a driver may say that a passphrase was mistyped.
pub const TRIES: u32 = 8;

/// What a message leads to.
#[derive(Debug)]
pub enum Answer {
    /// This goes to the driver.
    Reply(Reply),
    /// A passphrase is to be typed first; [`Keeper::typed`] goes on from there.
    Type(Wanted),
    /// The driver has tried to erase the volume; whether it is.
    Erased(bool),
    /// Nothing is to be done.
    Nothing,
}

/// A key that has to be made of a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    nonce: u64,
    life: u32,
    /// What making it costs.
    pub cost: Cost,
    /// The salt of the slot.
    pub salt: [u8; 32],
}

/// One export's keys.
#[derive(Default)]
pub struct Keeper {
    sealed: Option<WrappingKey>,
    can_type: bool,
    /// The key of the last passphrase, so that a restarted driver needs nobody at the keyboard.
    typed: Option<(Cost, [u8; 32], WrappingKey)>,
    /// The last life that got a key; lives count from 1.
    served: u32,
    /// How often that life said that it was wrong.
    wrong: u32,
    /// The volume is to be erased, and no driver has said yet that it is.
    erasing: Option<Order>,
}

impl Keeper {
    /// With the manifest's key, if it seals one, and with a console to type at or without.
    pub fn new(sealed: Option<WrappingKey>, can_type: bool) -> Keeper {
        Keeper { sealed, can_type, ..Keeper::default() }
    }

    /// Judges a message from this life of the driver.
    pub fn ask(&mut self, words: &Words, life: u32) -> Answer {
        if let Some(outcome) = Outcome::from_words(words) {
            return self.erased(outcome);
        }
        if self.erasing.is_some() {
            // The order, which each life is given, is all the answer that it gets.
            return Answer::Nothing;
        }
        let [_, nonce, ..] = *words;
        let refused = |reason| Answer::Reply(Reply::Refused { nonce, reason });
        match Request::from_words(words) {
            None => refused(Reason::Unknown),
            Some(Request::Ask { .. }) if life <= self.served => refused(Reason::Already),
            Some(Request::Ask { nonce, kind: Kind::Sealed }) => match self.sealed.clone() {
                Some(key) => {
                    self.serve(life);
                    Answer::Reply(Reply::Key { nonce, key })
                }
                None => refused(Reason::NoSuchKey),
            },
            Some(Request::Ask { nonce, kind: Kind::Passphrase { cost, salt } }) => {
                let wanted = Wanted { nonce, life, cost, salt };
                match &self.typed {
                    Some((c, s, key)) if (*c, *s) == (cost, salt) => {
                        let key = key.clone();
                        self.serve(life);
                        Answer::Reply(Reply::Key { nonce, key })
                    }
                    _ if self.can_type => Answer::Type(wanted),
                    _ => refused(Reason::NoSuchKey),
                }
            }
            Some(Request::Wrong { nonce, kind: Kind::Passphrase { cost, salt } })
                if life == self.served && self.wrong < TRIES && self.can_type =>
            {
                self.wrong = self.wrong.saturating_add(1);
                self.typed = None;
                Answer::Type(Wanted { nonce, life, cost, salt })
            }
            Some(Request::Wrong { .. }) => refused(Reason::Already),
        }
    }

    /// Goes on when a passphrase was typed and made a key; `None` if nobody typed one.
    pub fn typed(&mut self, wanted: Wanted, key: Option<WrappingKey>) -> Reply {
        let Wanted { nonce, life, cost, salt } = wanted;
        let Some(key) = key else {
            return Reply::Refused { nonce, reason: Reason::Cancelled };
        };
        self.typed = Some((cost, salt, key.clone()));
        self.serve(life);
        Reply::Key { nonce, key }
    }

    /// Wants the volume erased. From now on no key is released until a driver says that it is done.
    pub fn erase(&mut self, number: u64) {
        self.erasing = Some(Order { number });
    }

    /// What each life of the driver is to be told.
    pub fn order(&self) -> Option<Order> {
        self.erasing
    }

    /// A driver says what became of an order.
    fn erased(&mut self, outcome: Outcome) -> Answer {
        if self.erasing.is_none_or(|order| order.number != outcome.number) {
            return Answer::Nothing;
        }
        if outcome.is_erased {
            (self.erasing, self.typed) = (None, None);
        }
        Answer::Erased(outcome.is_erased)
    }

    fn serve(&mut self, life: u32) {
        if life != self.served {
            (self.served, self.wrong) = (life, 0);
        }
    }
}
