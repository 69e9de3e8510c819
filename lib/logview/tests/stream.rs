//! Properties of the stream: chunks do not matter, frames come through, text is never lost.

mod common;

use cloister_logview::{Defect, Event, Piece, Splitter};
use common::{Sent, TEXT, corrupt_count, decode, text_of, viewer};
use proptest::prelude::*;

/// A part of a stream, and what it must become.
#[derive(Clone, Debug)]
enum Part {
    Line(String),
    Frame(Sent),
}

fn frame() -> impl Strategy<Value = Sent> {
    let payload = prop::collection::vec(any::<u8>(), 0..400);
    (any::<u16>(), any::<u8>(), 0u8..4, any::<u16>(), any::<u32>(), any::<u64>(), payload).prop_map(
        |(source, core, kind, seq, lost, tsc, payload)| Sent {
            source,
            core,
            kind,
            seq,
            lost,
            tsc,
            payload,
        },
    )
}

/// Text as people write it, with letters beyond ASCII.
fn line() -> impl Strategy<Value = String> {
    "[ -~äß€→]{4,60}"
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![line().prop_map(Part::Line), frame().prop_map(Part::Frame)]
}

fn wire(parts: &[Part]) -> Vec<u8> {
    let bytes = parts.iter().flat_map(|part| match part {
        Part::Line(line) => format!("{line}\n").into_bytes(),
        Part::Frame(frame) => frame.encode(),
    });
    bytes.collect()
}

fn split(bytes: &[u8]) -> Vec<Piece> {
    let (mut splitter, mut pieces) = (Splitter::default(), Vec::new());
    splitter.push(bytes, &mut pieces);
    splitter.finish(&mut pieces);
    pieces
}

fn same(piece: &Piece, part: &Part) -> bool {
    match (piece, part) {
        (Piece::Line(got), Part::Line(sent)) => got == sent,
        (Piece::Frame(got), Part::Frame(sent)) => {
            (got.source, got.core, got.seq, got.lost, got.tsc, &got.payload)
                == (sent.source, sent.core, sent.seq, sent.lost, sent.tsc, &sent.payload)
                && got.kind as u8 == sent.kind
        }
        _ => false,
    }
}

/// Every line of text, one after another.
fn lines(pieces: &[Piece]) -> Vec<&str> {
    let lines = pieces.iter().filter_map(|piece| match piece {
        Piece::Line(line) => Some(line.as_str()),
        _ => None,
    });
    lines.collect()
}

fn broken(pieces: &[Piece]) -> Vec<Defect> {
    let defects = pieces.iter().filter_map(|piece| match piece {
        Piece::Broken { defect, .. } => Some(*defect),
        _ => None,
    });
    defects.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_arrives(parts in prop::collection::vec(part(), 0..12)) {
        let pieces = split(&wire(&parts));
        prop_assert_eq!(pieces.len(), parts.len());
        for (piece, part) in pieces.iter().zip(&parts) {
            prop_assert!(same(piece, part), "{:?} is not {:?}", piece, part);
        }
    }

    #[test]
    fn chunks_do_not_matter(
        parts in prop::collection::vec(part(), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut bytes = wire(&parts);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, garbage);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut whole = viewer();
        let expected = decode(&mut whole, &bytes);
        let (mut in_parts, mut events, mut from) = (viewer(), Vec::new(), 0);
        for cut in cuts.into_iter().chain([bytes.len()]) {
            events.extend(in_parts.feed(&bytes[from..cut]));
            from = cut;
        }
        events.extend(in_parts.finish());
        prop_assert_eq!(&events, &expected);
        let (mut single, mut events) = (viewer(), Vec::new());
        for byte in &bytes {
            events.extend(single.feed(std::slice::from_ref(byte)));
        }
        events.extend(single.finish());
        prop_assert_eq!(events, expected);
        prop_assert_eq!(single.summary(), whole.summary());
    }

    #[test]
    fn text_that_cuts_a_frame_is_shown(
        hit in frame(),
        text in line(),
        after in frame(),
        at in any::<prop::sample::Index>(),
        rest_follows in any::<bool>(),
    ) {
        let encoded = hit.encode();
        // From behind the opening zero to before the closing one.
        let at = 1 + at.index(encoded.len() - 1);
        let mut bytes = encoded[..at].to_vec();
        bytes.extend(format!("{text}\n").bytes());
        if rest_follows {
            bytes.extend(&encoded[at..]);
        }
        bytes.extend(after.encode());
        let pieces = split(&bytes);
        prop_assert!(lines(&pieces).iter().any(|line| line.contains(&text)), "{:?}", pieces);
        prop_assert!(broken(&pieces).len() <= 1, "{:?}", pieces);
        // The first byte alone says nothing, so a frame cut there leaves no trace to report.
        prop_assert!(at <= 2 || broken(&pieces).len() == 1, "{:?}", pieces);
        let last = pieces.last().expect("a piece");
        prop_assert!(same(last, &Part::Frame(after)), "{:?}", last);
    }

    #[test]
    fn a_truncated_frame_is_one_defect(hit in frame(), at in any::<prop::sample::Index>()) {
        let encoded = hit.encode();
        let at = 3 + at.index(encoded.len() - 4);
        let pieces = split(&encoded[..at]);
        prop_assert!(broken(&pieces).len() == 1, "{:?}", pieces);
        prop_assert!(!pieces.iter().any(|piece| matches!(piece, Piece::Frame(_))));
    }

    #[test]
    fn a_flipped_bit_is_one_defect(
        hit in frame(),
        after in frame(),
        at in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let mut bytes = hit.encode();
        // The zeros and the two bytes that make it a frame at all stay as they are.
        let at = 3 + at.index(bytes.len() - 4);
        bytes[at] ^= 1 << bit;
        bytes.extend(after.encode());
        let pieces = split(&bytes);
        prop_assert!(broken(&pieces).len() == 1, "{:?}", pieces);
        prop_assert!(same(pieces.last().expect("a piece"), &Part::Frame(after)));
    }
}

