//! A line that is typed and not shown.

use cloister_keyslot::passphrase::LENGTH_MAX;
use zeroize::Zeroize;

const BACKSPACE: u8 = 8;
const DELETE: u8 = 0x7f;
const INTERRUPT: u8 = 3;
const CLEAR: u8 = 0x15;

/// What a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The line goes on.
    More,
    /// Enter: the line is whole.
    Whole,
    /// Control-C, or Enter on an empty line.
    Cancelled,
}

/// What was typed so far. Wiped when it is dropped or begun anew.
pub struct Line {
    bytes: [u8; LENGTH_MAX],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; LENGTH_MAX], len: 0 }
    }
}

impl Line {
    /// Takes one byte of the keyboard. What does not fit is dropped, and then the passphrase is
    /// wrong.
    pub fn key(&mut self, byte: u8) -> Typed {
        match byte {
            b'\r' | b'\n' if self.len == 0 => return Typed::Cancelled,
            b'\r' | b'\n' => return Typed::Whole,
            INTERRUPT => return Typed::Cancelled,
            CLEAR => self.clear(),
            BACKSPACE | DELETE => {
                self.len = self.len.saturating_sub(1);
                if let Some(place) = self.bytes.get_mut(self.len) {
                    *place = 0;
                }
            }
            _ => {
                if let Some(place) = self.bytes.get_mut(self.len) {
                    *place = byte;
                    self.len = self.len.saturating_add(1);
                }
            }
        }
        Typed::More
    }

    /// The bytes before Enter.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
