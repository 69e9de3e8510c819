//! Random sequences of requests, completed in any order: each once, with its own data, and neither
//! side sleeps for ever.

mod support;

use std::collections::HashMap;

use cloister_guest_abi::disk::BLOCK;
use cloister_guest_disk::{Layout, Options, Request, Token};
use proptest::prelude::*;
use support::{Bench, all_options, arena};

const ONE: usize = BLOCK as usize;
const BLOCKS: u64 = 8;
const BUFFERS: usize = 12;

/// What a step does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u64),
    Write(u64, u8),
    Flush,
    Ring,
    /// The device looks by itself, as one does that is awake for another queue.
    Look,
    Complete(usize),
    Poll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..BLOCKS).prop_map(Step::Read),
        3 => (0..BLOCKS, any::<u8>()).prop_map(|(block, byte)| Step::Write(block, byte)),
        1 => Just(Step::Flush),
        2 => Just(Step::Ring),
        1 => Just(Step::Look),
        4 => (0usize..64).prop_map(Step::Complete),
        2 => Just(Step::Poll),
    ];
    prop::collection::vec(step, 1..400)
}

/// The driver's program: what is in flight, and what the disk holds where nothing is.
struct Program<'m> {
    bench: Bench<'m>,
    free: Vec<usize>,
    in_flight: HashMap<usize, (Token, Step)>,
    written: HashMap<u64, u8>,
    /// The driver polls only when it has been interrupted, or told not to sleep.
    awake: bool,
}

impl<'m> Program<'m> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Read(_) | Step::Write(..) | Step::Flush => self.submit(step),
            Step::Ring => {
                self.bench.ring_if_wanted();
                self.bench.device_fetches();
            }
            Step::Look => self.bench.device_looks(),
            Step::Complete(which) => {
                let count = self.bench.pending.len();
                if count > 0 {
                    self.bench.device_completes(which % count);
                }
            }
            Step::Poll => self.poll(),
        }
    }

    fn submit(&mut self, step: Step) {
        // One request for a block at a time, so that what it holds is known.
        let block = match step {
            Step::Read(block) | Step::Write(block, _) => Some(block),
            _ => None,
        };
        let is_busy = self.in_flight.values().any(|(_, other)| match other {
            Step::Read(other) | Step::Write(other, _) => Some(*other) == block,
            _ => false,
        });
        let Some(buffer) = self.free.pop() else { return };
        if is_busy {
            return self.free.push(buffer);
        }
        let queue_result = match step {
            Step::Read(block) => {
                let data = self.bench.data(buffer, &[0xee; ONE]);
                self.bench.queue.submit(Request::Read { block }, Some(data))
            }
            Step::Write(block, byte) => {
                let data = self.bench.data(buffer, &[byte; ONE]);
                self.bench.queue.submit(Request::Write { block }, Some(data))
            }
            _ => {
                self.free.push(buffer);
                self.bench.queue.submit(Request::Flush, None)
            }
        };
        match queue_result {
            Ok(token) => {
                let other = self.in_flight.insert(token.slot(), (token, step));
                assert!(other.is_none(), "a slot is in flight once");
            }
            Err((_, Some(buffer))) => self.free.push(buffer),
            Err((_, None)) => {}
        }
    }

    fn poll(&mut self) {
        if !core::mem::take(&mut self.bench.interrupted) && !self.awake {
            return;
        }
        self.bench.queue.hush();
        while let Some(done) = self.bench.queue.poll().expect("a good device") {
            assert_eq!(done.outcome, Ok(()));
            let (token, step) =
                self.in_flight.remove(&done.token.slot()).expect("a request in flight");
            assert_eq!(token, done.token);
            match step {
                Step::Read(block) => {
                    let buffer = done.buffer.expect("the buffer of a read");
                    let byte = self.written.get(&block).copied().unwrap_or(0);
                    assert_eq!(self.bench.bytes(buffer, ONE), vec![byte; ONE]);
                }
                Step::Write(block, byte) => {
                    self.written.insert(block, byte);
                }
                _ => assert_eq!(done.buffer, None),
            }
            self.free.extend(done.buffer);
        }
        self.awake = self.bench.queue.listen();
    }

    /// Everything that was asked for comes, without a look that nobody asked for.
    fn finish(&mut self) {
        for _ in 0..4 * BUFFERS + 256 {
            self.step(Step::Ring);
            self.step(Step::Complete(0));
            self.step(Step::Poll);
        }
        assert!(self.in_flight.is_empty(), "{} never came", self.in_flight.len());
        assert_eq!(self.bench.queue.in_flight(), 0);
        assert_eq!(self.free.len(), BUFFERS, "every buffer came back");
    }
}

fn run(options: Options, size: u16, steps: &[Step]) {
    let arena = arena(BUFFERS);
    let bench = Bench::new(&arena, size, options, BLOCKS);
    let free = (0..BUFFERS).collect();
    let (in_flight, written) = (HashMap::new(), HashMap::new());
    let mut program = Program { bench, free, in_flight, written, awake: true };
    for step in steps {
        program.step(*step);
    }
    program.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_completed_once_with_its_data(
        steps in steps(),
        size in prop::sample::select(vec![4u16, 8, 16, 128]),
    ) {
        for options in all_options() {
            run(options, size, &steps);
        }
    }
}

/// Many turns of a small ring: the indices of a split ring wrap at 65,536, a packed ring has two
/// kinds of turns.
#[test]
fn rings_go_round() {
    for options in all_options() {
        let rounds = if options.layout == Layout::Split { 34_000 } else { 2_000 };
        let steps: Vec<Step> = (0..rounds)
            .flat_map(|n| [Step::Flush, Step::Flush, Step::Ring, Step::Complete(n), Step::Poll])
            .collect();
        run(options, 8, &steps);
    }
}
