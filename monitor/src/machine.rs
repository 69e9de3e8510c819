//! What the threads of a monitor share: one [`Machine`], which is words only.
//!
//! Neighbours: `posted` and `request` are its parts; `run` has a reference to it on every thread.
//! Invariant: a route is published before the guest runs, so no message misses a virtual CPU whose
//! thread is late.

use crate::apic::{Destination, Kind, Message, Route};
use crate::num::index;
use crate::posted::{INIT, NMI, Posted, STARTUP, STARTUP_PAGE};
use crate::request::Requests;
use crate::sync::{AtomicU64, Ordering};
use cloister_proto::vm::MAX_VCPUS;

/// Threads that are to be signalled: a bit each.
pub type Threads = u32;

/// The shared words of a virtual machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// What is wanted of each virtual CPU.
    pub posted: [Posted; MAX_VCPUS],
    /// What virtual CPUs want of thread 0.
    pub requests: Requests,
    /// What the guest's TSC is ahead of the machine's, on every virtual CPU.
    pub tsc_offset: AtomicU64,
}

impl Machine {
    /// A machine that has not started.
    #[cfg(not(loom))]
    pub const fn new() -> Machine {
        Machine {
            posted: [const { Posted::new() }; MAX_VCPUS],
            requests: Requests::new(),
            tsc_offset: AtomicU64::new(0),
        }
    }

    /// Before the guest's first instruction, on thread 0: its time starts at 0, and every virtual
    /// CPU can be addressed.
    pub fn start(&self, vcpus: usize, x2apic: bool, now: u64) {
        // Relaxed: others read it after a start-up message, which orders it.
        self.tsc_offset.store(now.wrapping_neg(), Ordering::Relaxed);
        for (posted, id) in self.posted.iter().zip(0u32..).take(vcpus) {
            let xapic = Route::xapic(id, 0, u32::MAX);
            posted.set_route(if x2apic { Route::x2apic(id) } else { xapic });
        }
    }

    /// What the guest's TSC is ahead of the machine's.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Relaxed)
    }

    /// Delivers a message. `sender` is the virtual CPU that sent it; devices are none. Returns the
    /// threads to be signalled.
    pub fn post(&self, message: &Message, sender: Option<usize>) -> Threads {
        let spared = if message.destination == Destination::Others { sender } else { None };
        // The id of a local APIC is its virtual CPU's number for ever: it means one at most.
        let (first, count) = match message.destination {
            Destination::Physical(id) => (index(id.into()), 1),
            _ => (0, MAX_VCPUS),
        };
        let mut meant: Threads = 0;
        for (number, posted) in self.posted.iter().enumerate().skip(first).take(count) {
            if Some(number) != spared && posted.route().matches(message.destination) {
                meant |= 1 << (number & 7);
            }
        }
        if let Kind::LowestPriority(vector) = message.kind {
            // "Lowest Priority Delivery Mode" leaves the choice to the platform. The vector
            // chooses, so that several sources spread over the targets and one stays at its own.
            let turn = u32::from(vector) & 7;
            let first = meant.wrapping_shr(turn) << turn;
            let chosen = if first != 0 { first } else { meant };
            meant = chosen & chosen.wrapping_neg();
        }
        let (mut signals, mut left) = (0, meant);
        while let Some(posted) = self.posted.get(index(left.trailing_zeros().into())) {
            let bit = left & left.wrapping_neg();
            left &= !bit;
            signals |= if deliver(posted, message) { bit } else { 0 };
        }
        signals
    }
}

/// Posts a message to one target. Whether to signal its owner.
fn deliver(posted: &Posted, message: &Message) -> bool {
    match message.kind {
        Kind::Fixed(vector) | Kind::LowestPriority(vector) => {
            posted.vector(vector, message.is_level)
        }
        Kind::Nmi => posted.event(NMI),
        Kind::Init => posted.event(INIT),
        Kind::Startup(page) => posted.event(STARTUP | u64::from(page) << STARTUP_PAGE),
        // There is no system management mode, and the 8259A is wired to LINT0 alone.
        Kind::Smi | Kind::ExtInt => false,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Machine;
    use crate::apic::{Destination, Kind, Message};
    use crate::posted::{INIT, STARTUP};

    fn machine(vcpus: usize) -> Machine {
        let machine = Machine::new();
        machine.start(vcpus, true, 1000);
        machine
    }

    fn fixed(destination: Destination) -> Message {
        Message { destination, kind: Kind::Fixed(0x51), is_level: false }
    }

    #[test]
    fn a_message_reaches_exactly_the_virtual_cpus_that_it_means() {
        let all_but_two = fixed(Destination::Others);
        for (message, sender, threads) in [
            (fixed(Destination::Physical(3)), Some(0), 0b1000),
            (fixed(Destination::Physical(4)), Some(0), 0),
            (fixed(Destination::Logical(0b0110)), Some(0), 0b0110),
            (fixed(Destination::All), Some(2), 0b1111),
            (all_but_two, Some(2), 0b1011),
            (all_but_two, None, 0b1111),
        ] {
            let machine = machine(4);
            assert_eq!(machine.post(&message, sender), threads, "{message:?}");
            for (number, posted) in machine.posted.iter().enumerate() {
                let vectors = posted.drain().map(|taken| taken.vectors);
                let expected = (threads >> number & 1 != 0).then_some([0, 1 << 0x11, 0, 0]);
                assert_eq!(vectors, expected, "{message:?} at {number}");
            }
        }
    }

    #[test]
    fn lowest_priority_reaches_one_of_those_meant() {
        for vector in 0x20..=0xff {
            let machine = machine(3);
            let kind = Kind::LowestPriority(vector);
            let destination = Destination::Logical(0b101);
            let threads = machine.post(&Message { destination, kind, is_level: false }, None);
            assert!(threads == 1 || threads == 4, "{vector:#x}: {threads:#b}");
        }
    }

    #[test]
    fn a_second_message_before_the_owner_looks_signals_nobody() {
        let machine = machine(2);
        let message = fixed(Destination::Physical(1));
        assert_eq!((machine.post(&message, None), machine.post(&message, None)), (2, 0));
        assert!(machine.posted[1].drain().is_some());
        assert_eq!(machine.post(&message, None), 2);
    }

    #[test]
    fn init_and_startup_arrive_in_the_order_that_counts() {
        let machine = machine(2);
        let to = |kind| Message { destination: Destination::Physical(1), kind, is_level: false };
        machine.post(&to(Kind::Startup(7)), None);
        machine.post(&to(Kind::Init), None);
        assert_eq!(machine.posted[1].drain().map(|taken| taken.events), Some(INIT));
        machine.post(&to(Kind::Init), None);
        machine.post(&to(Kind::Startup(0x99)), None);
        machine.post(&to(Kind::Startup(0x66)), None);
        let events = machine.posted[1].drain().map(|taken| taken.events);
        assert_eq!(events, Some(INIT | STARTUP | 0x9900));
    }

    #[test]
    fn the_guests_time_starts_at_zero() {
        let machine = machine(1);
        assert_eq!(1000u64.wrapping_add(machine.tsc_offset()), 0);
    }
}
