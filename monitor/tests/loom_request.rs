//! The shipped requests under loom: every asker gets its own answer, and nobody sleeps for ever.
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p cloister-monitor --test loom_request --release`.
#![cfg(loom)]

use cloister_monitor::request::{Op, Request, Requests};
use loom::sync::{Arc, Notify};
use loom::thread;

/// A signal word with one bit.
type Word = Arc<Notify>;

fn word() -> Word {
    Arc::new(Notify::new())
}

/// What thread 0 answers.
fn square(request: &Request) -> [u64; 2] {
    let [value, _] = request.values;
    [value * value, u64::from(request.address)]
}

/// A virtual CPU's thread that asks so often.
fn asker(
    vcpu: usize,
    times: u64,
    requests: &Arc<Requests>,
    (server, own): (&Word, &Word),
) -> thread::JoinHandle<()> {
    let (requests, server, own) = (requests.clone(), server.clone(), own.clone());
    thread::spawn(move || {
        for time in 0..times {
            let values = [vcpu as u64 * 10 + time, 0];
            let request = Request { op: Op::PortOut, address: vcpu as u32, width: 4, values };
            if requests.ask(vcpu, &request) {
                server.notify();
            }
            loop {
                if let Some(answer) = requests.answer(vcpu) {
                    assert_eq!(answer, square(&request));
                    break;
                }
                own.wait();
            }
        }
    })
}

/// Thread 0, until it has answered so often.
fn serve(requests: &Requests, server: &Notify, words: &[Word], count: usize) {
    let mut left = count;
    while left > 0 {
        server.wait();
        while let Some((vcpu, request)) = requests.next() {
            requests.reply(vcpu, square(&request));
            words[vcpu].notify();
            left -= 1;
        }
    }
    assert_eq!(requests.next(), None);
}

/// Interleavings with at most so many preemptions; without a bound there are millions.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn two_askers_get_their_own_answers() {
    bounded(|| {
        let (requests, server) = (Arc::new(Requests::default()), word());
        let words = [word(), word(), word()];
        let askers = [1, 2].map(|vcpu| asker(vcpu, 1, &requests, (&server, &words[vcpu])));
        serve(&requests, &server, &words, 2);
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    });
}

#[test]
fn the_second_request_of_one_asker_does_not_meet_the_first_answer() {
    bounded(|| {
        let (requests, server) = (Arc::new(Requests::default()), word());
        let words = [word(), word()];
        let asker = asker(1, 2, &requests, (&server, &words[1]));
        serve(&requests, &server, &words, 2);
        asker.join().unwrap();
    });
}
