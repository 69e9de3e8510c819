//! The exchange: a hundred messages each way, in order, then one word that all have come.
//!
//! Neither end leaves before the other has everything: the channel drops what is under way when
//! an end goes. Of the last word itself nobody can know that it has come, so waiting for it has a
//! limit.

use core::fmt;
use core::time::Duration;

use cloister_guest_rt::virtio::{Failure, channel::Channel};
use cloister_guest_rt::{clock, cpu};

use crate::message::{self, LEN};

/// Messages each way.
const MESSAGES: u32 = 100;
/// The number of the word that all have come.
const ALL_HERE: u32 = MESSAGES;
/// How long to wait for that word once everything else is done.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    sent: u32,
    received: u32,
    damaged: u32,
    out_of_order: u32,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { sent, received, damaged, out_of_order } = self;
        write!(
            f,
            "sent {sent} messages, received {received}, {damaged} damaged, {out_of_order} out of \
             order"
        )
    }
}

/// A message on its way in or out, and how much of it has passed.
struct Part {
    bytes: [u8; LEN],
    done: usize,
}

/// Talks until everything has been said.
pub fn run(channel: &mut Channel) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut outgoing = Part { bytes: message::encode(0), done: 0 };
    let mut incoming = Part { bytes: [0; LEN], done: 0 };
    let mut said_all_here = false;
    let mut heard_all_here = false;
    let mut end = None;
    while !(said_all_here && heard_all_here) {
        let mut moved = false;
        let may_send = totals.sent < MESSAGES || (totals.received == MESSAGES && !said_all_here);
        if may_send {
            let sent = channel.send(&outgoing.bytes[outgoing.done..])?;
            moved |= sent > 0;
            outgoing.done += sent;
            if outgoing.done == LEN {
                said_all_here = totals.sent == MESSAGES;
                totals.sent = (totals.sent + 1).min(MESSAGES);
                outgoing = Part { bytes: message::encode(totals.sent), done: 0 };
            }
        }
        let received = channel.receive(&mut incoming.bytes[incoming.done..])?;
        moved |= received > 0;
        incoming.done += received;
        if incoming.done == LEN {
            incoming.done = 0;
            heard_all_here |= take(&mut totals, &incoming.bytes);
        }
        if moved {
            continue;
        }
        channel.check()?;
        if said_all_here {
            let limit = cpu::tsc().saturating_add(clock::ticks(PATIENCE));
            if !channel.wait_until(*end.get_or_insert(limit))? {
                break;
            }
        } else {
            channel.wait()?;
        }
    }
    channel.flush_until(cpu::tsc().saturating_add(clock::ticks(PATIENCE)))?;
    Ok(totals)
}

/// Counts a message; true if it is the last word.
fn take(totals: &mut Totals, bytes: &[u8; LEN]) -> bool {
    match message::decode(bytes) {
        None => totals.damaged += 1,
        Some(ALL_HERE) => return true,
        Some(number) => {
            totals.out_of_order += u32::from(number != totals.received);
            totals.received += 1;
        }
    }
    false
}
