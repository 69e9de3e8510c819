//! The keyboard: bytes of the line to keys. Ctrl-] begins a command, everything else is typed.

use cloister_ring::orders::{NAME_BYTES, Name, Operation};

/// Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Types a byte.
    Typed(u8),
    /// Selects the virtual machine with this number, counted from 1.
    Select(usize),
    /// Selects the next one.
    Next,
    /// Selects the one before.
    Previous,
    /// Wants to see all by lines again.
    All,
    /// Wants to see which there are.
    List,
    /// Wants to see the commands.
    Help,
    /// Wants something done to the selected one.
    Command(Operation),
    /// Begins to type the name of a task.
    Naming,
    /// Wants the task of this name killed and started again.
    Kill(Name),
    /// Wants the machine switched off.
    PowerOff,
}

/// The commands, for people.
pub const HELP: [&str; 8] = [
    "Ctrl-] then 1 to 9, n or p: select a virtual machine (number, next, previous)",
    "            a: show all by lines again",
    "            l: list them      h: this help",
    "            s: pause (stop)   c: continue     r: reset",
    "            x: stop for good  g: start again",
    "            t, a task's name and Enter: kill that task, which is started again",
    "            q: end the appliance in order and switch the machine off",
    "            Ctrl-]: type Ctrl-]",
];

/// The state of the keyboard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    phase: Phase,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Typing,
    Command,
    /// A name, as far as it was typed.
    Naming(Name, usize),
}

impl Keys {
    /// Takes a byte. `None`: a command goes on.
    pub fn push(&mut self, byte: u8) -> Option<Key> {
        match core::mem::take(&mut self.phase) {
            Phase::Typing if byte == ESCAPE => {
                self.phase = Phase::Command;
                None
            }
            Phase::Typing => Some(Key::Typed(byte)),
            Phase::Command => Some(self.command(byte)),
            Phase::Naming(name, len) => self.named(name, len, byte),
        }
    }

    /// A byte of a name. Any that no name has ends the command: nothing is killed by accident.
    fn named(&mut self, mut name: Name, len: usize, byte: u8) -> Option<Key> {
        match byte {
            b'\r' | b'\n' if len > 0 => return Some(Key::Kill(name)),
            b'a'..=b'z' | b'0'..=b'9' | b'-' => {}
            _ => return Some(Key::Help),
        }
        // The last byte stays zero.
        let Some(place) = name.get_mut(..NAME_BYTES - 1).and_then(|name| name.get_mut(len)) else {
            return Some(Key::Help);
        };
        *place = byte;
        self.phase = Phase::Naming(name, len + 1);
        None
    }

    fn command(&mut self, byte: u8) -> Key {
        match byte {
            ESCAPE => Key::Typed(ESCAPE),
            b'1'..=b'9' => Key::Select(usize::from(byte - b'0')),
            b'n' => Key::Next,
            b'p' => Key::Previous,
            b'a' => Key::All,
            b'l' => Key::List,
            b's' => Key::Command(Operation::Pause),
            b'c' => Key::Command(Operation::Resume),
            b'r' => Key::Command(Operation::Reset),
            b'x' => Key::Command(Operation::Stop),
            b'g' => Key::Command(Operation::Start),
            b't' => {
                self.phase = Phase::Naming([0; NAME_BYTES], 0);
                Key::Naming
            }
            b'q' => Key::PowerOff,
            _ => Key::Help,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ESCAPE, Key, Keys};
    use cloister_ring::orders::Operation;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|byte| keys.push(*byte)).collect()
    }

    #[test]
    fn what_is_typed_is_typed_and_commands_begin_with_the_escape_key() {
        assert_eq!(keys(b"l1"), [Key::Typed(b'l'), Key::Typed(b'1')]);
        assert_eq!(keys(b"\x1dla"), [Key::List, Key::Typed(b'a')]);
        assert_eq!(keys(b"\x1d\x1d"), [Key::Typed(ESCAPE)]);
        assert_eq!(
            keys(b"\x1d9\x1dn\x1dp\x1da"),
            [Key::Select(9), Key::Next, Key::Previous, Key::All]
        );
        let commands = [
            Operation::Pause,
            Operation::Resume,
            Operation::Reset,
            Operation::Stop,
            Operation::Start,
        ];
        assert_eq!(keys(b"\x1ds\x1dc\x1dr\x1dx\x1dg"), commands.map(Key::Command));
        assert_eq!(keys(b"\x1dq"), [Key::PowerOff]);
    }

    #[test]
    fn a_task_is_killed_by_its_whole_name() {
        let mut name = [0; 32];
        name[..6].copy_from_slice(b"nvme-0");
        assert_eq!(keys(b"\x1dtnvme-0\rx"), [Key::Naming, Key::Kill(name), Key::Typed(b'x')]);
        // An empty name, a byte that no name has, and one too long kill nothing.
        for wrong in
            [&b"\x1dt\r"[..], b"\x1dta\x1d", b"\x1dtA", &[b"\x1dt", &[b'a'; 32][..]].concat()]
        {
            assert_eq!(keys(wrong), [Key::Naming, Key::Help]);
        }
        assert_eq!(keys(&[b"\x1dt", &[b'a'; 31][..]].concat()), [Key::Naming]);
    }

    #[test]
    fn an_unknown_command_shows_the_help_and_is_not_typed() {
        for byte in [b'0', b'z', b'h', b'?', 0, 0xff, b'\r'] {
            assert_eq!(keys(&[ESCAPE, byte]), [Key::Help]);
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        let help = super::HELP.join("\n");
        for key in [
            "1 to 9", "n or p", " a: ", " l: ", " h: ", " s: ", " c: ", " r: ", " x: ", " g: ",
            " t, ", " q: ",
        ] {
            assert!(help.contains(key), "{key}");
        }
    }
}
