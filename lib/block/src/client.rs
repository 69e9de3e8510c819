//! One client's disk: [`Client`], a virtio block device on a volume.
//!
//! It takes requests from the device's queues while it may (its share, its rate, room in the
//! engine), gives them to the engine with the volume's place added, and ends them in the ring.
//! A queue whose request is held stands still until it goes on; the others do not. When the monitor
//! resets the device, the requests in flight are orphaned, and the reset is answered when the last
//! of them is off the disk (DESIGN, "Quiesce order").
//! Invariant: requests of a client stay in its volume; none of its memory is touched after a reset
//! was answered.

use cloister_guestmem::{GuestPhys, Ram};
use cloister_virtio::block::{IDENTITY_BYTES, Kind, Parsed, Request as Wanted, Shape, Status};
use cloister_virtio::record::Stage;
use cloister_virtio::{Chain, Change, Device, Head, Rule};

use crate::bounce::Bounce;
use crate::disk::{Disk, Operation, Segment};
use crate::engine::{Engine, Finished, Held, Place, Progress};
use crate::rate::Rate;
use crate::request::{Request, SEGMENTS_MAX};
use crate::share::Sharing;

/// Queues of a device.
pub const QUEUES: usize = 4;
/// Buffers of a chain: the data, a header and a status.
pub const CHAIN_MAX: usize = SEGMENTS_MAX.saturating_add(2);
/// Most requests that a client begins in one turn.
const TURN_REQUESTS: u32 = 16;
/// Most bytes that it begins in one turn; the last request may go beyond.
const TURN_BYTES: u64 = 1 << 20;

/// A volume as its client gets it.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// First byte on the disk.
    pub offset: u64,
    /// What the guest sees.
    pub shape: Shape,
    /// Where the disk has the first byte of the client's memory; `None` if it may not reach it, so
    /// that everything goes through the driver's buffers.
    pub memory: Option<u64>,
    /// Its blocks are encrypted; the driver's buffers see to it.
    pub is_sealed: bool,
    /// What a request for the identity is answered with.
    pub identity: [u8; IDENTITY_BYTES],
}

/// What is kept of a request until it ends.
#[derive(Debug)]
pub struct Ticket {
    head: Head,
    /// Where the status goes.
    status: GuestPhys,
    /// Bytes that the device can write, status included.
    writable: u64,
}

/// What all clients of a disk work with.
pub(crate) struct Common<'s, D, B> {
    pub(crate) engine: &'s mut Engine<Ticket>,
    pub(crate) disk: &'s mut D,
    pub(crate) bounce: &'s mut B,
    pub(crate) chain: &'s mut Chain<CHAIN_MAX>,
    pub(crate) sharing: Sharing,
    /// Nanoseconds, for rates.
    pub(crate) now: u64,
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// They wait: the volume's key is not here yet.
    Waiting,
    /// Never: there is no key.
    Closed,
}

/// One client.
pub struct Client<'a, M> {
    device: Device<'a, M, QUEUES>,
    number: u8,
    volume: Volume,
    rate: Rate,
    /// One bit for each queue that may have something that was not looked at.
    due: u8,
    /// One bit for each queue whose driver may want to be interrupted.
    told: u8,
    /// One bit for each queue whose driver was asked to ring, with nothing fetched since.
    asked: u8,
    /// The queue that is looked at first.
    first: usize,
    held: [Option<Held>; QUEUES],
    /// One bit for each queue whose request is held.
    stuck: u8,
    /// What an earlier instance left is not all begun yet.
    is_adopting: bool,
    /// A reset waits until nothing is in flight.
    is_leaving: bool,
    gate: Gate,
}

const ALL_QUEUES: u8 = (1 << QUEUES) - 1;

fn bit(queue: usize) -> u8 {
    u32::try_from(queue).ok().and_then(|queue| 1u8.checked_shl(queue)).unwrap_or(0)
}

