//! The shipped byte stream under loom: every interleaving, and every reordering that the orderings
//! allow. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-ring --test loom_stream --release`.
#![cfg(loom)]

use cloister_ring::{Side, Stream};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

/// The smallest region: eight bytes each way.
fn region() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..18).map(|_| AtomicU64::new(0)).collect())
}

fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn bytes_arrive_whole_and_their_places_are_not_used_again_too_early() {
    bounded(|| {
        let words = region();
        let theirs = words.clone();
        let reader = thread::spawn(move || {
            let mut server = Stream::new(&theirs, Side::Server, 0).unwrap();
            let mut next = 1;
            while next <= 10 {
                let mut found = [0; 8];
                let count = server.read(&mut found);
                for byte in &found[..count] {
                    assert_eq!(*byte, next);
                    next += 1;
                }
                thread::yield_now();
            }
        });
        let mut client = Stream::new(&words, Side::Client, 0).unwrap();
        let text: Vec<u8> = (1..=10).collect();
        let mut written = 0;
        while written < text.len() {
            written += client.write(&text[written..]);
            thread::yield_now();
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_that_is_restarted_at_any_moment_misses_nothing_and_reads_nothing_twice() {
    bounded(|| {
        let words = region();
        let theirs = words.clone();
        let writer = thread::spawn(move || {
            let mut client = Stream::new(&theirs, Side::Client, 0).unwrap();
            assert_eq!(client.write(&[1]), 1);
            // The restart of the writer, too, is at any moment of the reader's.
            let mut client = Stream::new(&theirs, Side::Client, 1).unwrap();
            assert_eq!(client.write(&[2]), 1);
        });
        let mut next = 1;
        for life in 0.. {
            let mut server = Stream::new(&words, Side::Server, life).unwrap();
            let mut found = [0; 8];
            let count = server.read(&mut found);
            for byte in &found[..count] {
                assert_eq!(*byte, next);
                next += 1;
            }
            if next == 3 {
                break;
            }
            thread::yield_now();
        }
        writer.join().unwrap();
    });
}
