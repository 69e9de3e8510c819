//! The shipped mailbox under loom: every interleaving, and every reordering that the orderings
//! allow. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p cloister-ring --test loom_mailbox --release`.
#![cfg(loom)]

use cloister_ring::{Lost, Mapped, Message, Ready, Ring, SendError, Side};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

/// The smallest region: one message each way.
fn region() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..32).map(|_| AtomicU64::new(0)).collect())
}

fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Without a bound the eight words of each message alone are millions of orders.
    builder.preemption_bound = Some(2);
    builder.check(test);
}

fn message(number: u64) -> Message {
    Message([number; 8])
}

/// Looks for the peer as often as a task is woken for it.
fn shake(mut ring: Ring<'_, Mapped>) -> Ring<'_, Ready> {
    loop {
        match ring.handshake(|| ()) {
            Ok(ready) => return ready,
            Err(again) => ring = again,
        }
        thread::yield_now();
    }
}

#[test]
fn a_message_arrives_whole_and_its_slot_is_not_reused_too_early() {
    bounded(|| {
        let words = region();
        let theirs = words.clone();
        let server = thread::spawn(move || {
            let mut server = shake(Ring::new(&theirs, Side::Server, 0).unwrap());
            for number in 1..=2 {
                let found = loop {
                    match server.receive().unwrap() {
                        Some(found) => break found,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(found, message(number));
            }
        });
        let mut client = shake(Ring::new(&words, Side::Client, 0).unwrap());
        for number in 1..=2 {
            while client.send(&message(number)).is_err() {
                thread::yield_now();
            }
        }
        server.join().unwrap();
    });
}

#[test]
fn a_restart_in_any_moment_is_gone_and_never_a_broken_rule() {
    bounded(|| {
        let words = region();
        // Both are ready and have exchanged a message: counters are not zero.
        let client = Ring::new(&words, Side::Client, 0).unwrap().handshake(|| ()).unwrap_err();
        let server = Ring::new(&words, Side::Server, 0).unwrap().handshake(|| ()).unwrap_err();
        let mut client = client.handshake(|| ()).unwrap();
        let mut server = server.handshake(|| ()).unwrap();
        client.send(&message(1)).unwrap();
        assert_eq!(server.receive(), Ok(Some(message(1))));
        server.send(&message(2)).unwrap();
        let theirs = words.clone();
        let restarted = thread::spawn(move || {
            let mut server = shake(Ring::new(&theirs, Side::Server, 1).unwrap());
            let found = loop {
                match server.receive().unwrap() {
                    Some(found) => break found,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(found, message(9));
            server.send(&message(10)).unwrap();
        });
        // The client goes on in the old session until it notices.
        while let Err(lost) = ask(&mut client) {
            assert_eq!(lost, Lost::Gone);
            client = shake(client.again());
        }
        restarted.join().unwrap();
    });
}

/// Sends 9 and waits for 10. The 2 that an earlier life of the server sent may come first.
fn ask(client: &mut Ring<'_, Ready>) -> Result<(), Lost> {
    loop {
        match client.send(&message(9)) {
            Ok(()) => break,
            Err(SendError::Full) => thread::yield_now(),
            Err(SendError::Lost(lost)) => return Err(lost),
        }
    }
    loop {
        match client.receive()? {
            Some(reply) if reply == message(2) => {}
            Some(reply) => {
                assert_eq!(reply, message(10));
                return Ok(());
            }
            None => thread::yield_now(),
        }
    }
}
