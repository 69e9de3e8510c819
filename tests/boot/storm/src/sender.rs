//! A sender: bursts of numbered messages to receivers by chance, now and then one that wants a
//! reply, for which it sleeps without a deadline.

use crate::{LAST, REPLIES, Report, SENT, STATUS_MANIFEST, WANTED, WIRES, Wires, get, set};
use cloister_rt::{Deadline, grants, wait};

/// Messages in a burst, at most; one burst goes to one receiver.
const BURST: u64 = 64;
/// Iterations of a pause between two bursts, at most.
const PAUSE: u64 = 200;
/// One burst in so many ends with a message that wants a reply.
const ROUND_TRIP: u64 = 8;

/// xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24) % limit.max(1)
    }
}

pub fn run(seed: u64, report: &mut Report) -> u32 {
    let wires = Wires::find(["r0", "r1", "r2", "r3"], ["q0", "q1", "q2", "q3"]);
    let Ok(signals) = grants().number("signals") else { return STATUS_MANIFEST };
    let mut random = Random(seed | 1);
    let mut sent = [0_u64; WIRES];
    let mut replies = [0_u64; WIRES];
    while report.signals < signals {
        let index = random.below(WIRES as u64) as usize;
        let Some(wire) = wires.0.get(index).and_then(Option::as_ref) else { continue };
        let words = wire.memory.words();
        for _ in 0..=random.below(BURST) {
            sent[index] += 1;
            set(words, SENT, sent[index]);
            wire.peer.wake();
            report.signals += 1;
        }
        if random.below(ROUND_TRIP) == 0 {
            sent[index] += 1;
            replies[index] += 1;
            set(words, WANTED, sent[index]);
            set(words, SENT, sent[index]);
            wire.peer.wake();
            report.signals += 1;
            while get(words, REPLIES) < replies[index] {
                wait(wire.bits, Deadline::Never);
                report.wakes += 1;
            }
        }
        for _ in 0..random.below(PAUSE) {
            core::hint::spin_loop();
        }
    }
    for (index, wire) in wires.iter() {
        let words = wire.memory.words();
        set(words, LAST, sent[index] + 1);
        set(words, SENT, sent[index] + 1);
        wire.peer.wake();
        report.signals += 1;
    }
    0
}
