//! A demonstration task: numbered messages to pong on another core, each reply checked.
//!
//! One message is under way at a time, so the rate that is logged in the end is that of a whole
//! round: two signals, two switches of threads on each core. A server that is restarted is asked
//! again; one that does not answer within [`PATIENCE`] ends the task with a status.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_ring::{Link, Lost, Message, Side, Unsent};
use cloister_rt::{Deadline, Duration, Instant, Mailbox, Woken, generation, grants, wait};

cloister_rt::entry!(main);

/// Messages to exchange.
const ROUNDS: u64 = 10_000;
/// The request that tells pong to leave.
const DONE: u64 = u64::MAX;
/// How long to wait for a reply or for the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exit status: the manifest does not grant the mailbox, or it is too small.
const STATUS_NO_MAILBOX: u32 = 1;
/// Exit status: the server broke the rules of the mailbox.
const STATUS_BAD_SERVER: u32 = 2;
/// Exit status: no answer in time.
const STATUS_SILENCE: u32 = 3;
/// Exit status: a wrong answer.
const STATUS_WRONG: u32 = 4;

/// How asking can fail for good.
enum Failure {
    Silence,
    BadServer,
}

struct Client {
    mailbox: Mailbox,
    link: Link<'static>,
}

impl Client {
    /// Sends a message, again if the server was restarted meanwhile.
    fn send(&mut self, message: &Message) -> Result<(), Failure> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            match self.link.send(message, || self.mailbox.peer.wake()) {
                Ok(()) => return Ok(()),
                Err(Unsent::Lost(Lost::Retired(_))) => return Err(Failure::BadServer),
                Err(Unsent::Lost(Lost::Gone)) => defmt::warn!("the server was restarted"),
                Err(Unsent::NoPeer | Unsent::Full) => self.sleep(deadline)?,
            }
        }
    }

    /// Asks and waits for the reply; asks again if the server was restarted in between.
    fn ask(&mut self, message: &Message) -> Result<Message, Failure> {
        'ask: loop {
            self.send(message)?;
            let deadline = Deadline::after(PATIENCE);
            loop {
                match self.link.receive(|| self.mailbox.peer.wake()) {
                    Ok(Some(reply)) => return Ok(reply),
                    Ok(None) => self.sleep(deadline)?,
                    Err(Lost::Retired(_)) => return Err(Failure::BadServer),
                    Err(Lost::Gone) => {
                        defmt::warn!("the server was restarted before its reply");
                        continue 'ask;
                    }
                }
            }
        }
    }

    fn sleep(&self, deadline: Deadline) -> Result<(), Failure> {
        match wait(self.mailbox.bits, deadline) {
            Woken::Bits(_) => Ok(()),
            Woken::Deadline => Err(Failure::Silence),
        }
    }
}

fn main() -> u32 {
    let mailbox = match grants().mailbox("peer") {
        Ok(mailbox) => mailbox,
        Err(missing) => {
            defmt::error!("{}: give ping a grant peer = \"pong/box\"", missing);
            return STATUS_NO_MAILBOX;
        }
    };
    let words = mailbox.memory.words();
    let Ok(link) = Link::new(words, Side::Client, generation()) else {
        defmt::error!("mailbox peer has {=usize} words, too few for a message", words.len());
        return STATUS_NO_MAILBOX;
    };
    let mut client = Client { mailbox, link };
    match rounds(&mut client) {
        Ok(status) => status,
        Err(Failure::Silence) => {
            defmt::error!("pong does not answer within {=u64} s", PATIENCE.as_millis() / 1000);
            STATUS_SILENCE
        }
        Err(Failure::BadServer) => {
            defmt::error!("pong damaged the mailbox");
            STATUS_BAD_SERVER
        }
    }
}

fn rounds(client: &mut Client) -> Result<u32, Failure> {
    let start = Instant::now();
    for number in 1..=ROUNDS {
        let reply = client.ask(&Message([number, 0, 0, 0, 0, 0, 0, 0]))?;
        let Message([echo, square, ..]) = reply;
        if (echo, square) != (number, number.wrapping_mul(number)) {
            defmt::error!("asked for {=u64}, got {=u64} and {=u64}", number, echo, square);
            return Ok(STATUS_WRONG);
        }
    }
    let took = start.elapsed();
    client.send(&Message([DONE, 0, 0, 0, 0, 0, 0, 0]))?;
    defmt::info!(
        "{=u64} messages and replies in {=u64} us: {=u64} ns each",
        ROUNDS,
        took.as_micros(),
        took.as_nanos() / ROUNDS
    );
    Ok(0)
}
