//! A receiver: sleeps without a deadline, looks at the wires whose bits it was given and at no
//! other, until each has shown its last message.

use crate::{LAST, REPLIES, Report, SEEN, SENT, STATUS_WRONG, WANTED, WIRES, Wires, get, set};
use cloister_rt::{Deadline, Mailbox, wait};

/// What the receiver knows of a wire.
#[derive(Clone, Copy, Default)]
struct Known {
    seen: u64,
    answered: u64,
    replies: u64,
    is_done: bool,
}

pub fn run(_seed: u64, report: &mut Report) -> u32 {
    let senders = ["s0", "s1", "s2", "s3"];
    let wires = Wires::find(senders, senders);
    let mut known = [Known::default(); WIRES];
    while wires.iter().any(|(index, _)| !known[index].is_done) {
        let woken = wait(wires.bits(), Deadline::Never).bits();
        report.wakes += 1;
        for (index, wire) in wires.iter().filter(|(_, wire)| woken.intersects(wire.bits)) {
            if !look(wire, &mut known[index], report) {
                defmt::error!("wire {=u64}: a number went backwards", index as u64);
                return STATUS_WRONG;
            }
        }
    }
    0
}

/// Takes what a wire shows; false if that cannot be.
fn look(wire: &Mailbox, known: &mut Known, report: &mut Report) -> bool {
    let words = wire.memory.words();
    let sent = get(words, SENT);
    if sent < known.seen {
        return false;
    }
    report.arrived += sent - known.seen;
    known.seen = sent;
    set(words, SEEN, sent);
    let wanted = get(words, WANTED);
    if wanted > known.answered && sent >= wanted {
        known.answered = wanted;
        known.replies += 1;
        set(words, REPLIES, known.replies);
        wire.peer.wake();
        report.signals += 1;
    }
    let last = get(words, LAST);
    known.is_done = last != 0 && sent >= last;
    true
}