#[test]
fn a_frame_within_a_line_leaves_the_line_whole() {
    let frame = Sent::new(0xffff, TEXT, 0, b"in between");
    let mut bytes = b"PAN".to_vec();
    bytes.extend(frame.encode());
    bytes.extend(b"IC\r\n");
    let pieces = split(&bytes);
    assert!(same(&pieces[0], &Part::Frame(frame)));
    assert_eq!(lines(&pieces), ["PANIC"]);
}

#[test]
fn last_words_without_a_line_end_are_shown() {
    let encoded = Sent::new(0, TEXT, 0, &[0x80; 40]).encode();
    let mut viewer = viewer();
    let mut events = viewer.feed(&encoded[..30]);
    events.extend(viewer.feed(b"kernel panic on core 1: page fault"));
    assert!(events.is_empty(), "nothing is certain yet: {events:?}");
    let events = viewer.finish();
    assert_eq!(text_of(&events), "kernel panic on core 1: page fault\n");
    assert_eq!(corrupt_count(&events), 1);
    assert!(viewer.finish().is_empty(), "nothing is told twice");
}

#[test]
fn one_cut_frame_is_told_once_even_if_a_zero_came_with_the_text() {
    let encoded = Sent::new(0, TEXT, 0, &[0x80; 60]).encode();
    let mut bytes = encoded[..40].to_vec();
    bytes.extend(b"\0kernel panic\n");
    bytes.extend(&encoded[40..]);
    let pieces = split(&bytes);
    assert_eq!(lines(&pieces), ["kernel panic"]);
    assert_eq!(broken(&pieces), [Defect::Cut]);
}

#[test]
fn empty_lines_and_short_lines_stay() {
    assert_eq!(lines(&split(b"\n\na\n\nb")), ["", "", "a", "", "b"]);
}

#[test]
fn text_appears_at_once() {
    let mut viewer = viewer();
    viewer.feed(&Sent::new(0xffff, TEXT, 0, b"x").encode());
    assert_eq!(viewer.feed(b"stub: ok\n"), [Event::Text("stub: ok".to_owned())]);
}

#[test]
fn a_stream_without_line_ends_does_not_pile_up() {
    let mut viewer = viewer();
    let events = viewer.feed(&vec!["€"; 10_000].concat().into_bytes());
    assert!(events.len() >= 3, "{} events", events.len());
    let mut text = text_of(&events);
    text.push_str(&text_of(&viewer.finish()));
    assert_eq!(text.matches('€').count(), 10_000);
}

#[test]
fn a_frame_without_an_end_is_given_up() {
    let mut bytes = vec![0, 0xff, 0xc1];
    bytes.resize(200_000, 0x80);
    bytes.extend(b"\nkernel panic\n");
    let mut viewer = viewer();
    let events = viewer.feed(&bytes);
    assert!(text_of(&events).contains("kernel panic\n"));
    assert_eq!(corrupt_count(&events), 1);
}