/// The queues of a set.
fn queues(mut set: u8) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let first = (set != 0).then_some(set.trailing_zeros())?;
        set &= set.wrapping_sub(1);
        usize::try_from(first).ok()
    })
}

impl<'a, M: Ram> Client<'a, M> {
    /// Serves a device. Its worker was made with what `shape` says; `number` is below
    /// [`crate::CLIENTS_MAX`] and nobody else's.
    pub fn new(device: Device<'a, M, QUEUES>, number: u8, volume: Volume, rate: Rate) -> Self {
        Client {
            device,
            number,
            volume,
            rate,
            due: 0,
            told: 0,
            asked: 0,
            first: 0,
            held: [const { None }; QUEUES],
            stuck: 0,
            is_adopting: false,
            is_leaving: false,
            gate: if volume.is_sealed { Gate::Waiting } else { Gate::Open },
        }
    }

    /// Begins to serve a sealed volume, whose key is here.
    pub fn open(&mut self) {
        self.gate = Gate::Open;
    }

    /// Gives up on the volume: the device needs a reset, again after each one.
    pub(crate) fn close<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) {
        self.gate = Gate::Closed;
        self.device.refuse();
        self.leave(common);
    }

    /// The device, for what is to be told to monitor and log.
    pub fn device(&mut self) -> &mut Device<'a, M, QUEUES> {
        &mut self.device
    }

    /// Whether the device has something for monitor or log.
    pub(crate) fn has_news(&self) -> bool {
        self.device.has_news()
    }

    /// Whether it has a rate.
    pub(crate) fn is_bounded(&self) -> bool {
        self.rate.is_bounded()
    }

    /// Looks for orders of the monitor and for the guest's doorbells.
    pub(crate) fn look<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) -> Change {
        let mut change = Change::None;
        if self.device.has_order() {
            if !self.is_leaving {
                self.leave(common);
                self.is_leaving = true;
            }
            if !common.engine.is_idle(self.number) {
                return Change::None;
            }
            self.is_leaving = false;
            change = self.device.follow();
            if matches!(change, Change::Live | Change::Adopted) {
                (self.due, self.asked) = (ALL_QUEUES, 0);
                self.is_adopting = change == Change::Adopted;
                if self.gate == Gate::Closed {
                    self.device.refuse();
                    (self.due, self.is_adopting) = (0, false);
                }
            }
        }
        self.due |= self.device.rings();
        change
    }

    /// Whether the client wants something of the disk, or has it.
    pub(crate) fn is_active(&self, engine: &Engine<Ticket>) -> bool {
        let has_work = self.due != 0 || self.is_adopting;
        (has_work && self.gate == Gate::Open) || !engine.is_idle(self.number)
    }

    /// The client's turn. Whether it may want another one at once.
    pub(crate) fn turn<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) -> bool {
        if self.is_leaving || self.gate != Gate::Open {
            return false;
        }
        self.resume(common);
        self.readopt(common);
        if self.due == 0 {
            return false;
        }
        let (mut requests, mut bytes) = (TURN_REQUESTS, TURN_BYTES);
        let mut queue = self.first;
        for _ in 0..QUEUES {
            while self.due & bit(queue) != 0 && self.may_begin(common, queue) {
                if requests == 0 || bytes == 0 {
                    self.first = queue;
                    return true;
                }
                let Some(head) = self.device.fetch(queue, common.chain) else {
                    self.due &= !bit(queue);
                    break;
                };
                self.asked &= !bit(queue);
                requests = requests.saturating_sub(1);
                bytes = bytes.saturating_sub(self.begin(common, queue, head));
                if requests == TURN_REQUESTS.saturating_sub(1) && !self.device.has_more(queue) {
                    // A single request: whether another one came meanwhile is seen before sleep.
                    self.due &= !bit(queue);
                }
            }
            queue = if queue.saturating_add(1) < QUEUES { queue.saturating_add(1) } else { 0 };
        }
        self.first = if queue.saturating_add(1) < QUEUES { queue.saturating_add(1) } else { 0 };
        false
    }

    /// The disk was told of everything that was begun.
    pub(crate) fn submitted(&self, engine: &Engine<Ticket>) {
        if !self.is_adopting {
            let is_idle = engine.is_idle(self.number);
            self.device.enter(if is_idle { Stage::Idle } else { Stage::Submitted });
        }
    }

    /// The moment from which on the client may go on, if only its rate keeps it.
    pub(crate) fn opens(&self, now: u64) -> Option<u64> {
        let opens = self.rate.opens();
        (self.due != 0 && opens > now).then_some(opens)
    }

    /// Ends a request in its ring.
    pub(crate) fn finished(&mut self, finished: Finished<Ticket>) {
        self.device.enter(Stage::Ended);
        let Ticket { head, status, writable } = finished.ticket;
        let outcome = if finished.is_ok { Status::Ok } else { Status::Error };
        self.end(usize::from(finished.place.queue), head, (status, writable), outcome);
    }

    /// Interrupts the drivers of queues that had requests end.
    pub(crate) fn interrupt(&mut self) {
        if self.told != 0 {
            let told = core::mem::take(&mut self.told);
            queues(told).for_each(|queue| self.device.interrupt(queue));
        }
    }

    /// Prepares for sleep: asks for doorbells. Whether there is something to do already.
    pub(crate) fn listen(&mut self) -> bool {
        let before = self.due;
        let silent = !(before | self.asked) & ALL_QUEUES;
        // What is left to be adopted, or to end, waits for the disk and not for the guest.
        if silent == 0 || self.is_adopting || self.is_leaving {
            return false;
        }
        for queue in queues(silent) {
            if self.device.listen(queue) {
                self.due |= bit(queue);
            } else {
                self.asked |= bit(queue);
            }
        }
        self.due != before
    }

    /// Lets go of everything in flight.
    fn leave<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) {
        common.engine.orphan(common.disk, common.bounce, self.number);
        self.held = [const { None }; QUEUES];
        (self.due, self.told, self.stuck, self.is_adopting) = (0, 0, 0, false);
    }

    fn fail<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>, rule: Rule) {
        self.device.fail(rule);
        self.leave(common);
    }

    /// Whether the next request of a queue may be begun.
    fn may_begin<D, B>(&self, common: &mut Common<'_, D, B>, queue: usize) -> bool {
        let (requests, bytes) = common.engine.load(self.number);
        self.stuck & bit(queue) == 0
            && common.sharing.admits(requests, bytes)
            && (!self.rate.is_bounded() || self.rate.opens() <= common.now)
            && common.engine.draft().is_some()
    }

    /// Goes on with what is held.
    fn resume<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) {
        if self.stuck == 0 {
            return;
        }
        for (queue, place) in self.held.iter_mut().enumerate() {
            let Some(held) = place.take() else { continue };
            match common.engine.resume(common.disk, common.bounce, held) {
                Progress::Held(held) => *place = Some(held),
                Progress::Begun => self.stuck &= !bit(queue),
            }
        }
    }

    /// Begins again what an earlier instance left, in its order.
    fn readopt<D: Disk, B: Bounce>(&mut self, common: &mut Common<'_, D, B>) {
        while self.is_adopting {
            if self.stuck != 0 || common.engine.draft().is_none() {
                return;
            }
            match self.device.readopt(common.chain) {
                Some((queue, head)) => {
                    self.begin(common, queue, head);
                }
                None => self.is_adopting = false,
            }
        }
    }

    /// Begins the request in the chain. Its bytes.
    fn begin<D: Disk, B: Bounce>(
        &mut self,
        common: &mut Common<'_, D, B>,
        queue: usize,
        head: Head,
    ) -> u64 {
        let (shape, features) = (&self.volume.shape, self.device.features());
        let wanted = Wanted::parse(self.device.ram(), common.chain, shape, features);
        let place = status_of(common.chain);
        let (wanted, (status, writable)) = match (wanted, place) {
            (Ok(wanted), Ok(place)) => (wanted, place),
            (Err(rule), _) | (_, Err(rule)) => {
                self.fail(common, rule);
                return 0;
            }
        };
        let wanted = match wanted {
            Parsed::Done(outcome) => {
                self.end(queue, head, (status, writable), outcome);
                return 0;
            }
            Parsed::Work(Wanted { kind: Kind::Identity, .. }) => {
                let outcome = match common.chain.write(self.device.ram(), 0, &self.volume.identity)
                {
                    Ok(_) => Status::Ok,
                    Err(_) => Status::Error,
                };
                self.end(queue, head, (status, writable), outcome);
                return 0;
            }
            Parsed::Work(wanted) => wanted,
        };
        let drafted =
            common.engine.draft().and_then(|draft| self.draft(draft, common.chain, &wanted));
        let Some(bytes) = drafted else {
            self.end(queue, head, (status, writable), Status::Error);
            return 0;
        };
        if self.rate.is_bounded() {
            self.rate.pay(common.now, bytes);
        }
        let place = Place { client: self.number, queue: u8::try_from(queue).unwrap_or(0) };
        let ticket = Ticket { head, status, writable };
        let progress = common.engine.begin(common.disk, common.bounce, place, ticket);
        if let (Progress::Held(held), Some(place)) = (progress, self.held.get_mut(queue)) {
            *place = Some(held);
            self.stuck |= bit(queue);
        }
        bytes
    }

    /// Writes a request down for the engine. Its bytes; `None` if it has too many pieces, or lies
    /// where no disk is.
    fn draft(&self, draft: &mut Request, chain: &Chain<CHAIN_MAX>, wanted: &Wanted) -> Option<u64> {
        let operation = match wanted.kind {
            Kind::Read => Operation::Read,
            Kind::Write => Operation::Write,
            Kind::Flush => Operation::Flush,
            Kind::Discard => Operation::Discard,
            Kind::WriteZeroes { .. } => Operation::Zero,
            Kind::Identity => return None,
        };
        let block_size = u64::from(self.volume.shape.block_size);
        let offset = wanted.block.checked_mul(block_size)?.checked_add(self.volume.offset)?;
        let len = u64::from(wanted.count).checked_mul(block_size)?;
        let is_sealed = self.volume.is_sealed;
        draft.renew(operation, offset, len, is_sealed || self.volume.memory.is_none());
        draft.is_sealed = is_sealed;
        if operation.moves_data() {
            let base = self.volume.memory.unwrap_or(0);
            for piece in wanted.data.pieces(chain, 0, len) {
                let address = piece.start().get().checked_add(base)?;
                draft.push(Segment { address, len: piece.len() })?;
            }
        }
        Some(len)
    }

    /// Writes a request's status and gives its chain back.
    fn end(
        &mut self,
        queue: usize,
        head: Head,
        (status, writable): (GuestPhys, u64),
        outcome: Status,
    ) {
        if self.device.ram().write_from(status, &[outcome.byte()]).is_err() {
            self.device.fail(Rule::BufferOutside);
            return;
        }
        // Of data that are missing the driver can rely on none.
        let is_whole = outcome == Status::Ok || writable == 1;
        let written = if is_whole { u32::try_from(writable).unwrap_or(u32::MAX) } else { 0 };
        self.device.complete(queue, head, written);
        self.told |= bit(queue);
    }
}

/// Where a chain's status goes, and how many bytes it has for the device.
fn status_of(chain: &Chain<CHAIN_MAX>) -> Result<(GuestPhys, u64), Rule> {
    let writable = chain.writable_len();
    let at = writable.checked_sub(1).ok_or(Rule::BlockStatus)?;
    let status = chain.writable(at, 1).next().ok_or(Rule::BlockStatus)?;
    Ok((status.start(), writable))
}
