//! What of a guest's output may stand in a line that others share: text, and nothing that steers
//! the terminal.
//!
//! Escape sequences (ECMA-48, "Control sequences" and "Control strings"; the terminal's own string
//! ends with BEL too) are left out, C0 and C1 control characters as well, except for the tabulator.
//! A line ends at CR, LF, or CR LF; a CR at the beginning of a line says nothing. What is no UTF-8
//! becomes a question mark.
//!
//! Invariant: every [`Step`] holds whole characters, none of which a terminal obeys, and no guest
//! can hide more than a line by beginning a sequence that does not end.

/// Most bytes of a [`Step`]: a question mark for what broke off, and one character.
pub const STEP_MAX: usize = 5;

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;

/// What one byte brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    text: [u8; STEP_MAX],
    len: usize,
    /// The line ends after the text.
    pub ends_line: bool,
}

impl Step {
    /// The text.
    pub fn text(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.text.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC [.
    Sequence,
    /// In a control string.
    String,
    /// After ESC in a control string.
    StringEscape,
}

/// One guest's filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    state: State,
    /// A character that is not whole yet.
    character: [u8; 4],
    have: usize,
    need: usize,
    /// The last line ended with CR, so an LF belongs to it.
    after_return: bool,
    /// Something stands in the line.
    is_in_line: bool,
}

impl Filter {
    /// Takes a byte.
    pub fn push(&mut self, byte: u8) -> Step {
        let mut step = Step::default();
        if self.need > 0 {
            if byte & 0xc0 == 0x80 {
                self.continued(byte, &mut step);
                return step;
            }
            self.broken_off(&mut step);
        }
        match byte {
            b'\n' | b'\r' => self.line_end(byte, &mut step),
            _ => {
                self.after_return = false;
                match self.state {
                    State::Text => self.text(byte, &mut step),
                    _ => self.state = after(self.state, byte),
                }
            }
        }
        step
    }

    /// Forgets what is unfinished: the guest begins anew.
    pub fn restart(&mut self) {
        *self = Filter::default();
    }

    fn text(&mut self, byte: u8, step: &mut Step) {
        match byte {
            ESCAPE => self.state = State::Escape,
            b'\t' | b' '..=b'~' => self.show(&[byte], step),
            0xc2..=0xdf => self.begin(byte, 2),
            0xe0..=0xef => self.begin(byte, 3),
            0xf0..=0xf4 => self.begin(byte, 4),
            0x80.. => self.show(b"?", step),
            // Other control characters, and DEL.
            _ => {}
        }
    }

    fn show(&mut self, text: &[u8], step: &mut Step) {
        step.add(text);
        self.is_in_line = true;
    }

    fn begin(&mut self, byte: u8, need: usize) {
        (self.character, self.have, self.need) = ([byte, 0, 0, 0], 1, need);
    }

    fn continued(&mut self, byte: u8, step: &mut Step) {
        if let Some(place) = self.character.get_mut(self.have) {
            *place = byte;
        }
        self.have += 1;
        if self.have < self.need {
            return;
        }
        let bytes = self.character;
        let whole = bytes.get(..self.need).unwrap_or_default();
        self.need = 0;
        match core::str::from_utf8(whole).ok().and_then(|text| text.chars().next()) {
            // C1 control characters are control characters in UTF-8 too.
            Some(character) if !character.is_control() => self.show(whole, step),
            _ => self.show(b"?", step),
        }
    }

    fn broken_off(&mut self, step: &mut Step) {
        self.need = 0;
        self.show(b"?", step);
    }

