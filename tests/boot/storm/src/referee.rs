//! The referee: picks the seed, lets everybody go, waits for them, and says what happened.

use crate::{
    ARRIVED, DONE, GO, SEEN, SENT, SIGNALS, STATUS_ASLEEP, STATUS_MANIFEST, STATUS_WRONG, WAKES,
    get, set,
};
use cloister_rt::{Bits, Deadline, Duration, Instant, Mailbox, grants, system, wait};

/// Everybody who may be there.
const PARTS: [&str; 12] = ["s0", "s1", "s2", "s3", "r0", "r1", "r2", "r3", "q0", "q1", "q2", "q3"];

fn parts() -> impl Iterator<Item = (&'static str, Mailbox)> {
    PARTS.into_iter().filter_map(|name| Some((name, grants().served(name).ok()?)))
}

pub fn run() -> u32 {
    let (Ok(seed), Ok(patience)) = (grants().number("seed"), grants().number("patience-s")) else {
        return STATUS_MANIFEST;
    };
    let clock = Instant::now().tsc() ^ system().unix_seconds << 20;
    let seed = if seed == 0 { clock.max(1) } else { seed };
    defmt::info!("storm: seed {=u64}", seed);
    let start = Instant::now();
    let mut bits = Bits::NONE;
    for (_, part) in parts() {
        bits |= part.bits;
        set(part.memory.words(), GO, seed);
        part.peer.wake();
    }
    let deadline = Deadline::At(start + Duration::from_secs(patience));
    while parts().any(|(_, part)| get(part.memory.words(), DONE) == 0) {
        if wait(bits, deadline).bits().is_empty() {
            return asleep();
        }
    }
    report(start)
}

/// Says who is not done.
fn asleep() -> u32 {
    for (name, part) in parts() {
        let words = part.memory.words();
        if get(words, DONE) == 0 {
            defmt::error!("storm: {=str} is not done", name);
        }
    }
    STATUS_ASLEEP
}

fn report(start: Instant) -> u32 {
    let sum = |word| parts().map(|(_, part)| get(part.memory.words(), word)).sum::<u64>();
    let (signals, wakes, arrived) = (sum(SIGNALS), sum(WAKES), sum(ARRIVED));
    // Unused words of these pages: a report in the wrong place would show here.
    if sum(SENT) != 0 || sum(SEEN) != 0 {
        return STATUS_WRONG;
    }
    let senders = parts().filter(|(name, _)| name.starts_with('s'));
    let sent: u64 = senders.map(|(_, part)| get(part.memory.words(), SIGNALS)).sum();
    if arrived != sent {
        defmt::error!("storm: {=u64} messages were sent, {=u64} arrived", sent, arrived);
        return STATUS_WRONG;
    }
    defmt::info!(
        "storm: {=u64} signals, {=u64} wakes, all caught up after {=u64} ms",
        signals,
        wakes,
        start.elapsed().as_millis()
    );
    0
}
