//! One device as a worker holds it: the page, the guest's memory, the queues, the records.
//!
//! [`Device`] puts [`Worker`] and [`Queue`]s together so that the order of things cannot be wrong:
//! queues are let go before a reset is answered, and made anew by a live order. A broken rule is
//! told to the monitor at once, and to the driver's code once, by [`Device::take_broken`]; between
//! that and the next reset the device has no queues, so all calls find nothing to do.
//!
//! A device that was made by [`Device::adopting`] keeps [`Records`] of what is in flight, so that a
//! new instance of the worker takes over its queues where an old one was killed.
//!
//! Invariants: guest memory is touched only between a live order and the answer to the next reset;
//! no new chain is fetched before [`Device::readopt`] has given all that an old instance left.

use cloister_guestmem::Ram;

use crate::chain::Chain;
use crate::queue::{Head, Queue};
use crate::record::{Records, Stage};
use crate::rule::Rule;
use crate::worker::{Order, Setup, TooSmall, Worker};

/// What [`Device::follow`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new.
    None,
    /// The device was reset: what was in flight is gone.
    Reset,
    /// The device is live, with new queues; the old ones, if there were any, are gone.
    Live,
    /// The device is live and was so under an earlier instance of this worker: its queues go on,
    /// and [`Device::readopt`] gives what is unfinished. Each queue counts as rung once more.
    Adopted,
}

/// A device with at most `Q` queues in the memory `M`.
#[derive(Debug)]
pub struct Device<'a, M, const Q: usize> {
    worker: Worker<'a>,
    ram: M,
    queue_size: u16,
    queues: [Option<Queue>; Q],
    /// Features that the driver has accepted.
    features: u64,
    records: Option<Records<'a>>,
    /// Chains that are to be given by [`Device::readopt`].
    unfinished: u32,
    /// The number of the last one that was.
    last: u64,
    /// What an earlier instance was doing when it died.
    found: Stage,
    /// Chains that it left, until somebody asks.
    legacy: Option<u32>,
    broken: Option<Rule>,
    wake: bool,
}

impl<'a, M: Ram, const Q: usize> Device<'a, M, Q> {
    /// A device that waits for its first order. `queue_size` is the one that was offered.
    pub fn new(worker: Worker<'a>, ram: M, queue_size: u16) -> Self {
        let queues = [const { None }; Q];
        Device {
            worker,
            ram,
            queue_size,
            queues,
            features: 0,
            records: None,
            unfinished: 0,
            last: 0,
            found: Stage::Idle,
            legacy: None,
            broken: None,
            // What `Worker::new` wrote is news to a monitor that waits for it.
            wake: true,
        }
    }

    /// A device that keeps records in `words` ([`crate::record::WORDS`] of them), which no restart
    /// wipes, and takes over what an earlier instance left there. The worker is one of
    /// [`Worker::adopt`]; queues have at most [`crate::record::SLOTS`] descriptors.
    pub fn adopting(
        worker: Worker<'a>,
        ram: M,
        queue_size: u16,
        words: &'a [crate::sync::AtomicU64],
    ) -> Result<Self, TooSmall> {
        let records = Records::new(words, Q)?;
        let found = records.stage();
        records.enter(Stage::Starting);
        let records = Some(records);
        let queue_size = queue_size.min(crate::record::SLOTS);
        Ok(Device { records, found, ..Device::new(worker, ram, queue_size) })
    }

    /// The guest's memory.
    pub fn ram(&self) -> &M {
        &self.ram
    }

    /// The features that the driver of the live device has accepted.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether a queue is there to be worked.
    pub fn is_live(&self, queue: usize) -> bool {
        self.queues.get(queue).is_some_and(Option::is_some)
    }

    /// Whether there is a new order to be followed. A device whose requests reach guest memory
    /// without the CPU waits until all of them have ended before it follows.
    pub fn has_order(&self) -> bool {
        self.worker.has_order()
    }

