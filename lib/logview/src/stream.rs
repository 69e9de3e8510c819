//! Splits the serial stream into lines of text, frames and damage.
//!
//! Zero bytes cut the stream into segments. A segment whose second byte is [`MARK`] is a frame or
//! what is left of one; anything else is text, and two bytes are enough to tell. So the splitter
//! needs no count of opening and closing zeros and finds its way again after any damage. A
//! segment that began as a frame but does not decode is searched for text, because a dying kernel
//! writes its last words wherever the console task was interrupted.
//!
//! Invariants: what comes out depends on the sequence of bytes alone. Text outside damage comes
//! out whole; inside damage every run of at least [`MIN_RUN`] characters does.

use crate::frame::{Defect, Frame, MARK, MAX_ENCODED};

/// Shorter runs of characters in damaged bytes count as damage: random bytes contain many.
const MIN_RUN: usize = 4;
/// Longer lines are broken, so that a stream without line ends cannot fill the memory.
const MAX_LINE: usize = 8192;
/// Bytes of noise that are kept for the report.
const MAX_NOISE: usize = 256;

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A line of text without its line end.
    Line(String),
    /// A frame.
    Frame(Frame),
    /// Bytes that are neither. Text found in them follows as lines.
    Broken {
        /// What is wrong.
        defect: Defect,
        /// The bytes as received; of noise the first few hundred.
        bytes: Vec<u8>,
    },
}

/// What the current segment is, as far as its bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Fewer than two bytes.
    Undecided,
    /// It begins like a frame.
    Frame,
    /// Text.
    Text,
}

/// Splits a stream of bytes into [`Piece`]s.
#[derive(Debug)]
pub struct Splitter {
    state: State,
    /// The current segment while it is undecided or a frame.
    segment: Vec<u8>,
    /// The unfinished line; it outlives segments, since a frame may stand within a line.
    line: Vec<u8>,
    /// Bytes of the current segment that are no text.
    noise: Vec<u8>,
    /// A broken frame was reported and its other half may follow, which is not reported again.
    half_reported: bool,
}

impl Default for Splitter {
    fn default() -> Splitter {
        Splitter {
            state: State::Undecided,
            segment: Vec::new(),
            line: Vec::new(),
            noise: Vec::new(),
            half_reported: false,
        }
    }
}

