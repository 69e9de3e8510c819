//! The worker's end of the page that [`crate::wire`] describes.
//!
//! [`Worker`] reads orders, answers them, and reports used buffers; it also compares the doorbell
//! counters that the kernel writes with what it saw last. Neighbours: [`crate::Device`] puts queues
//! to it. Invariant: the monitor's words are read once and copied; whatever they are, the worker
//! writes only its own words.

use crate::queue::Record;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::wire;

/// Words that the counters of all queues are in: two in each, the first one maybe in an upper half.
const BELL_WORDS: usize = wire::QUEUES_MAX / 2 + 1;

/// The page has fewer words than the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Words that it has.
    pub words: usize,
}

/// What a device says of itself before it answers its first order.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Features, besides those that the transport offers.
    pub features: u64,
    /// Largest size of each queue, a power of two.
    pub queue_size: u16,
    /// The configuration space, at most 64 bytes.
    pub config: &'a [u8],
}

/// What the driver of a live device has set up. Nothing of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Features that the driver has accepted.
    pub features: u64,
    /// The queues.
    pub queues: [Record; wire::QUEUES_MAX],
}

/// What the monitor wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made; there is no heap")]
pub enum Order {
    /// Stop, and touch no guest page any more; then answer.
    Reset,
    /// Work these queues.
    Live(Setup),
}

/// The worker's end of a device's page.
#[derive(Debug)]
pub struct Worker<'a> {
    words: &'a [AtomicU64],
    bells: &'a [AtomicU64],
    first_bell: usize,
    /// Doorbell counters as they were last seen.
    seen: [u32; wire::QUEUES_MAX],
    /// The words of `bells` that hold them, and what they and the page's own counter were when
    /// [`Worker::rings`] last looked; `None` if it has to look at each counter.
    own_bells: &'a [AtomicU64],
    words_seen: [u64; BELL_WORDS],
    others_seen: Option<u32>,
    /// The order that was last taken from the page.
    order: u64,
}

