//! The person's terminal while a machine runs: every key goes to the machine at once.
//!
//! Ctrl-] ends the machine. The terminal's settings come back when [`Raw`] is dropped.

use std::io::{IsTerminal, Read};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

use crate::machine::Key;

/// Ctrl-].
const END_KEY: u8 = 0x1d;

/// A terminal without line editing; ordinary again when dropped.
pub struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Switches standard input's terminal over; does nothing where there is none.
    pub fn enter() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Self { before: None };
        }
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // A newline still returns to the first column.
            raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
            // Should this fail, keys arrive by lines: a nuisance, no reason to stop.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Standard input as keys, read on a thread of its own.
pub fn keys() -> Receiver<Key> {
    let (sender, keys) = channel();
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            for key in split(&buffer[..count]) {
                if sender.send(key).is_err() {
                    return;
                }
            }
        }
    });
    keys
}

/// Bytes before the end key, then the end key itself.
fn split(bytes: &[u8]) -> Vec<Key> {
    match bytes.iter().position(|&byte| byte == END_KEY) {
        None => vec![Key::Bytes(bytes.to_vec())],
        Some(0) => vec![Key::End],
        Some(at) => vec![Key::Bytes(bytes[..at].to_vec()), Key::End],
    }
}

#[cfg(test)]
mod tests {
    use super::split;
    use crate::machine::Key;

    #[test]
    fn the_end_key_ends_and_the_rest_passes() {
        assert_eq!(split(b"ab"), [Key::Bytes(b"ab".to_vec())]);
        assert_eq!(split(b"a\x1db"), [Key::Bytes(b"a".to_vec()), Key::End]);
        assert_eq!(split(b"\x1d"), [Key::End]);
    }
}
