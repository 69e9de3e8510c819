//! Every interleaving of a log writer and a reader on a ring that holds two frames: what is read
//! is whole, in order, and what is missing is counted.
//!
//! The writer runs in the model's first thread and the readers beside it: of the accesses to a
//! word, loom remembers only the last one as a place to switch threads, and a writer that was
//! spawned would hide the reader's loads behind its own in `adopt`.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p cloister-ring --test loom_log`.
#![cfg(loom)]

use cloister_abi::log::{HEAD_WORDS, KIND_TEXT, Writer};
use cloister_ring::log::{Frame, Reader};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;

/// Data words: two frames of three words.
const DATA: usize = 6;
const FRAME: u64 = 3;
/// The head's word that says where the oldest frame begins.
const TAIL: usize = 1;

fn ring() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..HEAD_WORDS + DATA).map(|_| AtomicU64::new(0)).collect())
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// Pushes frame `number`, all parts of which follow from it.
fn push(writer: &mut Writer, number: u64) {
    let core = number as u8 + 1;
    writer.push(KIND_TEXT, core, 100 + number, &(200 + number).to_le_bytes());
}

/// Reads the next frame and checks that its parts belong together.
fn read(reader: &mut Reader) -> Option<Frame> {
    let mut buf = [0; 8];
    let frame = reader.next(&mut buf)?;
    assert_eq!(u64::from(frame.core), frame.seq + 1, "torn: {frame:?}");
    assert_eq!(frame.tsc, 100 + frame.seq, "torn: {frame:?}");
    assert_eq!(u64::from_le_bytes(buf), 200 + frame.seq, "torn: {frame:?}");
    assert_eq!((frame.kind, frame.source, frame.len), (KIND_TEXT, 9, 8));
    Some(frame)
}

/// Reads what there is, in a thread of its own, at most `most` frames.
fn spawn_reader(words: &Arc<Vec<AtomicU64>>, most: usize) -> thread::JoinHandle<()> {
    let words = words.clone();
    thread::spawn(move || {
        let (mut reader, mut next) = (Reader::new(&words), 0);
        for _ in 0..most {
            let Some(frame) = read(&mut reader) else {
                continue;
            };
            assert_eq!(frame.seq, next + frame.lost);
            next = frame.seq + 1;
        }
    })
}

/// Everything is over: the last frame can be read, and every earlier one too or it is counted.
fn expect_in_the_end(words: &[AtomicU64], frames: u64) {
    let (mut reader, mut next) = (Reader::new(words), 0);
    while let Some(frame) = read(&mut reader) {
        assert_eq!(frame.seq, next + frame.lost);
        next = frame.seq + 1;
    }
    assert_eq!(next, frames);
}

#[test]
fn frames_are_whole_in_order_and_counted() {
    explore(|| {
        let words = ring();
        let reading = spawn_reader(&words, 2);
        let mut writer = Writer::adopt(&words, 9);
        (0..3).for_each(|number| push(&mut writer, number));
        reading.join().unwrap();
        expect_in_the_end(&words, 3);
    });
}

#[test]
fn a_new_writer_that_finds_a_tail_moved_tears_no_frame() {
    explore(|| {
        let words = ring();
        let mut writer = Writer::adopt(&words, 9);
        push(&mut writer, 0);
        push(&mut writer, 1);
        let reading = spawn_reader(&words, 1);
        let dying = {
            let words = words.clone();
            // The writer dies when it has just given up the oldest frame.
            thread::spawn(move || words[TAIL].store(FRAME, Relaxed))
        };
        dying.join().unwrap();
        push(&mut Writer::adopt(&words, 9), 2);
        reading.join().unwrap();
        expect_in_the_end(&words, 3);
    });
}