impl<'a> Worker<'a> {
    /// The worker's end of the page in `words`. The counter of queue `q` is the 32-bit number
    /// `first_bell + q` in `bells`. A device that is live already was live under an earlier life of
    /// this worker, which took its place in the rings with it: the device needs a reset, and says
    /// so here.
    pub fn new(
        words: &'a [AtomicU64],
        bells: &'a [AtomicU64],
        first_bell: usize,
        offer: &Offer<'_>,
    ) -> Result<Worker<'a>, TooSmall> {
        let mut worker = Worker::at(words, bells, first_bell, offer)?;
        worker.write_config(offer.config);
        let order = worker.load(wire::ORDER, Ordering::Relaxed);
        if order & wire::LIVE != 0 {
            worker.order = order;
            worker.broken();
            worker.answer();
        }
        Ok(worker)
    }

    /// As [`Worker::new`], but a live order counts as a new one: for
    /// [`crate::Device::adopting`], which finds out whether it can be taken over. The driver of a
    /// live device sees a configuration that differs as a change.
    pub fn adopt(
        words: &'a [AtomicU64],
        bells: &'a [AtomicU64],
        first_bell: usize,
        offer: &Offer<'_>,
    ) -> Result<Worker<'a>, TooSmall> {
        let worker = Worker::at(words, bells, first_bell, offer)?;
        let is_changing = worker.load(wire::CONFIG_GENERATION, Ordering::Relaxed) & 1 != 0;
        let mut places = wire::CONFIG..wire::WORDS;
        let is_other = places.any(|place| {
            let at = place.saturating_sub(wire::CONFIG);
            worker.load(place, Ordering::Relaxed) != config_word(offer.config, at)
        });
        if is_changing || is_other {
            worker.configure(offer.config);
        }
        Ok(worker)
    }

    fn at(
        words: &'a [AtomicU64],
        bells: &'a [AtomicU64],
        first_bell: usize,
        offer: &Offer<'_>,
    ) -> Result<Worker<'a>, TooSmall> {
        let words = words.get(..wire::WORDS).ok_or(TooSmall { words: words.len() })?;
        let own_bells = bells.get(first_bell >> 1..).unwrap_or_default();
        let worker = Worker {
            words,
            bells,
            first_bell,
            seen: [0; wire::QUEUES_MAX],
            own_bells,
            words_seen: [0; BELL_WORDS],
            others_seen: None,
            order: 0,
        };
        worker.store(wire::GONE, 0, Ordering::Relaxed);
        worker.store(wire::OFFERS, offer.features, Ordering::Relaxed);
        worker.store(wire::QUEUE_SIZE, u64::from(offer.queue_size), Ordering::Relaxed);
        Ok(worker)
    }

    /// Whether there is an order that was not taken.
    pub fn has_order(&self) -> bool {
        self.load(wire::ORDER, Ordering::Relaxed) != self.order
    }

    /// The order, if it is a new one. Before a reset is answered, and before queues of a live order
    /// are worked, the caller lets go of all queues that it has.
    pub fn order(&mut self) -> Option<Order> {
        // Acquire: the queues were written before the order.
        let order = self.load(wire::ORDER, Ordering::Acquire);
        if order == self.order {
            return None;
        }
        if order & wire::LIVE == 0 {
            self.order = order;
            return Some(Order::Reset);
        }
        let setup = self.setup();
        // A monitor that changes its mind while it is read gives another order, and signals.
        fence(Ordering::Acquire);
        if self.load(wire::ORDER, Ordering::Relaxed) != order {
            return None;
        }
        self.order = order;
        for queue in 0..wire::QUEUES_MAX {
            self.rung(queue);
        }
        Some(Order::Live(setup))
    }

    /// The number of the order that was last taken: another one for each life of the device.
    pub fn life(&self) -> u64 {
        self.order
    }

    /// Says that the order which was last taken has been followed. The caller then signals.
    pub fn answer(&self) {
        if self.order & wire::LIVE == 0 {
            // No buffer of the old life needs an interrupt; a bit left over here would keep the
            // first one of the next life from being signalled.
            self.store(wire::PENDING, 0, Ordering::Relaxed);
        }
        // Release: every access to guest memory came before.
        self.store(wire::ANSWER, self.order, Ordering::Release);
    }

    /// Whether the order that was last taken was answered, now or by an earlier instance.
    pub(crate) fn is_answered(&self) -> bool {
        self.load(wire::ANSWER, Ordering::Relaxed) == self.order
    }

    /// Has [`Worker::rung`] say yes once for each queue: doorbells may have rung unheard.
    pub(crate) fn owe_rings(&mut self) {
        for seen in &mut self.seen {
            *seen = seen.wrapping_sub(1);
        }
        self.others_seen = None;
    }

    /// Says that the device cannot go on before it is reset. The caller then signals.
    pub fn broken(&self) {
        if self.order & wire::LIVE != 0 {
            self.store(wire::BROKEN, self.order, Ordering::Relaxed);
        }
    }

    /// Notes that a queue has used buffers for which the driver wants an interrupt. Whether the
    /// caller is to signal: if other bits are pending, a signal is on its way already.
    pub fn used(&self, queue: usize) -> bool {
        let bit = u32::try_from(queue).ok().and_then(|queue| 1u64.checked_shl(queue)).unwrap_or(0);
        // Release: whoever takes the bit sees what was put into the used ring.
        let pending = self.words.get(wire::PENDING);
        pending.is_some_and(|word| word.fetch_or(bit, Ordering::Release) == 0)
    }

    /// Whether the guest has rung the doorbell of a queue since the last call.
    pub fn rung(&mut self, queue: usize) -> bool {
        let now = self.bell(queue, self.others());
        let before = self.seen.get_mut(queue);
        before.is_some_and(|before| core::mem::replace(before, now) != now)
    }

    /// The same for the first `count` queues, a bit each.
    pub fn rings(&mut self, count: usize) -> u8 {
        let others = self.others();
        if !self.have_changed(others, count) {
            return 0;
        }
        let (mut rung, mut bit) = (0, 1u8);
        for queue in 0..count.min(wire::QUEUES_MAX) {
            let now = self.bell(queue, others);
            if let Some(before) = self.seen.get_mut(queue)
                && core::mem::replace(before, now) != now
            {
                rung |= bit;
            }
            bit = bit.wrapping_shl(1);
        }
        rung
    }

    /// Whether any counter of [`Worker::rings`] is another than when this was last asked. The words
    /// are looked at as they are: most looks find nothing.
    fn have_changed(&mut self, others: u32, count: usize) -> bool {
        let mut changed = self.others_seen.replace(others) != Some(others);
        let most = (count >> 1).saturating_add(1);
        for (before, word) in self.words_seen.iter_mut().zip(self.own_bells).take(most) {
            // Relaxed: a counter that is another is loaded again, and that load acquires.
            let now = word.load(Ordering::Relaxed);
            changed |= core::mem::replace(before, now) != now;
        }
        changed
    }

    /// Rings that came by way of the monitor, which ring every queue.
    fn others(&self) -> u32 {
        let [others, _] = halves(self.load(wire::RINGS, Ordering::Acquire));
        others
    }

    /// All rings of a queue so far.
    #[inline]
    fn bell(&self, queue: usize, others: u32) -> u32 {
        let bell = self.first_bell.saturating_add(queue);
        // Two counters share a word of the page. Acquire: what the guest wrote before is seen.
        let word = self.bells.get(bell >> 1).map_or(0, |word| word.load(Ordering::Acquire));
        let [low, high] = halves(word);
        others.wrapping_add(if bell & 1 == 0 { low } else { high })
    }

    /// Changes the configuration space. The caller then signals.
    pub fn configure(&self, config: &[u8]) {
        let before = self.load(wire::CONFIG_GENERATION, Ordering::Relaxed) & !1;
        self.store(wire::CONFIG_GENERATION, before.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees a new byte sees the odd generation as well.
        fence(Ordering::Release);
        self.write_config(config);
        self.store(wire::CONFIG_GENERATION, before.wrapping_add(2), Ordering::Release);
    }

    fn write_config(&self, config: &[u8]) {
        for (at, place) in (wire::CONFIG..wire::WORDS).enumerate() {
            self.store(place, config_word(config, at), Ordering::Relaxed);
        }
    }

    fn setup(&self) -> Setup {
        let mut queues = [Record::default(); wire::QUEUES_MAX];
        let records = self.words.get(wire::QUEUES..).unwrap_or_default();
        for (queue, words) in queues.iter_mut().zip(records.chunks(wire::QUEUE_WORDS)) {
            if let [size, descriptors, driver, device] = words {
                let [size, descriptors, driver, device] =
                    [size, descriptors, driver, device].map(|word| word.load(Ordering::Relaxed));
                *queue = Record { size, descriptors, driver, device };
            }
        }
        Setup { features: self.load(wire::FEATURES, Ordering::Relaxed), queues }
    }

    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(order))
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        if let Some(word) = self.words.get(word) {
            word.store(value, order);
        }
    }
}

/// The word of a configuration at a place; zeroes behind its end.
fn config_word(config: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let eight = config.chunks(8).nth(at).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(eight) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// The two 32-bit counters in a word, the lower address first.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
