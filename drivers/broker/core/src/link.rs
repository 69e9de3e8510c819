//! A window as its driver sees it: [`Link`], the page, the ring and the state of the device.
//!
//! To the task that works the ring it looks as a guest's disk does, so the page is that of
//! [`wire`] and this is its monitor's side: queues, then the order; a reset is done when it is
//! answered. Neighbours: [`Ring`] lies in the window, [`crate::Broker`] makes the requests.
//!
//! Invariant: the ring is laid only between an answered reset and the next live order, so no
//! request of an earlier instance of the broker is taken for one of this. What the server wrote is
//! read once and checked; after a broken rule nothing it writes counts until it has answered a
//! reset.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use cloister_guest_abi::disk::{BLOCK, SECTOR, features};
use cloister_guestmem::Ram;
use cloister_virtio::wire;

use crate::ring::{AREAS, Body, Broken, PAYLOAD, Ring, SIZE};
use crate::units::Units;

/// What the broker makes use of, and every disk of the platform offers.
const NEEDED: u64 =
    features::EVENT_IDX | features::FLUSH | features::DISCARD | features::WRITE_ZEROES;
const ACCEPTED: u64 = NEEDED | features::VERSION_1 | features::ACCESS_PLATFORM;
/// Words of the configuration that are looked at: the capacity.
const CAPACITY: usize = wire::CONFIG;

/// Why a window cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooSmall {
    /// The page has so many words.
    Page(usize),
    /// The window has so many bytes.
    Window(u64),
}

/// How things stand with the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A reset was ordered and is not answered.
    Resetting,
    /// Requests can be made.
    Live,
    /// The server gave up, or broke a rule of the ring: it needs a reset.
    Broken,
    /// The server answered the reset, and what it offers is no disk of this platform.
    Unfit,
}

/// Why a window was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server says that it cannot go on.
    GivenUp,
    /// The server broke a rule of the ring.
    Rule(Broken),
}

impl Loss {
    /// What happened, for a log.
    pub const fn text(self) -> &'static str {
        match self {
            Loss::GivenUp => "the disk's driver cannot go on",
            Loss::Rule(rule) => rule.text(),
        }
    }
}

/// What the disk says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub blocks: u64,
    /// It cannot be written.
    pub is_read_only: bool,
}

/// A window.
#[derive(Debug)]
pub struct Link<'a, M> {
    words: &'a [AtomicU64; wire::WORDS],
    ram: M,
    ring: Option<Ring>,
    /// The newest order. The word on the page is only written: the server could change it.
    order: u64,
    state: State,
    loss: Option<Loss>,
    geometry: Option<Geometry>,
    /// Generation of the configuration that was last read whole; an odd one before there is one.
    generation: u64,
    wake: bool,
}

impl<'a, M: Ram> Link<'a, M> {
    /// Takes the window over from whatever an earlier instance did with it: orders a reset. With
    /// it come the units of its payload.
    pub fn new(words: &'a [AtomicU64], ram: M) -> Result<(Link<'a, M>, Units), TooSmall> {
        let page = words.first_chunk().ok_or(TooSmall::Page(words.len()))?;
        let units = Units::new(PAYLOAD, ram.size()).ok_or(TooSmall::Window(ram.size()))?;
        let order = words.get(wire::ORDER).map_or(0, |word| word.load(Ordering::Relaxed));
        let mut link = Link {
            words: page,
            ram,
            ring: None,
            order,
            state: State::Broken,
            loss: None,
            geometry: None,
            generation: 1,
            wake: false,
        };
        link.reset();
        Ok((link, units))
    }

