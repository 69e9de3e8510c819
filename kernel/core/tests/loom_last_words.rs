//! The last words of the machine (docs/notes/0017-last-words.md): of the cores that begin to speak one
//! does, and once it does nobody else writes to the port.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p cloister-core --test loom_last_words`.
//! Half of the protocol is assembly (`nmi_entry`), so this is a model of both halves, with the
//! orderings that they have: `lock inc` is at least a release, and an interrupt that was sent behind a
//! locked instruction is taken by a core that sees what that instruction stored. What the console has
//! written is counted with `Relaxed`, so that only the protocol itself can order it.
#![cfg(loom)]

use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Arc, Notify};
use loom::thread;

/// The console's core, and two on which something ends the machine.
const CORES: usize = 3;
const CONSOLE: usize = 0;
/// Looks at how many cores have stopped.
const LOOKS: usize = 2;

/// Explored runs in which somebody spoke.
static SPOKEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

struct Machine {
    going_down: AtomicUsize,
    stopped: AtomicUsize,
    /// An NMI that was sent, for a core that runs and for one that is halted.
    nmi: [AtomicBool; CORES],
    halted: [Notify; CORES],
    /// What the console has written.
    written: AtomicUsize,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            going_down: AtomicUsize::new(0),
            stopped: AtomicUsize::new(0),
            nmi: [false; CORES].map(AtomicBool::new),
            halted: [(); CORES].map(|()| Notify::new()),
            written: AtomicUsize::new(0),
        }
    }

    /// `last_words`. What the console had written when this core spoke, if it does.
    fn speak(&self, core: usize) -> Option<usize> {
        if self.going_down.compare_exchange(0, core + 1, AcqRel, Acquire).is_err() {
            self.halt(core);
            return None;
        }
        let others = (0..CORES).filter(|other| *other != core);
        let send = |other: usize| {
            self.nmi[other].store(true, Release);
            self.halted[other].notify();
        };
        let asked = others.map(send).count();
        // Loom follows no loop without an end; where patience ends earlier, nothing is to be seen.
        let are_silent = (0..LOOKS).any(|_| {
            thread::yield_now();
            self.stopped.load(Acquire) == asked
        });
        are_silent.then(|| self.written.load(Relaxed))
    }

    /// `nmi_entry`. Whether the core stops here.
    fn is_stopped(&self, core: usize) -> bool {
        if !self.nmi[core].load(Acquire) {
            return false;
        }
        let speaker = self.going_down.load(Relaxed);
        assert!(speaker != 0 && speaker != core + 1, "the NMI came to nobody's or to its own end");
        self.stopped.fetch_add(1, Release);
        true
    }

    /// A halted core still takes NMIs.
    fn halt(&self, core: usize) {
        while !self.is_stopped(core) {
            self.halted[core].wait();
        }
    }
}

#[test]
fn one_core_speaks_and_the_others_are_silent() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let machine = Arc::new(Machine::new());
        let speakers = [1, 2].map(|core| {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.speak(core))
        });
        let is_stopped = (0..2).any(|_| {
            let is_stopped = machine.is_stopped(CONSOLE);
            if !is_stopped {
                machine.written.fetch_add(1, Relaxed);
            }
            is_stopped
        });
        if !is_stopped {
            machine.halt(CONSOLE);
        }
        let spoken = speakers.map(|speaker| speaker.join().unwrap());
        let mut spoken = spoken.into_iter().flatten();
        let last = spoken.next();
        assert!(
            last.is_none_or(|seen| seen == machine.written.load(Relaxed)),
            "the console wrote on"
        );
        assert_eq!(spoken.next(), None, "two cores speak");
        if last.is_some() {
            SPOKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(SPOKEN.load(std::sync::atomic::Ordering::Relaxed) > 0, "nobody ever spoke");
}
