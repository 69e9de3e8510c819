//! The shipped descriptor under loom: no interrupt is lost between posters and the owner. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-monitor --test loom_posted --release`.
#![cfg(loom)]

use cloister_monitor::posted::{INIT, NMI, Posted, STARTUP, Taken};
use loom::sync::{Arc, Notify};
use loom::thread;

/// The bit of the owner's signal word.
fn signal() -> Arc<Notify> {
    Arc::new(Notify::new())
}

/// Looks at the descriptor after each signal, until `is_done`.
fn own(posted: &Posted, signal: &Notify, mut is_done: impl FnMut(Taken) -> bool) {
    loop {
        signal.wait();
        if posted.drain().is_some_and(&mut is_done) {
            return;
        }
    }
}

/// Interleavings with at most so many preemptions; without a bound there are millions.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn an_owner_that_looks_after_each_signal_takes_everything() {
    bounded(|| {
        let (posted, signal) = (Arc::new(Posted::default()), signal());
        let posters: Vec<_> = [0x31u8, 0x32]
            .into_iter()
            .map(|vector| {
                let (posted, signal) = (posted.clone(), signal.clone());
                thread::spawn(move || {
                    if posted.vector(vector, false) {
                        signal.notify();
                    }
                })
            })
            .collect();
        let mut all = 0;
        own(&posted, &signal, |taken| {
            // Nothing comes twice.
            assert_eq!(all & taken.vectors[0], 0);
            all |= taken.vectors[0];
            all == 1 << 0x31 | 1 << 0x32
        });
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        assert_eq!(posted.drain().filter(|taken| *taken != Taken::default()), None);
    });
}

#[test]
fn a_level_triggered_vector_is_taken_as_one() {
    bounded(|| {
        let (posted, signal) = (Arc::new(Posted::default()), signal());
        let poster = {
            let (posted, signal) = (posted.clone(), signal.clone());
            thread::spawn(move || {
                for (vector, level) in [(0x21, false), (0x22, true)] {
                    if posted.vector(vector, level) {
                        signal.notify();
                    }
                }
            })
        };
        own(&posted, &signal, |taken| {
            let has = taken.vectors[0] & 1 << 0x22 != 0;
            assert_eq!(taken.levels[0], if has { 1 << 0x22 } else { 0 });
            has
        });
        poster.join().unwrap();
    });
}

#[test]
fn init_and_start_up_are_not_torn_by_an_nmi() {
    bounded(|| {
        let (posted, signal) = (Arc::new(Posted::default()), signal());
        let post = |events: &'static [u64]| {
            let (posted, signal) = (posted.clone(), signal.clone());
            thread::spawn(move || {
                for event in events {
                    if posted.event(*event) {
                        signal.notify();
                    }
                }
            })
        };
        let posters = [post(&[INIT, STARTUP | 0x9900]), post(&[NMI])];
        let (mut all, mut seen) = (0, Vec::new());
        own(&posted, &signal, |taken| {
            seen.push(taken.events);
            all |= taken.events;
            all & (INIT | STARTUP | NMI) == INIT | STARTUP | NMI
        });
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        // The start-up message never comes before the INIT, and has its page.
        let init = seen.iter().position(|events| events & INIT != 0).unwrap();
        let start = seen.iter().position(|events| events & STARTUP != 0).unwrap();
        assert!(init <= start && seen[start] >> 8 == 0x99, "{seen:x?}");
    });
}