    /// Follows the monitor's order, if there is a new one.
    pub fn follow(&mut self) -> Change {
        let Some(order) = self.worker.order() else {
            return Change::None;
        };
        self.let_go();
        self.wake = true;
        self.broken = None;
        let change = match order {
            Order::Reset => {
                self.forget();
                Change::Reset
            }
            Order::Live(setup) => self.live(&setup),
        };
        self.worker.answer();
        change
    }

    /// After a take-over, once: what the earlier instance was doing when it died, and how many
    /// chains it left.
    pub fn take_legacy(&mut self) -> Option<(Stage, u32)> {
        self.legacy.take().map(|chains| (self.found, chains))
    }

    /// Writes down what the worker does from here on. Its own calls say so themselves; this is for
    /// what its backend does.
    pub fn enter(&self, stage: Stage) {
        if let Some(records) = &self.records {
            records.enter(stage);
        }
    }

    /// Takes the next chain of a queue, if one is available and nothing is left to be readopted.
    pub fn fetch<const N: usize>(&mut self, queue: usize, chain: &mut Chain<N>) -> Option<Head> {
        if self.unfinished != 0 {
            return None;
        }
        self.enter(Stage::Fetching);
        let Some(head) = self.with(queue, |queue, ram| queue.fetch(ram, chain)).flatten() else {
            self.enter(Stage::Submitted);
            return None;
        };
        let committed = match &mut self.records {
            Some(records) => records.commit(queue, &head.taken, chain),
            None => Ok(()),
        };
        match committed {
            Ok(()) => {
                self.enter(Stage::Committed);
                Some(head)
            }
            Err(rule) => {
                self.fail(rule);
                None
            }
        }
    }

    /// Whether a queue is known to have a chain that was not fetched, or may have one where only the
    /// ring tells. What came since the last look is not known.
    pub fn has_more(&self, queue: usize) -> bool {
        self.queues.get(queue).and_then(Option::as_ref).is_some_and(Queue::has_more)
    }

    /// The next chain that an earlier instance fetched and did not complete, and its queue: in the
    /// order in which they were fetched, over all queues. `None` when there are no more, and when
    /// the record does not fit in `chain` or is not what it was when the queues were taken over,
    /// which ends the device until it is reset.
    pub fn readopt<const N: usize>(&mut self, chain: &mut Chain<N>) -> Option<(usize, Head)> {
        if self.unfinished == 0 {
            return None;
        }
        match self.next_unfinished(chain) {
            Some(found) => {
                self.unfinished = self.unfinished.saturating_sub(1);
                Some(found)
            }
            None => {
                self.fail(Rule::Unfinished);
                None
            }
        }
    }

    /// Puts a chain into the used ring of a queue.
    pub fn complete(&mut self, number: usize, head: Head, written: u32) {
        let Some(Some(queue)) = self.queues.get_mut(number) else {
            return;
        };
        let records = self.records.as_ref().filter(|_| queue.owns(&head));
        let slot = head.slot();
        if let Some(records) = records {
            records.enter(Stage::Retiring);
            records.retire(number, &head.taken, queue.place());
        }
        if let Err(rule) = queue.complete(&self.ram, head, written) {
            self.fail(rule);
        } else if let Some(records) = records {
            records.retired(number, slot, queue.place());
            records.enter(Stage::Submitted);
        }
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
        let is_there = self.with(queue, |queue, ram| queue.listen(ram)).unwrap_or(false);
        is_there || self.unfinished != 0
    }

    /// Tells the driver of a queue that it need not notify for now.
    pub fn hush(&mut self, queue: usize) {
        self.with(queue, |queue, ram| queue.hush(ram));
    }

    /// Whether the guest has rung a queue's doorbell since the last call.
    pub fn rung(&mut self, queue: usize) -> bool {
        self.worker.rung(queue)
    }

    /// The same for all queues, a bit each.
    pub fn rings(&mut self) -> u8 {
        self.worker.rings(Q)
    }

    /// Gives up on the device until it is reset, because its guest broke a rule.
    pub fn fail(&mut self, rule: Rule) {
        self.refuse();
        self.broken = Some(rule);
    }

