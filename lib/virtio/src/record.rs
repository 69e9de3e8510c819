//! In-flight records: what a new instance of a worker needs to go on where an old one was killed.
//!
//! [`Records`] is a region of words for one device that only the worker maps and no restart wipes.
//! Each slot holds one chain, committed by its number, which is stored last; the words of a queue
//! say where the used ring stands. Neighbours: [`crate::Device`] writes a record with each fetch
//! and each completion, and takes queues over. The orders of the stores and what a new instance
//! makes of each state: docs/notes/0011-inflight.md.
//!
//! Invariant: at whichever store a worker dies, the committed slots are the chains that were
//! fetched and not used, but for one that is being retired, of which the ring tells. What is read
//! back is checked as if a stranger had written it.

use cloister_guestmem::Ram;

use crate::chain::Chain;
use crate::queue::{Queue, Record, Taken};
use crate::rule::Rule;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::worker::TooSmall;

/// Most queues of a device with records.
pub const QUEUES_MAX: usize = 4;
/// Slots of a queue: the largest size that its ring may have.
pub const SLOTS: u16 = 128;
/// Most buffers of a chain.
pub const BUFFERS_MAX: usize = 62;
/// Words before the slots of a queue.
pub const HEAD_WORDS: usize = 128;
/// Words of a slot: number, shape, then address and length of each buffer.
pub const SLOT_WORDS: usize = 127;
/// Words of a queue.
pub const QUEUE_WORDS: usize = 1 << 14;
/// Words of a device.
pub const WORDS: usize = QUEUES_MAX * QUEUE_WORDS;
/// Bytes of a device's records.
pub const BYTES: usize = WORDS * 8;

/// Word of the first queue: the order that all records belong to, 0 for none.
const LIFE: usize = 0;
/// Word of each queue: [`Retiring`].
const RETIRING: usize = 1;
/// Words of each queue: features, size, addresses, as the queue was made of them.
const SETUP: usize = 2;
const SETUP_WORDS: usize = 5;
/// Word of the first queue: [`Stage`].
const STAGE: usize = 7;

/// Words of a slot.
const NUMBER: usize = 0;
const SHAPE: usize = 1;
const BUFFERS: usize = 2;

/// Bits of a number below the count: queue and slot.
const PLACE_BITS: u32 = 16;
/// Numbers end here.
const COUNT_END: u64 = 1 << 48;

const _: () = assert!(HEAD_WORDS + SLOT_WORDS * 128 == QUEUE_WORDS && SLOTS == 128);
const _: () = assert!(SETUP + SETUP_WORDS <= STAGE && STAGE < HEAD_WORDS);
const _: () = assert!(BUFFERS + 2 * BUFFERS_MAX <= SLOT_WORDS && BYTES == 512 << 10);

/// What a worker is doing, for whoever wants to know what an earlier instance died of. Nothing is
/// decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing that concerns requests, or nobody has said.
    Idle,
    /// It has begun its life and not followed an order yet.
    Starting,
    /// It gives what an earlier instance left to its backend again.
    Adopting,
    /// It takes a chain out of a ring, which is not committed yet.
    Fetching,
    /// The chain it took last is committed, and its backend does not know of it yet.
    Committed,
    /// Its backend works.
    Submitted,
    /// Its backend has ended a request, which is not in the used ring yet.
    Ended,
    /// It puts a chain into the used ring.
    Retiring,
}

impl Stage {
    const ALL: [Stage; 8] = [
        Stage::Idle,
        Stage::Starting,
        Stage::Adopting,
        Stage::Fetching,
        Stage::Committed,
        Stage::Submitted,
        Stage::Ended,
        Stage::Retiring,
    ];

    /// For a log.
    pub fn text(self) -> &'static str {
        match self {
            Stage::Idle => "idle",
            Stage::Starting => "starting",
            Stage::Adopting => "adopting",
            Stage::Fetching => "fetching",
            Stage::Committed => "committed",
            Stage::Submitted => "submitted",
            Stage::Ended => "ended",
            Stage::Retiring => "retiring",
        }
    }
}

/// What a queue is about to put into its used ring, or has put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retiring {
    /// Where it goes, or, if nothing is being retired, where the next one will go.
    place: u16,
    /// The chain's descriptors, 0 if nothing is being retired.
    count: u16,
    slot: u16,
}

impl Retiring {
    fn word(self) -> u64 {
        u64::from(self.place) | u64::from(self.count) << 16 | u64::from(self.slot) << 32
    }

    fn from_word(word: u64) -> Option<Retiring> {
        let [place, count, slot, 0] = quarters(word) else {
            return None;
        };
        Some(Retiring { place, count, slot })
    }
}

/// The records of one device.
#[derive(Debug)]
pub struct Records<'a> {
    words: &'a [AtomicU64],
    /// How many chains were committed in this life.
    count: u64,
}

