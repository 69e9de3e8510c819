//! The engine on a simulated disk that answers in any order, is busy, fails, or does not answer,
//! against a model: what each block may hold, request by request.

mod sim;

use cloister_block::{
    Disk, Engine, Fit, Held, Limits, Operation, Place, Progress, Request, Segment,
};
use proptest::prelude::*;
use sim::{Buffers, MEMORY, SimDisk};

const BLOCK: u64 = 512;
const BLOCKS: u64 = 48;
const QUEUES: usize = 3;

fn limits(fit: Fit, zero: u32, bytes_max: u64) -> Limits {
    Limits {
        block_size: 512,
        blocks: BLOCKS,
        bytes_max,
        segments_max: 3,
        fit,
        align: 4,
        zero_blocks_max: zero,
        discard_blocks_max: 2,
        write_cache: true,
    }
}

#[derive(Clone, Debug)]
struct Wish {
    queue: usize,
    operation: Operation,
    block: u64,
    blocks: u64,
    /// Lengths that the memory is cut at, and how far each piece begins behind a page.
    pieces: Vec<(u64, u64)>,
    is_private: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let operation = prop_oneof![
        3 => Just(Operation::Read),
        5 => Just(Operation::Write),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Zero),
        1 => Just(Operation::Discard),
    ];
    let piece = (
        prop_oneof![Just(4096u64), Just(512), Just(1024), (1u64..64).prop_map(|n| n * 4)],
        prop_oneof![3 => Just(0u64), 1 => (0u64..128).prop_map(|n| n * 4), 1 => 0u64..512],
    );
    let wish = (
        0..QUEUES,
        operation,
        0..BLOCKS - 10,
        1..10u64,
        prop::collection::vec(piece, 1..20),
        prop::bool::weighted(0.1),
    );
    let wish = wish.prop_map(|(queue, operation, block, blocks, pieces, is_private)| {
        let blocks = if operation == Operation::Flush { 0 } else { blocks };
        Wish { queue, operation, block, blocks, pieces, is_private }
    });
    prop::collection::vec(wish, 1..60)
}

/// A request that was begun, as its client sees it.
struct Mine {
    wish: Wish,
    value: u8,
    segments: Vec<Segment>,
    /// For each block of a read: what it may turn out to be.
    allowed: Vec<Vec<u8>>,
    is_done: bool,
}

/// What each block may hold: the values of the last completed write, of those in flight, and of
/// those that failed since.
struct Model {
    settled: Vec<Vec<u8>>,
}

struct Run {
    engine: Engine<usize>,
    disk: SimDisk,
    buffers: Buffers,
    model: Model,
    mine: Vec<Mine>,
    next_memory: u64,
    held: [Option<Held>; QUEUES],
}

impl Run {
    fn new(limits: Limits, seed: u64, failures: u64) -> Run {
        let disk = SimDisk::new(limits, seed, failures);
        let buffers = Buffers::new(&disk);
        let model = Model { settled: vec![vec![0]; BLOCKS as usize] };
        let engine = Engine::new();
        let held = [const { None }; QUEUES];
        Run { engine, disk, buffers, model, mine: Vec::new(), next_memory: 0, held }
    }

