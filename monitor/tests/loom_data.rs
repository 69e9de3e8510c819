//! What an interrupt or a start tells of is there when it is taken: the shipped descriptor under
//! loom, with data that only the descriptor can order. An owner may take what a poster has set and
//! not announced yet, because another poster's signal came first. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-monitor --test loom_data --release`.
#![cfg(loom)]

use cloister_monitor::posted::{INIT, NMI, Posted, STARTUP, Taken};
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::{Arc, Notify};
use loom::thread;

/// A descriptor, its owner's signal, and what each of two posters writes before it posts.
struct System {
    posted: Posted,
    signal: Notify,
    data: [AtomicU64; 2],
}

/// Two posters write and post; the owner judges each time what it took, until `is_done`.
fn explore(
    post: fn(&Posted, usize) -> bool,
    judge: fn(&Taken, [&AtomicU64; 2]),
    is_done: fn(&Taken) -> bool,
) {
    let mut builder = loom::model::Builder::new();
    // Without a bound there are millions of orders.
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let system = Arc::new(System {
            posted: Posted::default(),
            signal: Notify::new(),
            data: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let posters = [0, 1].map(|number| {
            let system = system.clone();
            thread::spawn(move || {
                system.data[number].store(1, Relaxed);
                if post(&system.posted, number) {
                    system.signal.notify();
                }
            })
        });
        let mut all = Taken::default();
        while !is_done(&all) {
            system.signal.wait();
            if let Some(taken) = system.posted.drain() {
                judge(&taken, system.data.each_ref());
                all.vectors[0] |= taken.vectors[0];
                all.events |= taken.events;
            }
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
    });
}

#[test]
fn whoever_takes_a_vector_sees_what_its_poster_wrote_and_how_it_is_triggered() {
    explore(
        |posted, number| posted.vector(0x31 + number as u8, number == 1),
        |taken, data| {
            let [vectors, ..] = taken.vectors;
            for (number, word) in data.into_iter().enumerate() {
                if vectors >> (0x31 + number) & 1 != 0 {
                    assert_eq!(word.load(Relaxed), 1, "the data of poster {number}");
                }
            }
            assert_eq!(taken.levels[0], vectors & 1 << 0x32, "the level goes with its vector");
        },
        |all| all.vectors[0] == 0b11 << 0x31,
    );
}

#[test]
fn whoever_takes_an_nmi_or_a_start_sees_what_its_sender_wrote() {
    explore(
        |posted, number| posted.event([NMI, STARTUP | 0x9900][number]),
        |taken, data| {
            for (word, event) in data.into_iter().zip([NMI, STARTUP]) {
                assert!(taken.events & event == 0 || word.load(Relaxed) == 1, "{event:#x}");
            }
        },
        |all| all.events & (NMI | STARTUP) == NMI | STARTUP,
    );
}

#[test]
fn whoever_takes_an_init_sees_what_its_sender_wrote() {
    explore(
        |posted, number| posted.event([NMI, INIT][number]),
        |taken, data| {
            let [_, word] = data;
            assert!(taken.events & INIT == 0 || word.load(Relaxed) == 1);
        },
        |all| all.events & (NMI | INIT) == NMI | INIT,
    );
}
