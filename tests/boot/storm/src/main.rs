//! Test tasks: signals between four cores, as many and as fast as they go.
//!
//! One program, three parts, by the manifest's number `part`: the *referee* picks the seed, lets
//! everybody go, and says in the end what happened; *senders* write numbered messages and signal;
//! *receivers* sleep without a deadline and look only at the wires whose bits they were given. A
//! signal that gets lost therefore leaves a receiver asleep on an old number, or a sender asleep
//! without its reply, for ever; the referee's deadline notices that, and nothing else ends it.
//!
//! Each wire is one shared page with the words below. What is promised is not that every signal is
//! counted, but that nobody sleeps on a pending bit and every receiver catches up.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod receiver;
mod referee;
mod sender;

use cloister_rt::{Bits, Mailbox, grants};
use core::sync::atomic::{AtomicU64, Ordering};

cloister_rt::entry!(main, threads = [sleeper]);

/// Word of a wire: the number of the newest message; the sender's.
const SENT: usize = 0;
/// Word: the newest number that the receiver has seen; the receiver's.
const SEEN: usize = 1;
/// Word: the message to which the sender wants a reply; the sender's.
const WANTED: usize = 2;
/// Word: replies; the receiver's.
const REPLIES: usize = 3;
/// Word: the number of the last message, zero until it is known; the sender's.
const LAST: usize = 4;

/// Word of the page between a part and the referee: the seed, zero until everybody may go.
const GO: usize = 8;
/// Word: signals that the part has sent.
const SIGNALS: usize = 9;
/// Word: how often the part's `wait` has returned.
const WAKES: usize = 10;
/// Word: messages that the part has seen arrive, by number.
const ARRIVED: usize = 11;
/// Word: the part is done.
const DONE: usize = 12;

/// Exit status: the manifest lacks something.
const STATUS_MANIFEST: u32 = 2;
/// Exit status: a number went backwards.
const STATUS_WRONG: u32 = 3;
/// Exit status: somebody is still asleep.
const STATUS_ASLEEP: u32 = 4;

/// Most wires of one part.
const WIRES: usize = 8;

fn main() -> u32 {
    match grants().number("part") {
        Ok(0) => referee::run(),
        Ok(1) => part(sender::run),
        Ok(_) => part(receiver::run),
        Err(_) => STATUS_MANIFEST,
    }
}

/// A further thread, where the manifest gives a part one: wakes up now and then.
fn sleeper() -> u32 {
    loop {
        cloister_rt::sleep_until(
            cloister_rt::Instant::now() + cloister_rt::Duration::from_millis(1),
        );
    }
}

/// The other ends of a part's wires.
struct Wires([Option<Mailbox>; WIRES]);

impl Wires {
    /// Wires that this part was granted or serves, by name.
    fn find(granted: [&'static str; 4], served: [&'static str; 4]) -> Self {
        let granted = granted.map(|name| grants().mailbox(name).ok());
        let served = served.map(|name| grants().served(name).ok());
        let mut all = granted.into_iter().chain(served);
        Wires(core::array::from_fn(|_| all.next().flatten()))
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Mailbox)> {
        let wires = self.0.iter().enumerate();
        wires.filter_map(|(index, wire)| Some((index, wire.as_ref()?)))
    }

    fn bits(&self) -> Bits {
        self.iter().fold(Bits::NONE, |all, (_, wire)| all | wire.bits)
    }
}

/// What a part reports.
#[derive(Default)]
struct Report {
    signals: u64,
    wakes: u64,
    arrived: u64,
}

/// Waits for the referee's word, does the work, reports. The seed differs from part to part.
fn part(run: fn(u64, &mut Report) -> u32) -> u32 {
    let Ok(referee) = grants().mailbox("referee") else { return STATUS_MANIFEST };
    let words = referee.memory.words();
    let mut report = Report::default();
    let seed = loop {
        match get(words, GO) {
            0 => drop(cloister_rt::wait(referee.bits, cloister_rt::Deadline::Never)),
            seed => break seed,
        }
    };
    let status = run(seed ^ u64::from(grants().task()) << 32, &mut report);
    set(words, SIGNALS, report.signals);
    set(words, WAKES, report.wakes);
    set(words, ARRIVED, report.arrived);
    set(words, DONE, 1);
    referee.peer.wake();
    status
}

fn get(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
}

fn set(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Release);
    }
}
