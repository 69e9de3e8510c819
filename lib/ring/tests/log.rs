//! The log ring: what goes in comes out or is counted, a writer may die anywhere in a push, and
//! hostile words on either side cause neither a panic nor an endless read.
#![cfg(not(loom))]

use cloister_abi::log::{FRAME_MAX, HEAD_WORDS, KIND_BOOT, KIND_TEXT, Writer};
use cloister_ring::log::{Frame, Reader};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

// Words of the head, as the module text names them.
const HEAD: usize = 0;
const TAIL: usize = 1;
const SEQ: usize = 2;

fn ring(data: usize) -> Vec<AtomicU64> {
    (0..HEAD_WORDS + data).map(|_| AtomicU64::new(0)).collect()
}

fn load(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Relaxed)).collect()
}

fn words(values: &[u64]) -> Vec<AtomicU64> {
    values.iter().map(|&value| AtomicU64::new(value)).collect()
}

/// The bytes of frame `number`; their length and content follow from it.
fn content(number: u64) -> Vec<u8> {
    (0..number * 5 % 23).map(|at| (number * 31 + at) as u8).collect()
}

fn push(writer: &mut Writer, number: u64) {
    writer.push(number as u8, (number >> 8) as u8, number * 1000, &content(number));
}

/// Reads everything; each frame has to be the one that its number says.
fn read_all(reader: &mut Reader) -> Vec<Frame> {
    let mut buf = [0xee; FRAME_MAX];
    let mut frames = Vec::new();
    while let Some(frame) = reader.next(&mut buf) {
        assert_eq!(buf[..frame.len], content(frame.seq), "{frame:?}");
        assert_eq!((frame.kind, frame.core), (frame.seq as u8, (frame.seq >> 8) as u8));
        assert_eq!((frame.tsc, frame.source), (frame.seq * 1000, 77));
        frames.push(frame);
    }
    frames
}

#[test]
fn a_frame_comes_out_as_it_went_in() {
    let words = ring(16);
    Writer::adopt(&words, 0xabcd).push(KIND_BOOT, 3, 1 << 63, b"eleven here");
    let mut buf = [0; 32];
    let mut reader = Reader::new(&words);
    let frame = reader.next(&mut buf).unwrap();
    let expected =
        Frame { kind: 2, core: 3, source: 0xabcd, tsc: 1 << 63, len: 11, seq: 0, lost: 0 };
    assert_eq!(frame, expected);
    assert_eq!(&buf[..12], b"eleven here\0");
    assert_eq!(reader.next(&mut buf), None);
}

#[test]
fn a_small_buffer_cuts_a_frame_and_skips_none() {
    let words = ring(16);
    let mut writer = Writer::adopt(&words, 1);
    writer.push(KIND_TEXT, 0, 0, b"0123456789");
    writer.push(KIND_TEXT, 0, 0, b"next");
    let (mut reader, mut buf) = (Reader::new(&words), [0; 9]);
    assert_eq!(reader.next(&mut buf).unwrap().len, 9);
    assert_eq!(&buf, b"012345678");
    assert_eq!(reader.next(&mut buf).unwrap().len, 4);
}

#[test]
fn long_frames_are_cut_and_counted() {
    for (data, most) in [(512, FRAME_MAX), (10, 64), (3, 8), (2, 0)] {
        let words = ring(data);
        let mut writer = Writer::adopt(&words, 1);
        let bytes = vec![7; FRAME_MAX + 1];
        writer.push(KIND_TEXT, 0, 0, &bytes[..most]);
        assert_eq!(Reader::new(&words).truncated(), 0);
        writer.push(KIND_TEXT, 0, 0, &bytes);
        let mut buf = [0; FRAME_MAX + 8];
        let mut reader = Reader::new(&words);
        let mut last = None;
        while let Some(frame) = reader.next(&mut buf) {
            last = Some(frame);
        }
        assert_eq!(last.map(|frame| (frame.len, frame.seq)), Some((most, 1)), "{data} words");
        assert_eq!(reader.truncated(), 1);
    }
}

