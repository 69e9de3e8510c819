//! The person's terminal while a machine runs: every key goes to the machine at once.
//!
//! Ctrl-] begins a command of the machine's console task and goes to the machine like every other
//! key. One command is for xtask: Ctrl-] k ends the emulator, whatever state the machine is in. The
//! terminal's settings come back when [`Raw`] is dropped.

use std::io::{IsTerminal, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

use crate::machine::Key;

/// Ctrl-].
const COMMAND_KEY: u8 = 0x1d;
/// After Ctrl-]: end the emulator.
const END_KEY: u8 = b'k';

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
            // What a guest may have left behind: colours, a hidden cursor. Nobody reads an answer.
            let mut out = std::io::stdout();
            if out.is_terminal() {
                let _ = out.write_all(b"\x1b[0m\x1b[?25h").and_then(|()| out.flush());
            }
        }
    }
}

/// Standard input as keys, read on a thread of its own.
pub fn keys() -> Receiver<Key> {
    let (sender, keys) = channel();
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 256];
        let mut commands = Commands::default();
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            for key in commands.split(&buffer[..count]) {
                if sender.send(key).is_err() {
                    return;
                }
            }
        }
    });
    keys
}

/// Watches for the one command that is not the machine's.
#[derive(Default)]
struct Commands {
    /// The last byte began a command.
    has_begun: bool,
}

impl Commands {
    /// Everything up to the end key, then the end.
    fn split(&mut self, bytes: &[u8]) -> Vec<Key> {
        let ends = |byte: &u8| {
            let is_command = std::mem::replace(&mut self.has_begun, false);
            self.has_begun = !is_command && *byte == COMMAND_KEY;
            is_command && *byte == END_KEY
        };
        let (passed, end) = match bytes.iter().position(ends) {
            None => (bytes, None),
            Some(at) => (&bytes[..at], Some(Key::End)),
        };
        let passed = (!passed.is_empty()).then(|| Key::Bytes(passed.to_vec()));
        passed.into_iter().chain(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Commands;
    use crate::machine::Key;

    fn bytes(text: &[u8]) -> Key {
        Key::Bytes(text.to_vec())
    }

    #[test]
    fn keys_and_commands_pass_and_one_command_ends() {
        let split = |text: &[u8]| Commands::default().split(text);
        assert_eq!(split(b"abk"), [bytes(b"abk")]);
        assert_eq!(split(b"\x1dlk"), [bytes(b"\x1dlk")]);
        assert_eq!(split(b"ab\x1dkrest"), [bytes(b"ab\x1d"), Key::End]);
        // Typed twice it is a Ctrl-] for the guest, and no command has begun.
        assert_eq!(split(b"\x1d\x1dk"), [bytes(b"\x1d\x1dk")]);
    }

    #[test]
    fn a_command_may_come_in_two_pieces() {
        let mut commands = Commands::default();
        assert_eq!(commands.split(b"a\x1d"), [bytes(b"a\x1d")]);
        assert_eq!(commands.split(b"kb"), [Key::End]);
    }
}
