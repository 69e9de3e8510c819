//! The decoder of the serial stream, below messages: lines, frames, damage.
//!
//! Rules: what comes out does not depend on how the bytes were cut into pieces; a line has no
//! control characters; all the text of a stream without zeros and damage is shown; what comes out
//! is bounded by what went in; a decoded frame is one whose bytes decode again.

use cloister_logview::{Frame, MAX_ENCODED, Piece, Splitter};

use crate::{Input, mark};

/// Feeds the bytes whole, and again in pieces as their first bytes say.
pub fn run(bytes: &[u8]) {
    let (sizes, stream) = bytes.split_at(bytes.len().min(4));
    let whole = split(&[stream]);
    let mut input = Input::new(stream);
    let mut parts = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !input.is_empty() {
        parts.push(input.take(1 + usize::from(sizes.next().copied().unwrap_or(0) & 31)));
    }
    assert_eq!(split(&parts), whole, "the pieces depend on how the bytes came");
    let mut shown = 0;
    for piece in &whole {
        shown += match piece {
            Piece::Line(line) => {
                mark("line");
                let is_text = |c: char| !c.is_control() || "\t\r\u{1b}".contains(c);
                assert!(line.chars().all(is_text), "{line:?}");
                line.len()
            }
            Piece::Frame(_) => {
                mark("frame");
                0
            }
            Piece::Broken { bytes, .. } => {
                mark("broken");
                assert!(bytes.len() <= MAX_ENCODED + 1, "{} bytes of damage", bytes.len());
                bytes.len()
            }
        };
    }
    // A broken frame is shown as such and searched for text.
    assert!(shown <= 2 * stream.len(), "{} bytes became {shown}", stream.len());
    plain_text_is_whole(stream, &whole);
    for segment in stream.split(|byte| *byte == 0) {
        let (once, again) = (Frame::decode(segment), Frame::decode(segment));
        assert_eq!(once.is_ok(), again.is_ok());
    }
}

/// All pieces of a stream that comes in these parts.
fn split(parts: &[&[u8]]) -> Vec<Piece> {
    let (mut splitter, mut pieces) = (Splitter::default(), Vec::new());
    parts.iter().for_each(|part| splitter.push(part, &mut pieces));
    splitter.finish(&mut pieces);
    pieces
}

/// Printable text of one segment comes out line by line.
fn plain_text_is_whole(stream: &[u8], pieces: &[Piece]) {
    let is_plain = stream.iter().all(|byte| matches!(byte, b'\n' | b' '..0x7f));
    let Ok(text) = str::from_utf8(stream) else { return };
    if is_plain {
        let lines: Vec<Piece> = text.lines().map(|line| Piece::Line(line.to_owned())).collect();
        assert_eq!(pieces, lines, "text");
    }
}
