//! One device as a worker holds it: the page, the guest's memory, the queues.
//!
//! [`Device`] puts [`Worker`] and [`Queue`]s together so that the order of things cannot be wrong:
//! queues are let go before a reset is answered, and made anew by a live order. A broken rule is
//! told to the monitor at once, and to the driver's code once, by [`Device::take_broken`]; between
//! that and the next reset the device has no queues, so all calls find nothing to do.
//!
//! Invariant: guest memory is touched only between a live order and the answer to the next reset.

use cloister_guestmem::Ram;

use crate::chain::Chain;
use crate::queue::{Head, Queue};
use crate::rule::Rule;
use crate::worker::{Order, Setup, Worker};

/// What [`Device::follow`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new.
    None,
    /// The device was reset: what was in flight is gone.
    Reset,
    /// The device is live, with new queues; the old ones, if there were any, are gone.
    Live,
}

/// A device with at most `Q` queues in the memory `M`.
#[derive(Debug)]
pub struct Device<'a, M, const Q: usize> {
    worker: Worker<'a>,
    ram: M,
    queue_size: u16,
    queues: [Option<Queue>; Q],
    broken: Option<Rule>,
    wake: bool,
}

impl<'a, M: Ram, const Q: usize> Device<'a, M, Q> {
    /// A device that waits for its first order. `queue_size` is the one that was offered.
    pub fn new(worker: Worker<'a>, ram: M, queue_size: u16) -> Self {
        // What `Worker::new` wrote is news to a monitor that waits for it.
        let queues = [const { None }; Q];
        Device { worker, ram, queue_size, queues, broken: None, wake: true }
    }

    /// The guest's memory.
    pub fn ram(&self) -> &M {
        &self.ram
    }

    /// Whether a queue is there to be worked.
    pub fn is_live(&self, queue: usize) -> bool {
        self.queues.get(queue).is_some_and(Option::is_some)
    }

    /// Follows the monitor's order, if there is a new one.
    pub fn follow(&mut self) -> Change {
        let Some(order) = self.worker.order() else {
            return Change::None;
        };
        self.let_go();
        self.wake = true;
        match order {
            Order::Reset => {
                self.broken = None;
                self.worker.answer();
                Change::Reset
            }
            Order::Live(setup) => {
                self.broken = None;
                if let Err(rule) = self.start(&setup) {
                    self.fail(rule);
                }
                self.worker.answer();
                Change::Live
            }
        }
    }

    /// Takes the next chain of a queue, if one is available.
    pub fn fetch<const N: usize>(&mut self, queue: usize, chain: &mut Chain<N>) -> Option<Head> {
        self.with(queue, |queue, ram| queue.fetch(ram, chain)).flatten()
    }

    /// Puts a chain into the used ring of a queue.
    pub fn complete(&mut self, queue: usize, head: Head, written: u32) {
        self.with(queue, |queue, ram| queue.complete(ram, head, written));
    }

    /// Has the driver interrupted for what was completed, if it wants that. Call it once for each
    /// queue after a round of work.
    pub fn interrupt(&mut self, queue: usize) {
        let wanted = self.with(queue, |queue, ram| queue.wants_interrupt(ram));
        if wanted == Some(true) && self.worker.used(queue) {
            self.wake = true;
        }
    }

    /// Asks for notifications of a queue; whether there is a chain already. Call it before
    /// sleeping, and do not sleep for want of a chain if there is one.
    pub fn listen(&mut self, queue: usize) -> bool {
        self.with(queue, |queue, ram| queue.listen(ram)).unwrap_or(false)
    }

    /// Whether the guest has rung a queue's doorbell since the last call.
    pub fn rung(&mut self, queue: usize) -> bool {
        self.worker.rung(queue)
    }

    /// Gives up on the device until it is reset, because its guest broke a rule.
    pub fn fail(&mut self, rule: Rule) {
        self.refuse();
        self.broken = Some(rule);
    }

    /// Gives up on the device until it is reset, for a reason that is not the guest's.
    pub fn refuse(&mut self) {
        self.let_go();
        self.worker.broken();
        self.wake = true;
    }

    /// The rule that the guest broke, once.
    pub fn take_broken(&mut self) -> Option<Rule> {
        self.broken.take()
    }

    /// Whether the monitor is to be signalled; asking clears it.
    pub fn take_wake(&mut self) -> bool {
        core::mem::take(&mut self.wake)
    }

    fn start(&mut self, setup: &Setup) -> Result<(), Rule> {
        let life = self.worker.life();
        for (queue, record) in self.queues.iter_mut().zip(&setup.queues) {
            if record.size != 0 {
                let made = Queue::new(record, setup.features, self.queue_size, life, &self.ram)?;
                *queue = Some(made);
            }
        }
        Ok(())
    }

    fn let_go(&mut self) {
        self.queues = [const { None }; Q];
    }

    fn with<T>(
        &mut self,
        queue: usize,
        work: impl FnOnce(&mut Queue, &M) -> Result<T, Rule>,
    ) -> Option<T> {
        let queue = self.queues.get_mut(queue)?.as_mut()?;
        match work(queue, &self.ram) {
            Ok(done) => Some(done),
            Err(rule) => {
                self.fail(rule);
                None
            }
        }
    }
}