    /// How things stand.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the disk said of itself when it was last asked; `None` before its first answer.
    pub fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }

    /// The window's memory.
    pub fn ram(&self) -> &M {
        &self.ram
    }

    /// Whether the server has nothing in flight that could still be done: it has answered a reset,
    /// or has completed all that it was asked.
    pub fn is_quiet(&self) -> bool {
        match self.state {
            State::Live => self.ring.as_ref().is_none_or(Ring::is_idle),
            State::Unfit => true,
            State::Resetting | State::Broken => false,
        }
    }

    /// Orders a reset: what is in flight is done or not, and is not told.
    pub fn reset(&mut self) {
        (self.ring, self.state) = (None, State::Resetting);
        self.give_order(0);
    }

    /// Looks at what the server wrote on the page. Call it after each signal.
    pub fn look(&mut self) {
        let pending = self.word(wire::PENDING);
        if pending.load(Ordering::Relaxed) != 0 {
            // Taken before the ring is looked at: what is used later is signalled again.
            pending.swap(0, Ordering::Acquire);
        }
        match self.state {
            State::Resetting => {
                // Acquire: what the server did before its answer, it did before this.
                if self.word(wire::ANSWER).load(Ordering::Acquire) == self.order {
                    self.begin();
                }
            }
            State::Live => {
                if self.word(wire::BROKEN).load(Ordering::Relaxed) == self.order {
                    self.lose(Loss::GivenUp);
                }
                self.read_geometry();
            }
            State::Broken | State::Unfit => {}
        }
    }

    /// A slot for a request; `None` if all are in flight, or no request can be made.
    pub fn vacant(&self) -> Option<usize> {
        self.ring.as_ref()?.vacant()
    }

    /// Makes a request of a vacant slot. The server sees it when [`Link::ring`] says so, or before.
    pub fn put(&mut self, slot: usize, header: (u32, u64), body: Body) {
        if let Some(ring) = &mut self.ring
            && let Err(rule) = ring.put(&self.ram, slot, header, body)
        {
            self.lose(Loss::Rule(rule));
        }
    }

    /// Tells the server of what was put, if it wants to hear.
    pub fn ring(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        match ring.must_ring(&self.ram) {
            Ok(false) => {}
            Ok(true) => {
                // Release: who sees the count sees what was put before.
                self.word(wire::RINGS).fetch_add(1, Ordering::Release);
                self.wake = true;
            }
            Err(rule) => self.lose(Loss::Rule(rule)),
        }
    }

    /// The next request that the server completed: slot and status.
    pub fn take(&mut self) -> Option<(usize, u8)> {
        match self.ring.as_mut()?.take(&self.ram) {
            Ok(taken) => taken,
            Err(rule) => {
                self.lose(Loss::Rule(rule));
                None
            }
        }
    }

    /// Asks for a signal when something is completed; whether something is already. Call it before
    /// sleeping.
    pub fn listen(&mut self) -> bool {
        let Some(ring) = self.ring.as_mut().filter(|ring| !ring.is_idle()) else {
            return false;
        };
        match ring.listen(&self.ram) {
            Ok(is_there) => is_there,
            Err(rule) => {
                self.lose(Loss::Rule(rule));
                // The guest is to be told.
                true
            }
        }
    }

    /// Why the window was lost, once.
    pub fn take_loss(&mut self) -> Option<Loss> {
        self.loss.take()
    }

    /// Whether the server is to be signalled; asking clears it.
    pub fn take_wake(&mut self) -> bool {
        core::mem::take(&mut self.wake)
    }

    /// After an answered reset: begins a new life, if this is a disk that the guest may have.
    fn begin(&mut self) {
        self.generation = 1;
        if !self.read_geometry() {
            // It changes just now; the server signals when it is done.
            return;
        }
        let size = self.word(wire::QUEUE_SIZE).load(Ordering::Relaxed);
        let offers = self.word(wire::OFFERS).load(Ordering::Relaxed);
        if offers & NEEDED != NEEDED || size < u64::from(SIZE) {
            self.state = State::Unfit;
            return;
        }
        match Ring::lay(&self.ram) {
            Ok(ring) => self.ring = Some(ring),
            Err(rule) => return self.lose(Loss::Rule(rule)),
        }
        let [descriptors, driver, device] = AREAS;
        let first = [u64::from(SIZE), descriptors, driver, device];
        let queues =
            wire::QUEUES..wire::QUEUES.saturating_add(wire::QUEUES_MAX * wire::QUEUE_WORDS);
        for (place, value) in queues.zip(first.into_iter().chain(core::iter::repeat(0))) {
            self.word(place).store(value, Ordering::Relaxed);
        }
        self.word(wire::FEATURES).store(ACCEPTED, Ordering::Relaxed);
        self.state = State::Live;
        self.give_order(wire::LIVE);
    }

    fn lose(&mut self, loss: Loss) {
        (self.ring, self.state) = (None, State::Broken);
        self.loss = Some(loss);
    }

    /// Reads the configuration if there is a new one; whether the one that was last read is whole.
    fn read_geometry(&mut self) -> bool {
        let before = self.word(wire::CONFIG_GENERATION).load(Ordering::Acquire);
        if before == self.generation {
            return true;
        }
        if before & 1 != 0 {
            return false;
        }
        let sectors = self.word(CAPACITY).load(Ordering::Relaxed);
        let offers = self.word(wire::OFFERS).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if self.word(wire::CONFIG_GENERATION).load(Ordering::Relaxed) != before {
            return false;
        }
        self.generation = before;
        let is_read_only = offers & features::RO != 0;
        self.geometry = Some(Geometry { blocks: sectors / (BLOCK / SECTOR), is_read_only });
        true
    }

    /// Gives the next order of this kind.
    fn give_order(&mut self, kind: u64) {
        let next = self.order.wrapping_add(1);
        self.order = if next & wire::LIVE == kind { next } else { next.wrapping_add(1) };
        // Release: queues and ring were written before.
        self.word(wire::ORDER).store(self.order, Ordering::Release);
        self.wake = true;
    }

    fn word(&self, place: usize) -> &'a AtomicU64 {
        let [first, ..] = self.words;
        // All places are those of `wire`, which the array has.
        self.words.get(place).unwrap_or(first)
    }
}