impl Splitter {
    /// Takes bytes and appends the pieces that they complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Piece>) {
        for &byte in bytes {
            match (byte, self.state) {
                (0, _) => self.end_segment(out),
                (_, State::Text) => self.text(byte, false, out),
                (_, State::Undecided) => {
                    self.segment.push(byte);
                    self.decide(out);
                }
                (_, State::Frame) => {
                    self.segment.push(byte);
                    if self.segment.len() > MAX_ENCODED {
                        self.break_frame(Defect::TooLong, out);
                        self.state = State::Text;
                    }
                }
            }
        }
    }

    /// Gives out what is unfinished: the end of the stream, or a line that fell silent.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.end_segment(out);
        if !self.line.is_empty() {
            self.end_line(false, out);
        }
        self.report_noise(out);
    }

    /// Tells a frame from text by the first two bytes of a segment.
    fn decide(&mut self, out: &mut Vec<Piece>) {
        match self.segment.as_slice() {
            [code, MARK] if *code >= 2 => self.state = State::Frame,
            [_, _] => {
                self.state = State::Text;
                for byte in std::mem::take(&mut self.segment) {
                    self.text(byte, false, out);
                }
            }
            _ => {}
        }
    }

    /// A zero byte, or the end of the stream.
    fn end_segment(&mut self, out: &mut Vec<Piece>) {
        if self.state == State::Frame {
            match Frame::decode(&self.segment) {
                Ok(frame) => {
                    self.segment.clear();
                    self.half_reported = false;
                    out.push(Piece::Frame(frame));
                }
                Err(defect) => self.break_frame(defect, out),
            }
        } else {
            for byte in std::mem::take(&mut self.segment) {
                self.text(byte, false, out);
            }
            if !is_text_so_far(&self.line) {
                self.end_line(false, out);
            }
            self.report_noise(out);
        }
        self.state = State::Undecided;
    }

    /// The current segment began like a frame but is none: reports it and shows the text in it.
    fn break_frame(&mut self, defect: Defect, out: &mut Vec<Piece>) {
        // A line that a frame interrupted is complete as far as anybody can tell. It must not
        // become a part of what is searched, where short runs are dropped.
        if !self.line.is_empty() {
            self.end_line(false, out);
        }
        let bytes = std::mem::take(&mut self.segment);
        out.push(Piece::Broken { defect, bytes: bytes.clone() });
        for byte in bytes {
            self.text(byte, true, out);
        }
        if !self.line.is_empty() {
            self.end_line(true, out);
        }
        self.noise.clear();
        self.half_reported = true;
    }

    /// A byte of text, or of damage that may hold text.
    fn text(&mut self, byte: u8, damaged: bool, out: &mut Vec<Piece>) {
        if byte == b'\n' {
            self.end_line(damaged, out);
            return;
        }
        let inside_character = byte & 0xc0 == 0x80;
        if self.line.len() >= MAX_LINE && (!inside_character || self.line.len() >= MAX_LINE + 4) {
            self.end_line(damaged, out);
        }
        self.line.push(byte);
    }

    /// Ends the current line and sorts its bytes into text and noise.
    fn end_line(&mut self, damaged: bool, out: &mut Vec<Piece>) {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let runs = split_runs(&line);
        if runs.is_empty() && !damaged {
            out.push(Piece::Line(String::new()));
        }
        let whole = runs.len() == 1 && !damaged;
        for (at, run) in runs.into_iter().enumerate() {
            match run {
                // The first run continues text that came before the damage.
                Run::Text(text)
                    if whole || (at == 0 && !damaged) || text.chars().count() >= MIN_RUN =>
                {
                    out.push(Piece::Line(text));
                }
                Run::Text(text) => self.add_noise(text.as_bytes()),
                Run::Noise(bytes) => self.add_noise(&bytes),
            }
        }
    }

    /// Keeps the beginning of the noise for the report.
    fn add_noise(&mut self, bytes: &[u8]) {
        let room = MAX_NOISE.saturating_sub(self.noise.len());
        self.noise.extend(bytes.iter().take(room));
    }

    /// Reports the noise of a segment, unless it is the other half of a frame already reported.
    fn report_noise(&mut self, out: &mut Vec<Piece>) {
        if self.noise.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.noise);
        if std::mem::take(&mut self.half_reported) {
            return;
        }
        out.push(Piece::Broken { defect: Defect::Noise, bytes });
    }
}

/// A stretch of a line.
enum Run {
    Text(String),
    Noise(Vec<u8>),
}

/// Whether a person would write this character. The escape character is text: firmware sends
/// terminal sequences.
fn is_text(character: char) -> bool {
    !character.is_control() || matches!(character, '\t' | '\r' | '\u{1b}')
}

/// Cuts a line into runs of text and of other bytes.
fn split_runs(line: &[u8]) -> Vec<Run> {
    let mut runs = Vec::new();
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            match (is_text(character), runs.last_mut()) {
                (true, Some(Run::Text(text))) => text.push(character),
                (true, _) => runs.push(Run::Text(character.to_string())),
                (false, _) => push_noise(&mut runs, character.to_string().as_bytes()),
            }
        }
        push_noise(&mut runs, chunk.invalid());
    }
    runs
}

/// Appends bytes to the last run of noise.
fn push_noise(runs: &mut Vec<Run>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    match runs.last_mut() {
        Some(Run::Noise(noise)) => noise.extend_from_slice(bytes),
        _ => runs.push(Run::Noise(bytes.to_vec())),
    }
}

/// Whether an unfinished line holds nothing but text; a character may be cut at the end.
fn is_text_so_far(line: &[u8]) -> bool {
    let valid = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            let (valid, _) = line.split_at(error.valid_up_to());
            std::str::from_utf8(valid).unwrap_or_default()
        }
        Err(_) => return false,
    };
    valid.chars().all(is_text)
}