    fn line_end(&mut self, byte: u8, step: &mut Step) {
        self.state = State::Text;
        if byte == b'\n' && !core::mem::take(&mut self.after_return) {
            step.ends_line = true;
        } else if byte == b'\r' && self.is_in_line {
            step.ends_line = true;
            self.after_return = true;
        }
        self.is_in_line = self.is_in_line && !step.ends_line;
    }
}

/// The state after a byte of a sequence.
fn after(state: State, byte: u8) -> State {
    match (state, byte) {
        // CAN and SUB end every sequence.
        (_, 0x18 | 0x1a) => State::Text,
        (State::String, BELL) => State::Text,
        (State::String, ESCAPE) => State::StringEscape,
        (State::String, _) => State::String,
        (State::StringEscape, b'\\') => State::Text,
        (_, ESCAPE) => State::Escape,
        (State::Escape | State::StringEscape, b'[') => State::Sequence,
        (State::Escape | State::StringEscape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
        // Intermediate bytes, and control characters, which terminals obey within a sequence.
        (State::Escape, 0x00..=0x2f) | (State::Sequence, 0x00..=0x3f) => state,
        _ => State::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, STEP_MAX};
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> (Vec<String>, String) {
        let (mut filter, mut all, mut line) = (Filter::default(), Vec::new(), Vec::new());
        for byte in bytes {
            let step = filter.push(*byte);
            assert!(step.text().len() <= STEP_MAX);
            line.extend_from_slice(step.text());
            if step.ends_line {
                all.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
            }
        }
        (all, String::from_utf8(line).unwrap())
    }

    #[test]
    fn text_passes_and_lines_end_in_every_usual_way() {
        for text in ["one\ntwo\n\nfour\n", "one\r\ntwo\r\n\r\nfour\r\n", "one\r\r\ntwo\n\n\rfour\r"]
        {
            let (lines, rest) = lines(text.as_bytes());
            assert_eq!(
                (lines, rest.as_str()),
                (vec!["one".into(), "two".into(), String::new(), "four".into()], ""),
                "{text:?}"
            );
        }
        assert_eq!(lines("10 %\r20 %\r".as_bytes()).0, ["10 %", "20 %"]);
        assert_eq!(lines("täb\tund ‰ 𝄞".as_bytes()).1, "täb\tund ‰ 𝄞");
    }

    #[test]
    fn whatever_steers_a_terminal_is_left_out() {
        let cases: [(&[u8], &str); 12] = [
            (b"a\x1b[31mb\x1b[0m", "ab"),
            (b"a\x1b]0;title\x07b", "ab"),
            (b"a\x1b]52;c;Zm9v\x1b\\b", "ab"),
            (b"a\x1bPq#0\x1b\\b", "ab"),
            (b"a\x1bcb\x1b(Bc", "abc"),
            (b"a\x08\x07\x00\x0e\x7fb", "ab"),
            (b"\x1b[12\x18ab", "ab"),
            (b"a\x1b\x1b[1mb", "ab"),
            // CSI and OSC as C1 control characters, raw and in UTF-8.
            (b"a\x9b31mb", "a?31mb"),
            (b"a\xc2\x9b31mb", "a?31mb"),
            (b"a\x1b[3\xc3\xa4b", "a?b"),
            (b"a\xff\xc1\xc3", "a??"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(lines(bytes).1, expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_sequence_without_an_end_hides_no_further_line() {
        for begin in ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b]x\x1b"] {
            let (lines, rest) = lines(format!("a{begin}\nb").as_bytes());
            assert_eq!((lines, rest.as_str()), (vec!["a".to_owned()], "b"), "{begin:?}");
        }
    }

    #[test]
    fn a_character_that_breaks_off_is_a_question_mark_and_eats_nothing() {
        assert_eq!(lines(b"\xe2\x82x\xf0\x9f\n\xc3").0, ["?x?"]);
        assert_eq!(lines(b"\xe0\x80\x80\xed\xa0\x80").1, "??");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_a_control_character(bytes: Vec<u8>) {
            let (lines, rest) = lines(&bytes);
            for text in lines.iter().chain([&rest]) {
                prop_assert!(text.chars().all(|c| !c.is_control() || c == '\t'), "{text:?}");
            }
        }

        #[test]
        fn printable_text_comes_out_as_it_went_in(text in "[ -~äß‰𝄞\\t\n]{0,200}") {
            let (mut lines, rest) = lines(text.as_bytes());
            lines.push(rest);
            prop_assert_eq!(lines.join("\n"), text);
        }
    }
}
