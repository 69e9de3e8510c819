//! The person's screen: events as text in the order in which they are to be written.
//!
//! Logs are lines; what is for the terminal ([`Event::Terminal`]: guests, and the console's own
//! answers) is bytes that may stop within a line. [`Screen`] knows where the cursor is. With `color`
//! off there is no terminal: the bytes become whole lines without sequences, for files and tests.
//!
//! Invariant: a line of the log begins at the beginning of a line, as the console that sent the
//! stream counts on.

use anstream::adapter::StripBytes;

use crate::event::Event;

/// Longer lines are broken, so that a guest without line ends cannot fill the memory.
const MAX_LINE: usize = 8192;

/// A piece of text to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// Whether a line end follows it.
    pub ends_line: bool,
}

/// Where the cursor is.
#[derive(Default)]
pub struct Screen {
    color: bool,
    /// Off the terminal: the line that has begun. On it: the character that is not whole.
    begun: Vec<u8>,
    strip: StripBytes,
    /// On the terminal: something stands in the line.
    is_in_line: bool,
}

impl Screen {
    /// An empty screen.
    pub fn new(color: bool) -> Screen {
        Screen { color, ..Screen::default() }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) -> Vec<Shown> {
        match event {
            Event::Terminal(bytes) if self.color => self.draw(bytes),
            Event::Terminal(bytes) => self.lines(bytes),
            other => {
                let mut shown = self.end_line();
                shown.push(Shown { text: other.render(self.color), ends_line: true });
                shown
            }
        }
    }

    /// Ends what has begun.
    pub fn end_line(&mut self) -> Vec<Shown> {
        let begun = std::mem::take(&mut self.begun);
        if self.color {
            let is_in_line = std::mem::take(&mut self.is_in_line);
            // Colours of a guest end with its line.
            let end = Shown { text: "\u{1b}[0m".to_owned(), ends_line: true };
            return if is_in_line { vec![end] } else { Vec::new() };
        }
        if begun.is_empty() { Vec::new() } else { vec![line(&begun)] }
    }

    /// Bytes as they are, but whole characters.
    fn draw(&mut self, bytes: &[u8]) -> Vec<Shown> {
        self.begun.extend_from_slice(bytes);
        let is_cut = match std::str::from_utf8(&self.begun) {
            Err(error) if error.error_len().is_none() => self.begun.len() - error.valid_up_to(),
            _ => 0,
        };
        let rest = self.begun.split_off(self.begun.len() - is_cut);
        let whole = std::mem::replace(&mut self.begun, rest);
        match whole.last() {
            Some(last) => self.is_in_line = *last != b'\n',
            None => return Vec::new(),
        }
        let text = String::from_utf8_lossy(&whole).into_owned();
        vec![Shown { text, ends_line: false }]
    }

    /// The lines that the bytes complete.
    fn lines(&mut self, bytes: &[u8]) -> Vec<Shown> {
        let mut shown = Vec::new();
        for part in self.strip.strip_next(bytes) {
            for byte in part {
                match byte {
                    b'\n' => shown.push(line(&std::mem::take(&mut self.begun))),
                    _ => self.begun.push(*byte),
                }
                if self.begun.len() >= MAX_LINE {
                    shown.push(line(&std::mem::take(&mut self.begun)));
                }
            }
        }
        shown
    }
}

/// A line off the terminal, without anything that would steer one.
fn line(bytes: &[u8]) -> Shown {
    let text = String::from_utf8_lossy(bytes);
    let is_text = |c: &char| !c.is_control() || *c == '\t';
    Shown { text: text.chars().filter(is_text).collect(), ends_line: true }
}

#[cfg(test)]
mod tests {
    use super::{Screen, Shown};
    use crate::event::Event;

    fn all(screen: &mut Screen, events: &[Event]) -> String {
        let mut text = String::new();
        for Shown { text: piece, ends_line } in events.iter().flat_map(|event| screen.show(event)) {
            text += &piece;
            text += if ends_line { "\n" } else { "" };
        }
        text
    }

    fn terminal(bytes: &[u8]) -> Event {
        Event::Terminal(bytes.to_vec())
    }

    fn log(text: &str) -> Event {
        Event::Text(text.to_owned())
    }

    #[test]
    fn off_the_terminal_there_are_lines_without_sequences() {
        let events = [
            terminal(b"\x1b[38;5;33mweb  \x1b[0m | hel"),
            terminal(b"lo\r\n\x1b[38;5;16"),
            terminal(b"6mdb   \x1b[0m | lo\x18\x07gin: "),
            log("a log line"),
            terminal(b"web   | t\xc3"),
            terminal(b"\xa4b\r\n"),
        ];
        let mut screen = Screen::new(false);
        let expected = "web   | hello\ndb    | login: \na log line\nweb   | täb\n";
        assert_eq!(all(&mut screen, &events), expected);
        assert_eq!(screen.end_line(), []);
    }

    #[test]
    fn a_line_without_an_end_does_not_pile_up() {
        let mut screen = Screen::new(false);
        let shown = screen.show(&terminal(&[b'x'; 3 * super::MAX_LINE]));
        assert_eq!(shown.len(), 3);
        assert_eq!(screen.end_line(), []);
    }

    #[test]
    fn what_has_begun_is_shown_in_the_end() {
        let mut screen = Screen::new(false);
        assert_eq!(screen.show(&terminal(b"web | $ ")), []);
        assert_eq!(screen.end_line(), [Shown { text: "web | $ ".into(), ends_line: true }]);
    }

    #[test]
    fn on_the_terminal_bytes_pass_and_a_log_line_ends_the_line() {
        let mut screen = Screen::new(true);
        let events = [
            terminal(b"\x1b[1mweb | $ "),
            log("one"),
            log("two"),
            terminal(b"\xe2\x82"),
            terminal(b"\xac\r\n"),
            log("three"),
        ];
        let expected = "\u{1b}[1mweb | $ \u{1b}[0m\none\ntwo\n€\r\nthree\n";
        assert_eq!(all(&mut screen, &events), expected);
        // What is no text at all passes too, as far as a terminal takes it.
        assert_eq!(all(&mut screen, &[terminal(b"\xff$ ")]), "\u{fffd}$ ");
    }
}
