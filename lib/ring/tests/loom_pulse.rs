//! The shipped sign of life under loom: a task that wakes and beats is never taken for one that
//! hangs, and one that does not beat is found. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-ring --test loom_pulse --release`.
#![cfg(loom)]

use cloister_ring::pulse::{Asker, Heart};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

fn region() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..2).map(|_| AtomicU64::new(0)).collect())
}

/// The signal is what docs/notes/0002-signals.md promises: a bit, set with release and taken with
/// acquire. `done` is set the same way by a task that is about to sleep again.
#[test]
fn a_task_that_woke_and_beat_is_alive() {
    loom::model(|| {
        let words = region();
        let (bit, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (theirs, woken, turned) = (words.clone(), bit.clone(), done.clone());
        let task = thread::spawn(move || {
            let heart = Heart::new(&theirs).unwrap();
            // A turn for another reason, at any moment.
            heart.beat();
            if woken.swap(false, Ordering::Acquire) {
                heart.beat();
                turned.store(true, Ordering::Release);
            }
        });
        let asker = Asker::new(&words).unwrap();
        asker.ask();
        bit.store(true, Ordering::Release);
        if done.load(Ordering::Acquire) {
            assert!(asker.is_answered());
        }
        task.join().unwrap();
    });
}

#[test]
fn one_that_never_beats_is_found_and_a_new_life_answers_for_itself() {
    loom::model(|| {
        let words = region();
        let asker = Asker::new(&words).unwrap();
        Heart::new(&words).unwrap().beat();
        assert!(asker.is_answered());
        asker.ask();
        assert!(!asker.is_answered());
        let theirs = words.clone();
        thread::spawn(move || Heart::new(&theirs).unwrap().beat()).join().unwrap();
        assert!(asker.is_answered());
    });
}