    /// Begins a request in which every byte of a write has the same value.
    fn begin(&mut self, wish: Wish) {
        let value = (self.mine.len() % 250 + 1) as u8;
        let bytes = wish.blocks * BLOCK;
        let mut request = Request::new(wish.operation, wish.block * BLOCK, bytes);
        request.is_private = wish.is_private;
        let mut segments = Vec::new();
        if wish.operation.moves_data() {
            let mut left = bytes;
            let mut pieces = wish.pieces.iter().cycle();
            while left != 0 {
                let (len, skew) = pieces.next().unwrap();
                // The last piece takes what is left.
                let len = if segments.len() == 15 { left } else { (*len).min(left) };
                self.next_memory = self.next_memory.next_multiple_of(4096) + skew;
                let segment = Segment { address: MEMORY + self.next_memory, len };
                self.next_memory += len;
                let fill = if wish.operation == Operation::Write { value } else { 0xee };
                self.disk.memory(segment.address, len).fill(fill);
                request.push(segment).unwrap();
                segments.push(segment);
                left -= len;
            }
        }
        let place = Place { client: 3, queue: wish.queue as u8 };
        *self.engine.draft().unwrap() = request;
        let mut mine = Mine { wish, value, segments, allowed: Vec::new(), is_done: false };
        for block in mine.wish.block..mine.wish.block + mine.wish.blocks {
            mine.allowed.push(self.allowed(block));
        }
        self.note_write(&mine);
        let queue = mine.wish.queue;
        let ticket = self.mine.len();
        self.mine.push(mine);
        match self.engine.begin(&mut self.disk, &mut self.buffers, place, ticket) {
            Progress::Begun => {}
            Progress::Held(held) => self.held[queue] = Some(held),
        }
    }

    /// What a block may hold now.
    fn allowed(&self, block: u64) -> Vec<u8> {
        let mut values = self.model.settled[block as usize].clone();
        for mine in self.mine.iter().filter(|mine| !mine.is_done) {
            values.extend(value_at(mine, block));
        }
        values
    }

    /// Reads in flight may see a write that begins now.
    fn note_write(&mut self, new: &Mine) {
        for mine in self.mine.iter_mut().filter(|mine| !mine.is_done) {
            for (block, allowed) in (mine.wish.block..).zip(&mut mine.allowed) {
                allowed.extend(value_at(new, block));
            }
        }
    }

    fn finished(&mut self) -> Result<bool, TestCaseError> {
        let Some(finished) = self.engine.poll(&mut self.disk, &mut self.buffers) else {
            return Ok(false);
        };
        let mine = &mut self.mine[finished.ticket];
        prop_assert!(!mine.is_done, "{} ended twice", finished.ticket);
        mine.is_done = true;
        let mine = &self.mine[finished.ticket];
        for (block, allowed) in (mine.wish.block..).zip(&mine.allowed) {
            if mine.wish.operation == Operation::Read && finished.is_ok {
                let at = (block - mine.wish.block) * BLOCK;
                let bytes = self.disk.gather(&mine.segments, at, BLOCK);
                // A block is one value: no write is seen in part.
                prop_assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn: {bytes:?}");
                prop_assert!(allowed.contains(&bytes[0]), "{} not in {allowed:?}", bytes[0]);
            }
            if let Some(value) = value_at(mine, block) {
                let settled = &mut self.model.settled[block as usize];
                if finished.is_ok && mine.wish.operation != Operation::Discard {
                    settled.clear();
                }
                settled.push(value);
            }
        }
        if finished.is_ok && mine.wish.operation == Operation::Flush {
            prop_assert!(self.disk.flushes > 0);
        }
        Ok(true)
    }

    fn resume(&mut self) {
        for place in &mut self.held {
            if let Some(held) = place.take() {
                match self.engine.resume(&mut self.disk, &mut self.buffers, held) {
                    Progress::Begun => {}
                    Progress::Held(held) => *place = Some(held),
                }
            }
        }
        self.disk.ring();
    }
}

fn value_at(mine: &Mine, block: u64) -> Option<u8> {
    let inside = (mine.wish.block..mine.wish.block + mine.wish.blocks).contains(&block);
    match mine.wish.operation {
        Operation::Write if inside => Some(mine.value),
        Operation::Zero | Operation::Discard if inside => Some(0),
        _ => None,
    }
}

