//! The model against disks on the host: good ones pass whatever order they choose, and each kind of
//! broken one is found.

use std::collections::HashMap;

use guest_disk_core::{BLOCK, Choice, Kind, Limits, Model, Plan, ReadId, content, stamp};
use proptest::prelude::*;

const BLOCKS: u64 = 6;
const GENERATION: u64 = 3;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A write is completed and never made.
    Lost,
    /// Half of a write is made.
    Torn,
    /// A completed write is made again after a later one.
    Late,
    /// A write goes to the next block.
    Swapped,
    /// A request is completed twice.
    Twice,
}

struct Run {
    model: Model,
    disk: Vec<[u8; BLOCK]>,
    in_flight: Vec<(u64, Choice, Vec<ReadId>)>,
    /// The last stamp of each block that was written and completed before the present one.
    before: HashMap<u64, [u8; BLOCK]>,
    sequence: u64,
}

impl Run {
    fn submit(&mut self, choice: Choice) {
        self.sequence += 1;
        let mut reads = Vec::new();
        let kind = match choice {
            Choice::Write(..) => Kind::Stamp,
            Choice::Zeroes(..) => Kind::Zero,
            _ => Kind::Discard,
        };
        for block in choice.blocks() {
            match choice {
                Choice::Read(..) => reads.push(self.model.read(block)),
                _ => self.model.write(block, self.sequence, kind),
            }
        }
        self.in_flight.push((self.sequence, choice, reads));
    }

    /// Completes a request; whether all is well.
    fn complete(&mut self, which: usize, fault: Fault) -> bool {
        let (sequence, choice, reads) = self.in_flight.swap_remove(which);
        for (index, block) in choice.blocks().enumerate() {
            let at = block as usize;
            match choice {
                Choice::Write(..) => {
                    let mut bytes = [0; BLOCK];
                    stamp(&mut bytes, block, sequence, GENERATION);
                    match fault {
                        Fault::Lost => {}
                        Fault::Torn => {
                            self.disk[at][BLOCK / 2..].copy_from_slice(&bytes[BLOCK / 2..])
                        }
                        Fault::Swapped => self.disk[(at + 1) % BLOCKS as usize] = bytes,
                        Fault::Late => {
                            // Needs one before that was completed before this was submitted.
                            self.disk[at] = self.before.get(&block).copied().unwrap_or(bytes);
                        }
                        Fault::None | Fault::Twice => self.disk[at] = bytes,
                    }
                    self.before.insert(block, bytes);
                }
                Choice::Zeroes(..) => self.disk[at] = [0; BLOCK],
                Choice::Discard(..) if sequence % 2 == 0 => self.disk[at] = [0; BLOCK],
                _ => {}
            }
            let ok = match choice {
                Choice::Read(..) => {
                    let found = content(&self.disk[at], block, GENERATION);
                    self.model.found(block, reads[index], found)
                }
                _ => self.model.written(block, sequence),
            };
            let again = fault == Fault::Twice && self.model.written(block, sequence).is_err();
            if ok.is_err() || again {
                return false;
            }
        }
        true
    }

    /// Everything is completed and every block is read; whether all is well.
    fn finish(&mut self) -> bool {
        while !self.in_flight.is_empty() {
            if !self.complete(0, Fault::None) {
                return false;
            }
        }
        (0..BLOCKS).all(|block| {
            self.submit(Choice::Read(block, 1));
            self.complete(0, Fault::None)
        })
    }
}

/// A run with every block written once, so that all is known.
fn begun() -> Run {
    let mut run = Run {
        model: Model::new(BLOCKS as usize),
        disk: vec![[0xee; BLOCK]; BLOCKS as usize],
        in_flight: Vec::new(),
        before: HashMap::new(),
        sequence: 0,
    };
    for block in 0..BLOCKS {
        run.submit(Choice::Write(block, 1));
        assert!(run.complete(0, Fault::None));
    }
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_good_disk_passes_in_any_order(
        numbers in prop::collection::vec(any::<u64>(), 600),
        depth in 1usize..16,
    ) {
        let mut numbers = numbers.into_iter().cycle();
        let limits = Limits { blocks: BLOCKS, run: 3, flush: 9 };
        let mut plan = Plan::new(move || numbers.next().unwrap_or(0), limits);
        let mut run = begun();
        for _ in 0..200 {
            while run.in_flight.len() < depth {
                let choice = plan.choose();
                run.submit(choice);
            }
            let which = plan.below(depth as u64) as usize;
            prop_assert!(run.complete(which, Fault::None));
        }
        prop_assert!(run.finish());
    }
}

#[test]
fn every_kind_of_broken_disk_is_found() {
    for fault in [Fault::Lost, Fault::Torn, Fault::Late, Fault::Swapped, Fault::Twice] {
        let mut run = begun();
        run.submit(Choice::Write(2, 1));
        let is_well = run.complete(0, fault) && run.finish();
        assert!(!is_well, "{fault:?} was not found");
    }
    let mut run = begun();
    run.submit(Choice::Write(2, 1));
    assert!(run.complete(0, Fault::None) && run.finish(), "the same without a fault");
}

#[test]
fn of_two_concurrent_writes_either_may_stay() {
    for last in [0, 1] {
        let mut run = begun();
        run.submit(Choice::Write(2, 1));
        run.submit(Choice::Write(2, 1));
        assert!(run.complete(last, Fault::None));
        assert!(run.finish());
    }
}

#[test]
fn a_read_may_find_what_was_submitted_while_it_was_under_way() {
    let mut model = Model::new(1);
    model.write(0, 1, Kind::Stamp);
    model.written(0, 1).expect("under way");
    let early = model.read(0);
    model.write(0, 2, Kind::Stamp);
    model.written(0, 2).expect("under way");
    let late = model.read(0);
    let first = Ok(guest_disk_core::Content::Write(1));
    assert_eq!(model.clone().found(0, early, first), Ok(()));
    assert_eq!(model.found(0, early, Ok(guest_disk_core::Content::Write(2))), Ok(()));
    assert!(model.found(0, late, first).is_err(), "overtaken by an older one");
}