impl<'a> Records<'a> {
    /// The records in these words, of a device with so many queues.
    pub fn new(words: &'a [AtomicU64], queues: usize) -> Result<Records<'a>, TooSmall> {
        let small = TooSmall { words: words.len() };
        let wanted = queues.checked_mul(QUEUE_WORDS).filter(|_| queues <= QUEUES_MAX);
        let words = wanted.and_then(|wanted| words.get(..wanted)).ok_or(small)?;
        Ok(Records { words, count: 0 })
    }

    /// The order that the records belong to, 0 for none.
    pub(crate) fn life(&self) -> u64 {
        self.words.get(LIFE).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Forgets all: nothing is in flight.
    pub(crate) fn end(&mut self) {
        self.store(LIFE, 0, Ordering::Release);
        // Nothing that belongs to a later life is stored before this.
        fence(Ordering::Release);
    }

    /// Says what the worker does from here on. Relaxed: nothing rests on it.
    #[inline]
    pub(crate) fn enter(&self, stage: Stage) {
        let number = Stage::ALL.iter().position(|each| *each == stage);
        let number = number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        self.store(STAGE, number, Ordering::Relaxed);
    }

    /// What the worker was doing when it last said so.
    pub(crate) fn stage(&self) -> Stage {
        let number = usize::try_from(self.load(STAGE)).ok();
        number.and_then(|number| Stage::ALL.get(number)).copied().unwrap_or(Stage::Idle)
    }

    /// Begins a life in which nothing was fetched.
    pub(crate) fn begin(&mut self, life: u64, features: u64, queues: &[Record]) {
        self.end();
        self.count = 0;
        for (queue, record) in (0..self.queues()).zip(queues) {
            for slot in 0..SLOTS {
                self.store(slot_word(queue, slot), 0, Ordering::Relaxed);
            }
            let first = Retiring { place: first_place(features), count: 0, slot: 0 };
            self.store(queue_word(queue, RETIRING), first.word(), Ordering::Relaxed);
            for (word, value) in (SETUP..).zip(setup(features, record)) {
                self.store(queue_word(queue, word), value, Ordering::Relaxed);
            }
        }
        // Release: a life that is seen has empty slots.
        self.store(LIFE, life, Ordering::Release);
    }

    /// Writes down a chain that was fetched.
    pub(crate) fn commit<const N: usize>(
        &mut self,
        queue: usize,
        taken: &Taken,
        chain: &Chain<N>,
    ) -> Result<(), Rule> {
        let (buffers, readable) = chain.parts();
        let count = self.count.saturating_add(1);
        let shape = shape(taken, buffers.len(), readable);
        let shape = shape.filter(|_| taken.slot < SLOTS && count < COUNT_END);
        let shape = shape.ok_or(Rule::ChainTooLong)?;
        let base = slot_word(queue, taken.slot);
        let slot = base.checked_add(SLOT_WORDS).and_then(|end| self.words.get(base..end));
        let slot = slot.ok_or(Rule::ChainTooLong)?;
        let [number, shape_word, words @ ..] = slot else {
            return Err(Rule::ChainTooLong);
        };
        // The slot was given up before a word of it changes.
        fence(Ordering::Release);
        shape_word.store(shape, Ordering::Relaxed);
        for (words, buffer) in words.as_chunks::<2>().0.iter().zip(buffers) {
            let [address, len] = words;
            address.store(buffer.start().get(), Ordering::Relaxed);
            len.store(buffer.len(), Ordering::Relaxed);
        }
        // Release: a number that is seen has its chain.
        number.store(count << PLACE_BITS | place_bits(queue, taken.slot), Ordering::Release);
        self.count = count;
        Ok(())
    }

    /// Says that a chain is about to be put into the used ring at `place`.
    pub(crate) fn retire(&self, queue: usize, taken: &Taken, place: u16) {
        let retiring = Retiring { place, count: taken.count, slot: taken.slot };
        self.store(queue_word(queue, RETIRING), retiring.word(), Ordering::Release);
    }

    /// Says that it was, and that the next one goes to `place`.
    pub(crate) fn retired(&self, queue: usize, slot: u16, place: u16) {
        // Release: the used entry came before the first, and the first before the second.
        self.store(slot_word(queue, slot), 0, Ordering::Release);
        let next = Retiring { place, count: 0, slot: 0 };
        self.store(queue_word(queue, RETIRING), next.word(), Ordering::Release);
    }

    /// Has a queue that was just made take over what the records hold of it. How many chains that
    /// are in flight.
    pub(crate) fn take_over<M: Ram>(
        &mut self,
        number: usize,
        queue: &mut Queue,
        (features, record): (u64, &Record),
        ram: &M,
    ) -> Result<u16, Rule> {
        let stored = (SETUP..).map(|word| self.load(queue_word(number, word)));
        if !stored.take(SETUP_WORDS).eq(setup(features, record)) {
            return Err(Rule::Unfinished);
        }
        let retiring = Retiring::from_word(self.load(queue_word(number, RETIRING)));
        let mut place = retiring.map(|retiring| retiring.place).ok_or(Rule::Unfinished)?;
        if let Some(retiring) = retiring.filter(|retiring| retiring.count != 0) {
            if queue.is_published(ram, place)? {
                place = queue.place_behind(place, retiring.count).ok_or(Rule::Unfinished)?;
                self.check_retired(number, &retiring)?;
                self.retired(number, retiring.slot, place);
            } else {
                let next = Retiring { place, count: 0, slot: 0 };
                self.store(queue_word(number, RETIRING), next.word(), Ordering::Release);
            }
        }
        let mut chain = Chain::<BUFFERS_MAX>::default();
        for slot in 0..queue.size().min(SLOTS) {
            if let Some((count, taken)) = self.chain(number, slot, queue.size(), &mut chain, ram)? {
                if !queue.is_possible(&taken) {
                    return Err(Rule::Unfinished);
                }
                self.count = self.count.max(count);
                queue.readmit(&taken);
            }
        }
        queue.resume(ram, place)?;
        Ok(queue.in_flight())
    }

    /// The chain with the lowest number above `last`, of queues with so many slots each: its
    /// number, queue and slot.
    pub(crate) fn after(&self, last: u64, sizes: &[u16]) -> Option<(u64, usize, u16)> {
        let slots = |(queue, size): (usize, &u16)| (0..*size).map(move |slot| (queue, slot));
        let all = sizes.iter().enumerate().flat_map(slots);
        let all = all.map(|(queue, slot)| (self.load(slot_word(queue, slot)), queue, slot));
        all.filter(|(number, ..)| *number > last).min()
    }

    /// Copies the chain of a slot, checked; `None` if the slot is free. With it comes how many were
    /// committed when it was.
    pub(crate) fn chain<M: Ram, const N: usize>(
        &self,
        queue: usize,
        slot: u16,
        most: u16,
        chain: &mut Chain<N>,
        ram: &M,
    ) -> Result<Option<(u64, Taken)>, Rule> {
        let base = slot_word(queue, slot);
        let number = self.words.get(base).map_or(0, |word| word.load(Ordering::Acquire));
        if number == 0 {
            return Ok(None);
        }
        let count = number >> PLACE_BITS;
        if number != count << PLACE_BITS | place_bits(queue, slot) || count == 0 {
            return Err(Rule::Unfinished);
        }
        let [id, descriptors, buffers, readable] = quarters(self.load(base.saturating_add(SHAPE)));
        if buffers == 0 || usize::from(buffers) > BUFFERS_MAX || readable > buffers {
            return Err(Rule::Unfinished);
        }
        *chain = Chain::default();
        for buffer in 0..buffers {
            let at = base.saturating_add(BUFFERS).saturating_add(usize::from(buffer) << 1);
            let range = (self.load(at), self.load(at.saturating_add(1)));
            let restored = chain.restore(ram, range, buffer >= readable, most);
            restored.map_err(|_| Rule::Unfinished)?;
        }
        Ok(Some((count, Taken { slot, id, count: descriptors })))
    }

    /// The chain that was published has the slot still, or the slot is free already.
    fn check_retired(&self, queue: usize, retiring: &Retiring) -> Result<(), Rule> {
        let base = slot_word(queue, retiring.slot);
        let [_, descriptors, ..] = quarters(self.load(base.saturating_add(SHAPE)));
        let number = self.load(base);
        let is_own = number == 0 || number & 0xffff == place_bits(queue, retiring.slot);
        let agrees = retiring.slot < SLOTS && is_own && descriptors == retiring.count;
        if agrees { Ok(()) } else { Err(Rule::Unfinished) }
    }

    fn queues(&self) -> usize {
        self.words.len() / QUEUE_WORDS
    }

    fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        if let Some(word) = self.words.get(word) {
            word.store(value, order);
        }
    }
}

fn setup(features: u64, record: &Record) -> [u64; SETUP_WORDS] {
    [features, record.size, record.descriptors, record.driver, record.device]
}

/// Where the first used chain of a queue goes.
fn first_place(features: u64) -> u16 {
    if features & crate::features::RING_PACKED != 0 { 1 << 15 } else { 0 }
}

fn queue_word(queue: usize, word: usize) -> usize {
    queue.saturating_mul(QUEUE_WORDS).saturating_add(word)
}

fn slot_word(queue: usize, slot: u16) -> usize {
    let word = usize::from(slot).saturating_mul(SLOT_WORDS).saturating_add(HEAD_WORDS);
    queue_word(queue, word).saturating_add(NUMBER)
}

/// What the low bits of a number say: where it stands, so that no two are the same.
fn place_bits(queue: usize, slot: u16) -> u64 {
    u64::try_from(queue).unwrap_or(0) << 8 | u64::from(slot)
}

fn shape(taken: &Taken, buffers: usize, readable: usize) -> Option<u64> {
    let buffers = u16::try_from(buffers).ok().filter(|count| usize::from(*count) <= BUFFERS_MAX)?;
    let readable = u16::try_from(readable).ok()?;
    let high = u64::from(readable) << 48 | u64::from(buffers) << 32;
    Some(high | u64::from(taken.count) << 16 | u64::from(taken.id))
}

fn quarters(word: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [[a, b], [c, d], [e, f], [g, h]].map(u16::from_le_bytes)
}