#[test]
fn rings_without_room_swallow_everything() {
    for words in [ring(0), ring(1), vec![], words(&[0; HEAD_WORDS - 1])] {
        let mut writer = Writer::adopt(&words, 1);
        writer.push(KIND_TEXT, 0, 0, b"text");
        writer.push(KIND_TEXT, 0, 0, b"");
        assert_eq!(Reader::new(&words).next(&mut [0; 8]), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_frame_is_read_in_order_or_counted(
        data in 8usize..80,
        batches in prop::collection::vec((0u64..40, any::<bool>()), 1..40),
    ) {
        let words = ring(data);
        let mut writer = Writer::adopt(&words, 77);
        let mut reader = Reader::new(&words);
        let (mut pushed, mut next) = (0, 0);
        for (count, restart) in batches {
            if restart {
                writer = Writer::adopt(&words, 77);
            }
            (0..count).for_each(|n| push(&mut writer, pushed + n));
            pushed += count;
            for frame in read_all(&mut reader) {
                prop_assert_eq!(frame.seq, next + frame.lost);
                next = frame.seq + 1;
            }
            prop_assert_eq!(next, pushed, "the newest frame always fits");
            // A second reader that comes late sees a suffix.
            if let Some(first) = read_all(&mut Reader::new(&words)).first() {
                prop_assert_eq!(first.seq, first.lost);
            }
        }
    }

    #[test]
    fn a_reader_of_hostile_words_ends_and_does_not_panic(
        values in prop::collection::vec(
            prop_oneof![any::<u64>(), 0u64..80, Just(u64::MAX), (0u64..64).prop_map(|n| 1 << n)],
            0..HEAD_WORDS + 64,
        ),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..8),
        size in 0usize..100,
    ) {
        let words = words(&values);
        let mut reader = Reader::new(&words);
        let mut buf = vec![0; size];
        // Each frame is at least two words of at most a whole ring.
        let most = values.len();
        let reads = |reader: &mut Reader, buf: &mut [u8]| {
            (0..=most).take_while(|_| reader.next(buf).is_some()).count()
        };
        prop_assert!(reads(&mut reader, &mut buf) <= most / 2);
        for (at, value) in moves {
            if !words.is_empty() {
                words[at.index(words.len())].store(value, Relaxed);
            }
            prop_assert!(reads(&mut reader, &mut buf) <= most / 2);
        }
    }

    #[test]
    fn a_writer_on_hostile_words_gets_its_frame_through(
        values in prop::collection::vec(
            prop_oneof![any::<u64>(), 0u64..80, Just(u64::MAX), Just(0)],
            HEAD_WORDS + 8..HEAD_WORDS + 64,
        ),
    ) {
        gets_through(&values);
    }
}

/// A time that no frame of garbage names.
const TIME: u64 = 0x5eed_c10c_0000;

/// Whatever the words were, the frame pushed last is read.
fn gets_through(values: &[u64]) {
    let words = words(values);
    let mut writer = Writer::adopt(&words, 5);
    writer.push(KIND_TEXT, 1, TIME, b"one");
    writer.push(KIND_TEXT, 1, TIME + 1, b"two");
    let (mut reader, mut buf) = (Reader::new(&words), [0; FRAME_MAX]);
    let mut last = (0, vec![]);
    for _ in 0..values.len() {
        if let Some(frame) = reader.next(&mut buf) {
            last = (frame.tsc, buf[..frame.len].to_vec());
        }
    }
    // Frames of garbage may come before; if they led the reader astray, it resynchronises.
    if last.0 != TIME + 1 {
        writer.push(KIND_TEXT, 1, TIME + 2, b"three");
        let frame = reader.next(&mut buf).unwrap();
        assert_eq!((frame.tsc, &buf[..frame.len]), (TIME + 2, &b"three"[..]));
    } else {
        assert_eq!(last.1, b"two");
    }
}

/// The reader takes the last of this garbage, an empty frame of time 3, and nothing behind it.
#[test]
fn a_reader_that_garbage_leads_astray_comes_back() {
    let mut values = [0; 38];
    values[..2].copy_from_slice(&[17, 8]);
    (values[18], values[23], values[24]) = (9, 3, u64::MAX);
    values[33..].copy_from_slice(&[11_244_527, u64::MAX, 66, 40, 4_789_193_683_204_488_932]);
    gets_through(&values);
}

/// The stores of a push in their order: the tail, the data, the number, the head.
fn stores(before: &[u64], after: &[u64]) -> Vec<(usize, u64)> {
    let data = HEAD_WORDS..before.len();
    let order = [TAIL].into_iter().chain(data).chain([SEQ, HEAD]);
    order.filter(|&at| before[at] != after[at]).map(|at| (at, after[at])).collect()
}

#[test]
fn a_writer_may_die_anywhere_in_a_push() {
    for data in [16, 17, 23] {
        let full = ring(data);
        let mut writer = Writer::adopt(&full, 77);
        let mut states = 0;
        for number in 0..40 {
            let before = load(&full);
            push(&mut writer, number);
            let order = stores(&before, &load(&full));
            for died_after in 0..=order.len() {
                let words = words(&before);
                for &(at, value) in &order[..died_after] {
                    words[at].store(value, Relaxed);
                }
                survive(&words);
                states += 1;
            }
        }
        assert!(states > 200);
    }
}

/// A new writer takes over and pushes; everything that can be read is right and the new frame is
/// among it.
fn survive(words: &[AtomicU64]) {
    read_all(&mut Reader::new(words));
    let next = words[SEQ].load(Relaxed);
    push(&mut Writer::adopt(words, 77), next);
    let frames = read_all(&mut Reader::new(words));
    assert_eq!(frames.last().map(|frame| frame.seq), Some(next));
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.seq).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn whole_numbers_survive_the_wrap_of_their_low_bits() {
    let words = ring(32);
    let mut writer = Writer::adopt(&words, 77);
    let mut reader = Reader::new(&words);
    (0..5).for_each(|number| push(&mut writer, number));
    read_all(&mut reader);
    (5..200_000).for_each(|number| push(&mut writer, number));
    let frames = read_all(&mut reader);
    let lost = frames[0].lost;
    assert_eq!(frames[0].seq, 5 + lost);
    assert_eq!(frames.last().unwrap().seq, 199_999);
    assert!(lost > 131_072);
}

#[test]
fn a_reader_beside_a_fast_writer_sees_whole_frames_only() {
    let words = ring(24);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut writer = Writer::adopt(&words, 77);
            (0..200_000).for_each(|number| push(&mut writer, number));
        });
        let mut reader = Reader::new(&words);
        let mut seen = 0;
        while !writing.is_finished() {
            seen += read_all(&mut reader).len();
        }
        seen += read_all(&mut reader).len();
        assert!(seen > 0);
    });
}
