//! What a test types at the serial port: `keys` of an `expect.toml` or a `machine.toml`.
//!
//! [`Typist`] follows what the machine says and types each text once, when the line that it waits
//! for has come. Instead of typing it may give the emulator a command: a disk is pulled out.
//! Nothing is typed by the clock, so a slow host changes nothing.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Result;
use regex::Regex;
use serde::Deserialize;

use crate::machine::Key;

/// One piece of typing, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// A regular expression: the text is typed after a line that it matches.
    pub after: String,
    /// The text. Ctrl-] is "\u001d", Enter is "\r".
    #[serde(default)]
    pub send: String,
    /// A command of QEMU's control socket, like `device_del`.
    pub command: Option<String>,
    /// The command's arguments.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

impl Keys {
    /// What goes to the machine.
    fn key(&self) -> Key {
        match &self.command {
            Some(name) => Key::Command(name.clone(), self.arguments.clone().into()),
            None => Key::Bytes(self.send.clone().into_bytes()),
        }
    }
}

/// Types while a machine runs.
pub struct Typist {
    script: Vec<(Regex, Key)>,
    next: usize,
    keyboard: Sender<Key>,
    /// Lines that have come since something was typed.
    lines: usize,
}

impl Typist {
    /// Somebody who has typed nothing yet, and the keyboard.
    pub fn new(script: &[Keys]) -> Result<(Self, Receiver<Key>)> {
        let compile = |keys: &Keys| Ok((Regex::new(&keys.after)?, keys.key()));
        let script = script.iter().map(compile).collect::<Result<_>>()?;
        let (keyboard, keys) = channel();
        Ok((Self { script, next: 0, keyboard, lines: 0 }, keys))
    }

    /// Takes a whole line.
    pub fn line(&mut self, line: &str) {
        let Some((after, key)) = self.script.get(self.next) else { return };
        self.lines += 1;
        if after.is_match(line) {
            self.next += 1;
            self.lines = 0;
            // Nobody listens any more when the machine has ended, which is judged elsewhere.
            let _ = self.keyboard.send(key.clone());
        }
    }

    /// What was to be typed next when the run ended, if anything, in words.
    pub fn missing(&self) -> Option<String> {
        let (after, _) = self.script.get(self.next)?;
        let (nth, all, lines) = (self.next + 1, self.script.len(), self.lines);
        Some(format!("text {nth} of {all} was not typed: none of {lines} lines matched `{after}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, Typist};
    use crate::machine::Key;

    fn keys(after: &str, send: &str) -> Keys {
        let arguments = serde_json::Map::new();
        Keys { after: after.to_owned(), send: send.to_owned(), command: None, arguments }
    }

    #[test]
    fn each_text_is_typed_once_after_its_line() {
        let script = [keys("^ready", "one"), keys("^ready", "two")];
        let (mut typist, typed) = Typist::new(&script).unwrap();
        typist.line("not ready");
        assert!(typed.try_recv().is_err());
        typist.line("ready");
        assert_eq!(typed.try_recv(), Ok(Key::Bytes(b"one".to_vec())));
        assert!(typed.try_recv().is_err());
        typist.line("steady");
        let missing = "text 2 of 2 was not typed: none of 1 lines matched `^ready`";
        assert_eq!(typist.missing().as_deref(), Some(missing));
        typist.line("ready");
        typist.line("ready");
        assert_eq!(typed.try_iter().count(), 1);
        assert_eq!(typist.missing(), None);
    }

    #[test]
    fn a_command_goes_to_the_emulator() {
        let text = "after = 'x'\ncommand = 'device_del'\narguments = { id = 'nvme0' }";
        let script: Keys = toml::from_str(text).unwrap();
        let (mut typist, typed) = Typist::new(&[script]).unwrap();
        typist.line("x");
        let arguments = serde_json::json!({ "id": "nvme0" });
        assert_eq!(typed.try_recv(), Ok(Key::Command("device_del".into(), arguments)));
    }
}
