//! A demonstration task: answers ping.
//!
//! Each request is a number; the reply is the number and its square. The request [`DONE`] ends the
//! task with status 0. A client that is restarted is served anew from the start.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_ring::{Link, Lost, Message, Side, Unsent};
use cloister_rt::{Deadline, generation, grants, wait};

cloister_rt::entry!(main);

/// The request that is the last one.
const DONE: u64 = u64::MAX;
/// Exit status: the manifest does not grant the mailbox, or it is too small.
const STATUS_NO_MAILBOX: u32 = 1;
/// Exit status: the client broke the rules of the mailbox.
const STATUS_BAD_CLIENT: u32 = 2;

fn main() -> u32 {
    let mailbox = match grants().served("box") {
        Ok(mailbox) => mailbox,
        Err(missing) => {
            defmt::error!("{}: give pong an export `box` that ping holds", missing);
            return STATUS_NO_MAILBOX;
        }
    };
    let words = mailbox.memory.words();
    let Ok(mut link) = Link::new(words, Side::Server, generation()) else {
        defmt::error!("mailbox box has {=usize} words, too few for a message", words.len());
        return STATUS_NO_MAILBOX;
    };
    let wake = || mailbox.peer.wake();
    let mut served = 0u64;
    loop {
        match link.receive(wake) {
            Ok(Some(Message([DONE, ..]))) => {
                defmt::info!("served {=u64} requests", served);
                return 0;
            }
            Ok(Some(Message([number, ..]))) => {
                let reply = Message([number, number.wrapping_mul(number), 0, 0, 0, 0, 0, 0]);
                match link.send(&reply, wake) {
                    Ok(()) => served += 1,
                    // A client that sends without reading its replies has broken the agreement.
                    Err(Unsent::Full) => return bad_client("reads no replies"),
                    Err(Unsent::Lost(Lost::Retired(_))) => {
                        return bad_client("damaged the mailbox");
                    }
                    Err(Unsent::NoPeer | Unsent::Lost(Lost::Gone)) => {
                        defmt::warn!("the client was restarted before its reply");
                    }
                }
            }
            Ok(None) => {
                wait(mailbox.bits, Deadline::Never);
            }
            Err(Lost::Gone) => defmt::warn!("the client was restarted"),
            Err(Lost::Retired(_)) => return bad_client("damaged the mailbox"),
        }
    }
}

fn bad_client(what: &str) -> u32 {
    defmt::error!("the client {=str}; it is not served any more", what);
    STATUS_BAD_CLIENT
}