    /// Gives up on the device until it is reset, for a reason that is not the guest's.
    pub fn refuse(&mut self) {
        self.let_go();
        // The record goes first: what is left without one is never taken over.
        self.forget();
        self.worker.broken();
        self.wake = true;
    }

    /// Changes the configuration space: the driver sees a change.
    pub fn configure(&mut self, config: &[u8]) {
        self.worker.configure(config);
        self.wake = true;
    }

    /// Whether one of the next two, or [`Device::take_legacy`], has something.
    pub fn has_news(&self) -> bool {
        self.wake || self.broken.is_some() || self.legacy.is_some()
    }

    /// The rule that the guest broke, once.
    pub fn take_broken(&mut self) -> Option<Rule> {
        self.broken.take()
    }

    /// Whether the monitor is to be signalled; asking clears it.
    pub fn take_wake(&mut self) -> bool {
        core::mem::take(&mut self.wake)
    }

    /// Begins to work the queues of a live order, or goes on with them.
    fn live(&mut self, setup: &Setup) -> Change {
        self.features = setup.features;
        let life = self.worker.life();
        match self.records.as_ref().map(Records::life) {
            Some(of) if of == life => return self.adopt(setup),
            // An earlier instance worked these queues and left no record, or has given up.
            Some(_) if self.worker.is_answered() => {
                self.refuse();
                return Change::Live;
            }
            _ => {}
        }
        match self.make(setup) {
            Ok(()) => {
                if let Some(records) = &mut self.records {
                    records.begin(life, setup.features, &setup.queues);
                }
            }
            Err(rule) => self.fail(rule),
        }
        Change::Live
    }

    /// Takes over the queues of an earlier instance.
    fn adopt(&mut self, setup: &Setup) -> Change {
        self.enter(Stage::Adopting);
        let adopted = self.make(setup).and_then(|()| self.take_over(setup));
        match adopted {
            Ok(unfinished) => {
                (self.unfinished, self.last) = (unfinished, 0);
                self.legacy = Some(unfinished);
            }
            Err(rule) => {
                self.fail(rule);
                return Change::Live;
            }
        }
        // Neither doorbells nor interrupts of the time between are known: each is made good once.
        self.worker.owe_rings();
        for number in 0..Q {
            if self.is_live(number) {
                self.worker.used(number);
            }
        }
        Change::Adopted
    }

    fn take_over(&mut self, setup: &Setup) -> Result<u32, Rule> {
        let records = self.records.as_mut().ok_or(Rule::Unfinished)?;
        let mut unfinished = 0u32;
        for (number, (queue, record)) in self.queues.iter_mut().zip(&setup.queues).enumerate() {
            if let Some(queue) = queue {
                let of = (setup.features, record);
                let chains = records.take_over(number, queue, of, &self.ram)?;
                unfinished = unfinished.saturating_add(u32::from(chains));
            }
        }
        Ok(unfinished)
    }

    fn make(&mut self, setup: &Setup) -> Result<(), Rule> {
        let life = self.worker.life();
        for (queue, record) in self.queues.iter_mut().zip(&setup.queues) {
            if record.size != 0 {
                let made = Queue::new(record, setup.features, self.queue_size, life, &self.ram)?;
                *queue = Some(made);
            }
        }
        Ok(())
    }

    fn next_unfinished<const N: usize>(&mut self, chain: &mut Chain<N>) -> Option<(usize, Head)> {
        let records = self.records.as_ref()?;
        let sizes = self.queues.each_ref().map(|queue| queue.as_ref().map_or(0, Queue::size));
        let (number, place, slot) = records.after(self.last, &sizes)?;
        let queue = self.queues.get(place)?.as_ref()?;
        let (_, taken) = records.chain(place, slot, queue.size(), chain, &self.ram).ok()??;
        self.last = number;
        Some((place, queue.head_of(taken))).filter(|(_, head)| queue.owns(head))
    }

    fn let_go(&mut self) {
        self.queues = [const { None }; Q];
        self.unfinished = 0;
    }

    fn forget(&mut self) {
        if let Some(records) = &mut self.records {
            records.end();
        }
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
