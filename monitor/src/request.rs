//! How a guest's access reaches a device that belongs to thread 0: the thread of the virtual CPU
//! posts a [`Request`], signals thread 0 and waits for the answer.
//!
//! Each virtual CPU has one place in [`Requests`], which its thread fills and thread 0 empties; a
//! word of bits says which places are full. Neighbours: `bus` carries requests out, `run` asks and
//! serves. Threads wait for thread 0 only, and thread 0 for none of them, so no circle of waiters
//! can form.
//!
//! Invariant: a place changes hands by one atomic word ([`Place::turn`]) that is released by the
//! side that gives it away; nobody reads or writes the rest of a place out of turn.

use crate::num::{index, low8, low32};
use crate::sync::{AtomicU64, Ordering};
use cloister_proto::vm::MAX_VCPUS;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read a port; the address is its number.
    PortIn,
    /// Write a port.
    PortOut,
    /// Look at the 16 bytes of a device page that the address lies in.
    MemoryRead,
    /// Store 16 bytes into a device page, one register of which was written.
    MemoryWrite,
    /// A level-triggered interrupt is over; the address is its vector.
    EndOfInterrupt,
}

/// All of them, by their numbers in a place.
const OPS: [Op; 5] = [Op::PortIn, Op::PortOut, Op::MemoryRead, Op::MemoryWrite, Op::EndOfInterrupt];

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub op: Op,
    /// Where.
    pub address: u32,
    /// Bytes of a port access: 1, 2 or 4.
    pub width: u8,
    /// What is written.
    pub values: [u64; 2],
}

/// The place belongs to the virtual CPU's thread.
const MINE: u64 = 0;
/// The place holds a request.
const ASKED: u64 = 1;
/// The place holds an answer.
const ANSWERED: u64 = 2;

#[derive(Debug, Default)]
struct Place {
    turn: AtomicU64,
    call: AtomicU64,
    values: [AtomicU64; 2],
}

/// The requests of a virtual machine.
#[derive(Debug, Default)]
pub struct Requests {
    asked: AtomicU64,
    places: [Place; MAX_VCPUS],
}

impl Place {
    #[cfg(not(loom))]
    const fn new() -> Place {
        let values = [const { AtomicU64::new(0) }; 2];
        Place { turn: AtomicU64::new(MINE), call: AtomicU64::new(0), values }
    }

    fn store(&self, values: [u64; 2]) {
        for (word, value) in self.values.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> [u64; 2] {
        let [low, high] = &self.values;
        [low.load(Ordering::Relaxed), high.load(Ordering::Relaxed)]
    }
}

impl Requests {
    /// None asked.
    #[cfg(not(loom))]
    pub const fn new() -> Requests {
        Requests { asked: AtomicU64::new(0), places: [const { Place::new() }; MAX_VCPUS] }
    }

    /// Asks for a virtual CPU. Whether to signal thread 0.
    #[must_use]
    pub fn ask(&self, vcpu: usize, request: &Request) -> bool {
        let Some(place) = self.places.get(vcpu) else { return false };
        place.call.store(request.encode(), Ordering::Relaxed);
        place.store(request.values);
        place.turn.store(ASKED, Ordering::Relaxed);
        // Release: thread 0 finds the request when it takes the bit.
        self.asked.fetch_or(bit(vcpu), Ordering::Release) == 0
    }

    /// The answer to the virtual CPU's request, once.
    pub fn answer(&self, vcpu: usize) -> Option<[u64; 2]> {
        let place = self.places.get(vcpu)?;
        if place.turn.load(Ordering::Acquire) != ANSWERED {
            return None;
        }
        let values = place.load();
        place.turn.store(MINE, Ordering::Relaxed);
        Some(values)
    }

    /// Thread 0: the next request and whose it is. To be repeated until there is none: askers that
    /// find another's request waiting do not signal.
    pub fn next(&self) -> Option<(usize, Request)> {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked == 0 {
            return None;
        }
        let vcpu = index(u64::from(asked.trailing_zeros()));
        self.asked.fetch_and(!bit(vcpu), Ordering::Acquire);
        let place = self.places.get(vcpu)?;
        if place.turn.load(Ordering::Relaxed) != ASKED {
            return None;
        }
        let request = Request::decode(place.call.load(Ordering::Relaxed), place.load());
        Some((vcpu, request))
    }

    /// Thread 0: answers; the virtual CPU's thread is to be signalled.
    pub fn reply(&self, vcpu: usize, values: [u64; 2]) {
        if let Some(place) = self.places.get(vcpu) {
            place.store(values);
            place.turn.store(ANSWERED, Ordering::Release);
        }
    }
}

impl Request {
    fn encode(&self) -> u64 {
        let op = OPS.into_iter().zip(0u64..).find(|(op, _)| *op == self.op);
        u64::from(self.address) | u64::from(self.width) << 32 | op.map_or(0, |(_, n)| n) << 40
    }

    fn decode(call: u64, values: [u64; 2]) -> Request {
        let op = OPS.get(index(call >> 40)).copied().unwrap_or(Op::PortIn);
        Request { op, address: low32(call), width: low8(call >> 32), values }
    }
}

fn bit(vcpu: usize) -> u64 {
    1u64.rotate_left(u32::try_from(vcpu).unwrap_or(0))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{OPS, Op, Request, Requests};

    #[test]
    fn a_request_arrives_as_it_was_asked_and_its_answer_comes_once() {
        let requests = Requests::new();
        for (number, op) in OPS.into_iter().enumerate() {
            let vcpu = number + 1;
            let address = 0xfec0_0010 + number as u32;
            let request = Request { op, address, width: 4, values: [u64::MAX, 7] };
            assert!(requests.ask(vcpu, &request));
            assert_eq!(requests.answer(vcpu), None);
            assert_eq!(requests.next(), Some((vcpu, request)));
            assert_eq!(requests.next(), None);
            requests.reply(vcpu, [1, 2]);
            assert_eq!(requests.answer(vcpu), Some([1, 2]));
            assert_eq!(requests.answer(vcpu), None);
        }
    }

    #[test]
    fn only_the_first_of_several_askers_signals() {
        let requests = Requests::new();
        let request = Request { op: Op::PortIn, address: 0x3f8, width: 1, values: [0; 2] };
        assert!(requests.ask(3, &request));
        assert!(!requests.ask(7, &request));
        assert_eq!(requests.next(), Some((3, request)));
        assert!(!requests.ask(1, &request));
        assert_eq!(requests.next(), Some((1, request)));
        assert_eq!(requests.next(), Some((7, request)));
        assert_eq!(requests.next(), None);
    }

    #[test]
    fn a_virtual_cpu_that_does_not_exist_asks_nothing() {
        let requests = Requests::new();
        let request = Request { op: Op::PortIn, address: 0, width: 1, values: [0; 2] };
        assert!(!requests.ask(8, &request));
        assert_eq!((requests.next(), requests.answer(8)), (None, None));
    }
}
