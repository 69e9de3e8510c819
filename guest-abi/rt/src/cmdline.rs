//! The command line: words of the guest file, for the program to read.
//!
//! It lies in RAM that is the program's own, so it is copied out before anything else is done with
//! that memory.

use cloister_guest_abi::image::{COMMAND_LINE, COMMAND_LINE_MAX};

use crate::memory;

/// A copy of the command line.
#[derive(Clone, Debug)]
pub struct CommandLine {
    bytes: [u8; COMMAND_LINE_MAX],
    len: usize,
}

/// Reads the command line, empty if there is none.
pub fn read() -> CommandLine {
    let mut bytes = [0; COMMAND_LINE_MAX];
    memory::read(COMMAND_LINE, &mut bytes);
    CommandLine::of(bytes)
}

impl CommandLine {
    fn of(bytes: [u8; COMMAND_LINE_MAX]) -> Self {
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Self { bytes, len }
    }

    /// The text; empty if it is none.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }

    /// What the word `key=…` says.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut words = self.text().split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The same as a number, decimal or with `0x`; nothing if it is none.
    pub fn number(&self, key: &str) -> Option<u64> {
        let text = self.get(key)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> CommandLine {
        let mut bytes = [0; COMMAND_LINE_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        CommandLine::of(bytes)
    }

    #[test]
    fn words_are_found_by_their_key() {
        let line = line("ring=packed depth=32 seed=0x10 depth=7 bad=x");
        assert_eq!(line.get("ring"), Some("packed"));
        assert_eq!(line.number("depth"), Some(32));
        assert_eq!(line.number("seed"), Some(16));
        assert_eq!(line.number("bad"), None);
        assert_eq!(line.get("dep"), None);
    }

    #[test]
    fn a_line_ends_at_its_zero() {
        assert_eq!(line("").text(), "");
        let mut bytes = [b'x'; COMMAND_LINE_MAX];
        assert_eq!(CommandLine::of(bytes).text().len(), COMMAND_LINE_MAX);
        bytes[3] = 0;
        assert_eq!(CommandLine::of(bytes).text(), "xxx");
    }
}
