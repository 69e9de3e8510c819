//! The kernel and the peers, as the run loop sees them: [`Kernel`] is its [`Host`].
//!
//! A thread waits for all bits that anybody sets in its word: the other threads', and on thread 0
//! the workers' and the console's. Neighbour: `devices` fills in the peers of thread 0.
//!
//! Invariant: a signal that the kernel refuses is one that the manifest's compiler forgot, which
//! the peers survive: whoever wakes looks at all words that it shares.

use crate::give_up;
use cloister_monitor::bus::{SIGNAL_CONSOLE, SIGNAL_WORKER};
use cloister_monitor::num::index;
use cloister_monitor::run::{Host, Ran};
use cloister_rt::abi::vcpu::VcpuState;
use cloister_rt::proto::stopped::STOPPED_CONFIG;
use cloister_rt::proto::vm::{MAX_VCPUS, MAX_VM_DEVICES};
use cloister_rt::{Bits, Deadline, Instant, Missing, Signal, Vcpu, Woken, grants};
use core::sync::atomic::AtomicU64;

/// The grants by which threads wake each other.
const THREADS: [&str; MAX_VCPUS] = [
    "thread/0", "thread/1", "thread/2", "thread/3", "thread/4", "thread/5", "thread/6", "thread/7",
];

/// What the kernel does for one thread.
pub struct Kernel {
    vcpu: Vcpu,
    mask: Bits,
    threads: [Option<Signal>; MAX_VCPUS],
    workers: [Option<Signal>; MAX_VM_DEVICES],
    console: Option<Signal>,
}

impl Kernel {
    /// For the thread of this number.
    pub fn new(number: usize) -> Kernel {
        let grants = grants();
        let vcpu = grants.vcpu(number).unwrap_or_else(|missing| refuse(missing));
        let own = THREADS.get(number).and_then(|name| grants.bit(name).ok());
        Kernel {
            vcpu,
            mask: own.unwrap_or(Bits::NONE),
            threads: THREADS.map(|name| grants.signal(name).ok()),
            workers: [const { None }; MAX_VM_DEVICES],
            console: None,
        }
    }

    /// Adds the worker of a device.
    pub fn add_worker(&mut self, device: usize, peer: Signal, bits: Bits) {
        self.mask |= bits;
        if let Some(place) = self.workers.get_mut(device) {
            *place = Some(peer);
        }
    }

    /// Adds the console.
    pub fn add_console(&mut self, peer: Signal, bits: Bits) {
        self.mask |= bits;
        self.console = Some(peer);
    }
}

/// Ends for a grant that is not there.
pub fn refuse(missing: Missing) -> ! {
    defmt::error!("{}: the image builder grants it to every monitor; build again", missing);
    give_up(STOPPED_CONFIG)
}

impl Host for Kernel {
    #[inline(always)]
    fn state(&mut self) -> &mut VcpuState {
        self.vcpu.state()
    }

    fn slots(&self) -> &[AtomicU64] {
        self.vcpu.slots().words()
    }

    #[inline(always)]
    fn run(&mut self, deadline: u64) -> Ran {
        match self.vcpu.run(self.mask, at(deadline)) {
            cloister_rt::Ran::Exit => Ran::Exit,
            cloister_rt::Ran::Bits(bits) => Ran::Bits(bits.word()),
            cloister_rt::Ran::Deadline => Ran::Deadline,
        }
    }

    fn wait(&mut self, deadline: u64) -> Ran {
        match cloister_rt::wait(self.mask, at(deadline)) {
            Woken::Bits(bits) => Ran::Bits(bits.word()),
            Woken::Deadline => Ran::Deadline,
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        Instant::now().tsc()
    }

    fn signal(&mut self, signals: u64) {
        if signals & SIGNAL_CONSOLE != 0
            && let Some(console) = &self.console
        {
            console.wake();
        }
        let workers = signals >> SIGNAL_WORKER;
        for (peers, bits) in [(&self.threads, signals), (&self.workers, workers)] {
            let mut left = bits & 0xff;
            while left != 0 {
                let number = index(u64::from(left.trailing_zeros()));
                left &= left.wrapping_sub(1);
                if let Some(Some(peer)) = peers.get(number) {
                    peer.wake();
                }
            }
        }
    }
}

/// A deadline in ticks; the last one there is means none, to the kernel as well.
#[inline(always)]
fn at(deadline: u64) -> Deadline {
    Deadline::At(Instant::from_tsc(deadline))
}