fn fit() -> impl Strategy<Value = Fit> {
    prop::sample::select(vec![Fit::Any, Fit::Pages])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_write_is_lost_torn_or_overtaken(
        wishes in wishes(),
        fit in fit(),
        zero in prop::sample::select(vec![0u32, 1, 100]),
        most in prop::sample::select(vec![4096u64, 8192, 1 << 20]),
        failures in prop::sample::select(vec![0u64, 0, 10]),
        seed: u64,
    ) {
        let mut run = Run::new(limits(fit, zero, most), seed, failures);
        let mut left: Vec<Wish> = wishes.into_iter().rev().collect();
        let mut turns = 0;
        while !left.is_empty() || !run.engine.is_empty() {
            turns += 1;
            prop_assert!(turns < 20_000, "the engine stands still");
            let next = left.last().map(|wish| wish.queue);
            if next.is_some_and(|queue| run.held[queue].is_none()) && run.disk.coin(2) {
                run.begin(left.pop().unwrap());
            }
            run.resume();
            if run.disk.coin(3) {
                while run.finished()? {}
            }
        }
        prop_assert!(run.mine.iter().all(|mine| mine.is_done));
        // One that failed in the middle may be held still.
        run.resume();
        prop_assert!(run.held.iter().all(Option::is_none));
        prop_assert_eq!(run.buffers.free(), sim::BUFFERS);
        for block in 0..BLOCKS {
            let bytes = run.disk.block(block);
            prop_assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            prop_assert!(run.model.settled[block as usize].contains(&bytes[0]), "block {block}");
        }
    }

    #[test]
    fn a_client_that_goes_is_gone_when_the_disk_is_done(
        wishes in wishes(), fit in fit(), seed: u64, stuck: bool,
    ) {
        let mut run = Run::new(limits(fit, 0, 8192), seed, 0);
        run.disk.stuck = stuck;
        for wish in wishes {
            if run.held[wish.queue].is_none() {
                run.begin(wish);
            }
        }
        run.resume();
        run.held = [const { None }; QUEUES];
        run.engine.orphan(&mut run.disk, &mut run.buffers, 3);
        let out = run.disk.outstanding();
        prop_assert_eq!(run.engine.is_idle(3), out == 0);
        prop_assert_eq!(run.disk.cancelled() > 0, out > 0);
        if stuck && out > 0 {
            prop_assert!(run.engine.poll(&mut run.disk, &mut run.buffers).is_none());
            prop_assert!(!run.engine.is_idle(3), "let go with the disk still at it");
            run.disk.reset();
        }
        for _ in 0..1000 {
            prop_assert!(run.engine.poll(&mut run.disk, &mut run.buffers).is_none());
        }
        prop_assert!(run.engine.is_idle(3) && run.engine.is_empty());
        prop_assert_eq!(run.engine.load(3), (0, 0));
        prop_assert_eq!(run.buffers.free(), sim::BUFFERS);
    }
}

#[test]
fn what_overlaps_a_write_waits_for_it() {
    let wish = |queue, operation, block, blocks| Wish {
        queue,
        operation,
        block,
        blocks,
        pieces: vec![(4096, 0)],
        is_private: false,
    };
    for (operation, block, is_held) in [
        (Operation::Write, 7, true),
        (Operation::Write, 8, false),
        (Operation::Write, 0, false),
        (Operation::Read, 4, true),
        (Operation::Read, 8, false),
        (Operation::Flush, 0, false),
        (Operation::Zero, 5, true),
        (Operation::Discard, 2, true),
    ] {
        let mut run = Run::new(limits(Fit::Any, 8, 1 << 20), 1, 0);
        run.begin(wish(0, Operation::Write, 4, 4));
        let blocks = if operation == Operation::Flush { 0 } else { 3 };
        run.begin(wish(1, operation, block, blocks));
        assert_eq!(run.held[1].is_some(), is_held, "{operation:?} {block}");
        assert_eq!(run.disk.outstanding() > 1, !is_held, "{operation:?} {block}");
    }
    let mut run = Run::new(limits(Fit::Any, 8, 1 << 20), 1, 0);
    run.begin(wish(0, Operation::Read, 4, 4));
    run.begin(wish(1, Operation::Read, 4, 4));
    run.begin(wish(2, Operation::Write, 7, 1));
    assert!(run.held[1].is_none() && run.held[2].is_some());
}
