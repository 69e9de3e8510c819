//! What somebody does at the vault's line while no passphrase is asked for: [`Desk`].
//!
//! Enter on the empty line shows which keys there are; the name of one, and then the word `erase`,
//! has its volume erased. Anything else changes nothing. What is typed before the first Enter is
//! not shown: it may be a passphrase that comes too early.

use crate::line::{Line, Typed};

/// The word that is typed to go through with it.
pub const SURE: &str = "erase";

/// What a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing that is shown.
    Nothing,
    /// The line got this byte.
    Echo(u8),
    /// The line lost its last bytes, as many.
    Rub(usize),
    /// Somebody wants to know what can be done.
    Menu,
    /// A line that nobody asked for.
    Early,
    /// There is no key of that name.
    Unknown,
    /// It takes one more word to erase the volume of this key.
    Sure(usize),
    /// Nothing was erased.
    Kept,
    /// The volume of this key is to be erased.
    Erase(usize),
}

#[derive(Clone, Copy, Default)]
enum Phase {
    #[default]
    Rest,
    Naming,
    Sure(usize),
}

/// The line, and how far somebody is.
#[derive(Default)]
pub struct Desk {
    line: Line,
    phase: Phase,
}

impl Desk {
    /// Takes one byte of the keyboard; `find` gives the number of the key with a name.
    pub fn key(&mut self, byte: u8, find: impl Fn(&[u8]) -> Option<usize>) -> Said {
        let before = self.line.bytes().len();
        match self.line.key(byte) {
            Typed::More => self.edited(byte, before),
            Typed::Whole => {
                let said = self.said(find);
                self.line.clear();
                said
            }
            Typed::Cancelled => {
                self.line.clear();
                self.left(byte)
            }
        }
    }

    /// Forgets what was typed.
    pub fn clear(&mut self) {
        *self = Desk::default();
    }

    fn edited(&self, byte: u8, before: usize) -> Said {
        match (self.phase, self.line.bytes().len()) {
            (Phase::Rest, _) => Said::Nothing,
            (_, now) if now > before && byte.is_ascii_graphic() => Said::Echo(byte),
            (_, now) if now < before => Said::Rub(before.saturating_sub(now)),
            _ => Said::Nothing,
        }
    }

    /// A whole line.
    fn said(&mut self, find: impl Fn(&[u8]) -> Option<usize>) -> Said {
        match core::mem::take(&mut self.phase) {
            Phase::Rest => Said::Early,
            Phase::Naming => match find(self.line.bytes()) {
                Some(number) => {
                    self.phase = Phase::Sure(number);
                    Said::Sure(number)
                }
                None => Said::Unknown,
            },
            Phase::Sure(number) if self.line.bytes() == SURE.as_bytes() => Said::Erase(number),
            Phase::Sure(_) => Said::Kept,
        }
    }

    /// Enter on the empty line, or Control-C.
    fn left(&mut self, byte: u8) -> Said {
        match core::mem::take(&mut self.phase) {
            Phase::Rest if matches!(byte, b'\r' | b'\n') => {
                self.phase = Phase::Naming;
                Said::Menu
            }
            Phase::Rest => Said::Nothing,
            Phase::Naming | Phase::Sure(_) => Said::Kept,
        }
    }
}
