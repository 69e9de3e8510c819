//! Requests in flight: [`Engine`] cuts them into commands and puts the results together.
//!
//! A client's request is drafted in the place where it stays ([`Engine::draft`]), then begun. What
//! cannot go on at once (the disk is busy, a write overlaps one in flight) is *held*: the queue it
//! came from waits for it, and [`Engine::resume`] tries again. A request that the disk cannot take
//! as it is goes through buffers of the driver ([`Bounce`]). [`Engine::orphan`] is for a client that
//! is reset: what is in flight ends without a word, and [`Engine::is_idle`] says when.
//!
//! Order: a write, discard or zeroing that overlaps one in flight waits for it, so that no block
//! ever gets an older content after a newer one, a second execution after a restart included. Reads
//! and such requests wait for each other as well: the guest's block may be larger than what the
//! disk does at once, and is never seen in part. Reads do not wait for reads, flushes for nothing.
//! Invariant: each request begun is finished once, or orphaned, and not while a command is out.

use crate::bounce::Bounce;
use crate::cut::{Cut, cut, fits};
use crate::disk::{Busy, Command, Disk, Limits, Operation, Outcome, PAGE, Segment, Tag};
use crate::request::Request;

/// Most requests in flight: there is a bit for each in a word.
pub const REQUESTS_MAX: usize = 128;
/// Most clients.
pub const CLIENTS_MAX: usize = 16;

/// Where a request came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the client, below [`CLIENTS_MAX`].
    pub client: u8,
    /// Number of its queue.
    pub queue: u8,
}

/// A request that waits until it can go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    slot: usize,
    generation: u32,
}

/// What became of a request that was begun.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is with the disk, or ended: a [`Finished`] will tell.
    Begun,
    /// It is to be resumed. Nothing behind it in its queue is begun before.
    Held(Held),
}

/// A request that ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished<T> {
    /// Where it came from.
    pub place: Place,
    /// What was given to [`Engine::begin`].
    pub ticket: T,
    /// What it was to do.
    pub operation: Operation,
    /// Its bytes.
    pub len: u64,
    /// Whether all of it was done.
    pub is_ok: bool,
}

#[derive(Clone, Copy)]
struct Bounced {
    buffer: u8,
    /// Where the buffer is.
    address: u64,
    at: u64,
    len: u64,
}

struct Slot<T> {
    request: Request,
    place: Place,
    generation: u32,
    /// `None` while the slot is free, and when the client is gone.
    ticket: Option<T>,
    /// Bytes for which commands were submitted; a flush counts as one.
    next: u64,
    /// Commands that are with the disk.
    outstanding: u16,
    bounced: Option<Bounced>,
    failed: bool,
}

impl<T> Slot<T> {
    const FREE: Slot<T> = Slot {
        // The first of its kind is all zeros, like everything here.
        request: Request::new(Operation::Read, 0, 0),
        place: Place { client: 0, queue: 0 },
        generation: 0,
        ticket: None,
        next: 0,
        outstanding: 0,
        bounced: None,
        failed: false,
    };

    /// What [`Slot::next`] is when all commands were submitted.
    fn total(&self) -> u64 {
        if self.request.operation == Operation::Flush { 1 } else { self.request.len }
    }

    fn is_submitted(&self) -> bool {
        self.failed || self.next >= self.total()
    }
}

/// What a client has in flight.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Slots in use.
    slots: u128,
    /// How many.
    count: usize,
    /// Those of them whose requests read or change blocks and have begun.
    begun: u128,
    /// Those of them that change blocks.
    changing: u128,
    bytes: u64,
}

/// All requests in flight; `T` is what belongs to one of them on the client's side.
pub struct Engine<T> {
    slots: [Slot<T>; REQUESTS_MAX],
    /// Slots with a request. Nothing in flight is all zeros, so that a static one costs no image.
    used: u128,
    /// Slots whose requests have ended and were not yet given out.
    ready: u128,
    /// Commands that the disk took; wraps.
    submitted: u32,
    loads: [Load; CLIENTS_MAX],
}

impl<T> Default for Engine<T> {
    fn default() -> Self {
        Engine::new()
    }
}

fn bit(slot: usize) -> u128 {
    u32::try_from(slot).ok().and_then(|slot| 1u128.checked_shl(slot)).unwrap_or(0)
}

fn first(set: u128) -> Option<usize> {
    let number = usize::try_from(set.trailing_zeros()).ok()?;
    (number < REQUESTS_MAX).then_some(number)
}

impl<T> Engine<T> {
    /// Nothing in flight.
    pub const fn new() -> Engine<T> {
        Engine {
            slots: [const { Slot::FREE }; REQUESTS_MAX],
            used: 0,
            ready: 0,
            submitted: 0,
            loads: [Load { slots: 0, count: 0, begun: 0, changing: 0, bytes: 0 }; CLIENTS_MAX],
        }
    }

    /// Where the next request is to be written; `None` if there is no room for one.
    pub fn draft(&mut self) -> Option<&mut Request> {
        let slot = self.slots.get_mut(first(!self.used)?)?;
        Some(&mut slot.request)
    }

    /// What a client has in flight: requests and bytes.
    pub fn load(&self, client: u8) -> (usize, u64) {
        let load = self.loads.get(usize::from(client));
        load.map_or((0, 0), |load| (load.count, load.bytes))
    }

    /// Whether nothing of a client is in flight.
    pub fn is_idle(&self, client: u8) -> bool {
        self.loads.get(usize::from(client)).is_none_or(|load| load.slots == 0)
    }

    /// How many commands went to the disk so far; wraps.
    pub(crate) fn submitted(&self) -> u32 {
        self.submitted
    }

    /// Whether a request has ended that was not given out.
    pub fn has_ready(&self) -> bool {
        self.ready != 0
    }

    /// Whether nothing of anybody is in flight.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether no command is with the disk. Requests that are held may be left.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| slot.outstanding == 0)
    }

    /// Begins the request that was drafted. Without a draft, nothing is done and nothing finished.
    pub fn begin<D: Disk, B: Bounce>(
        &mut self,
        disk: &mut D,
        bounce: &mut B,
        place: Place,
        ticket: T,
    ) -> Progress {
        let Some(index) = first(!self.used) else {
            return Progress::Begun;
        };
        let (Some(slot), Some(load)) =
            (self.slots.get_mut(index), self.loads.get_mut(usize::from(place.client)))
        else {
            return Progress::Begun;
        };
        self.used |= bit(index);
        slot.place = place;
        slot.ticket = Some(ticket);
        (slot.next, slot.outstanding, slot.bounced, slot.failed) = (0, 0, None, false);
        load.slots |= bit(index);
        load.count = load.count.saturating_add(1);
        load.bytes = load.bytes.saturating_add(slot.request.len);
        let generation = slot.generation;
        if self.push(disk, bounce, index) {
            Progress::Begun
        } else {
            Progress::Held(Held { slot: index, generation })
        }
    }

    /// Goes on with a request that was held; gives it back if it has to wait longer.
    pub fn resume<D: Disk, B: Bounce>(
        &mut self,
        disk: &mut D,
        bounce: &mut B,
        held: Held,
    ) -> Progress {
        let slot = self.slots.get(held.slot);
        let lives = slot.is_some_and(|slot| slot.generation == held.generation);
        if !lives || self.push(disk, bounce, held.slot) {
            Progress::Begun
        } else {
            Progress::Held(held)
        }
    }

    /// The next request that ended, if one did.
    pub fn poll<D: Disk, B: Bounce>(
        &mut self,
        disk: &mut D,
        bounce: &mut B,
    ) -> Option<Finished<T>> {
        loop {
            while self.ready != 0
                && let Some(index) = first(self.ready)
            {
                self.ready &= !bit(index);
                if let Some(finished) = self.finish(index) {
                    return Some(finished);
                }
            }
            let (tag, outcome) = disk.poll()?;
            self.answered(bounce, tag, outcome);
        }
    }

    /// Lets go of all requests of a client: none of them is given out any more.
    pub fn orphan<D: Disk, B: Bounce>(&mut self, disk: &mut D, bounce: &mut B, client: u8) {
        let Some(load) = self.loads.get(usize::from(client)) else {
            return;
        };
        let mut left = load.slots;
        while let Some(index) = first(left) {
            left &= !bit(index);
            let Some(slot) = self.slots.get_mut(index) else {
                return;
            };
            slot.ticket = None;
            slot.failed = true;
            if slot.outstanding == 0 {
                if let Some(Bounced { buffer, .. }) = slot.bounced.take() {
                    bounce.release(buffer);
                }
                self.ready &= !bit(index);
                self.finish(index);
            } else {
                let generation = slot.generation;
                disk.cancel(Tag { slot: small(index), generation, client });
            }
        }
    }

    /// Submits what is left of a request. Whether that was all.
    fn push<D: Disk, B: Bounce>(&mut self, disk: &mut D, bounce: &mut B, index: usize) -> bool {
        if !self.may_begin(index) {
            return false;
        }
        let Some(slot) = self.slots.get_mut(index) else {
            return true;
        };
        while !slot.is_submitted() {
            if submit(disk, bounce, small(index), slot) == Err(Busy) {
                return false;
            }
            self.submitted = self.submitted.wrapping_add(1);
        }
        if slot.outstanding == 0 {
            self.ready |= bit(index);
        }
        true
    }

    /// Whether no request in flight stands in the way of this one, which is then in the way of
    /// others.
    fn may_begin(&mut self, index: usize) -> bool {
        let Some(slot) = self.slots.get(index) else {
            return true;
        };
        let Some(load) = self.loads.get_mut(usize::from(slot.place.client)) else {
            return true;
        };
        let operation = slot.request.operation;
        if operation == Operation::Flush || load.begun & bit(index) != 0 {
            return true;
        }
        let mut others = if operation.changes() { load.begun } else { load.changing };
        while let Some(other) = first(others) {
            others &= !bit(other);
            if self.slots.get(other).is_some_and(|other| other.request.overlaps(&slot.request)) {
                return false;
            }
        }
        load.begun |= bit(index);
        if operation.changes() {
            load.changing |= bit(index);
        }
        true
    }

    fn answered<B: Bounce>(&mut self, bounce: &mut B, tag: Tag, outcome: Outcome) {
        let index = usize::from(tag.slot);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.generation != tag.generation || slot.outstanding == 0 {
            return;
        }
        slot.outstanding = slot.outstanding.saturating_sub(1);
        slot.failed |= outcome == Outcome::Failed;
        if let Some(Bounced { buffer, at, len, .. }) = slot.bounced.take() {
            if slot.request.operation == Operation::Read && !slot.failed {
                slot.failed = !bounce.drain(buffer, slot.place.client, &slot.request, at, len);
            }
            bounce.release(buffer);
        }
        if slot.outstanding == 0 && slot.is_submitted() {
            self.ready |= bit(index);
        }
    }

    /// Makes a slot free; what is to be said of its request, if its client is still there.
    fn finish(&mut self, index: usize) -> Option<Finished<T>> {
        let slot = self.slots.get_mut(index)?;
        slot.generation = slot.generation.wrapping_add(1);
        let load = self.loads.get_mut(usize::from(slot.place.client))?;
        load.slots &= !bit(index);
        load.count = load.count.saturating_sub(1);
        load.begun &= !bit(index);
        load.changing &= !bit(index);
        load.bytes = load.bytes.saturating_sub(slot.request.len);
        self.used &= !bit(index);
        Some(Finished {
            place: slot.place,
            ticket: slot.ticket.take()?,
            operation: slot.request.operation,
            len: slot.request.len,
            is_ok: !slot.failed,
        })
    }
}

/// A slot's number in a tag; all are below 128.
fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}

/// Submits the next command of a request, or notes that it needs none.
fn submit<T, D: Disk, B: Bounce>(
    disk: &mut D,
    bounce: &mut B,
    number: u8,
    slot: &mut Slot<T>,
) -> Result<(), Busy> {
    let limits = *disk.limits();
    let mut part = None;
    let Some(plan) = plan(bounce, slot, &limits, &mut part)? else {
        slot.next = u64::MAX;
        return Ok(());
    };
    let block_size = u64::from(limits.block_size);
    let blocks = plan.bytes.checked_div(block_size).and_then(|blocks| u32::try_from(blocks).ok());
    let at = slot.request.offset.saturating_add(slot.next);
    let (Some(block), Some(blocks)) = (at.checked_div(block_size), blocks) else {
        slot.failed = true;
        return Ok(());
    };
    if slot.failed || (blocks == 0 && plan.operation != Operation::Flush) {
        slot.failed = true;
        return Ok(());
    }
    let segments = match (&plan.memory, &part) {
        (Memory::Request, _) => slot.request.segments(),
        (Memory::Buffer(segment), _) => segment.as_slice(),
        (Memory::Part, Some(part)) => part.segments(),
        (Memory::Part, None) => &[],
    };
    let tag = Tag { slot: number, generation: slot.generation, client: slot.place.client };
    disk.submit(tag, &Command { operation: plan.operation, block, blocks, segments })?;
    slot.outstanding = slot.outstanding.saturating_add(1);
    slot.next = slot.next.saturating_add(plan.bytes.max(1));
    Ok(())
}

/// The next command of a request.
struct Plan {
    operation: Operation,
    bytes: u64,
    memory: Memory,
}

/// The memory of a command.
enum Memory {
    /// The request's, as it is.
    Request,
    /// The part of it, or of something else, that was cut; none if nothing was.
    Part,
    /// A buffer.
    Buffer([Segment; 1]),
}

impl Plan {
    /// A command whose memory is a buffer, as much of it as the disk takes.
    fn buffered(operation: Operation, buffer: Segment, limits: &Limits) -> Plan {
        let bytes = buffer.len.min(limits.bytes_max);
        let odd = bytes & u64::from(limits.block_size).wrapping_sub(1);
        let bytes = bytes.saturating_sub(odd);
        Plan { operation, bytes, memory: Memory::Buffer([Segment { len: bytes, ..buffer }]) }
    }
}

/// What the next command of a request is, with the memory in `part`; `None` if the disk has nothing
/// to do for it.
fn plan<T, B: Bounce>(
    bounce: &mut B,
    slot: &mut Slot<T>,
    limits: &Limits,
    part: &mut Option<Cut>,
) -> Result<Option<Plan>, Busy> {
    let left = slot.request.len.saturating_sub(slot.next);
    let plan = |operation, bytes| Ok(Some(Plan { operation, bytes, memory: Memory::Part }));
    match slot.request.operation {
        Operation::Flush if !limits.write_cache => Ok(None),
        Operation::Flush => plan(Operation::Flush, 0),
        // What a disk makes of discarded blocks would be decrypted to noise, and tells which blocks
        // are in use.
        Operation::Discard if slot.request.is_sealed || limits.discard_blocks_max == 0 => Ok(None),
        Operation::Discard => {
            plan(Operation::Discard, most(left, limits.discard_blocks_max, limits))
        }
        Operation::Zero if slot.request.is_sealed => {
            let segment = bounced(bounce, slot, left)?;
            Ok(Some(Plan::buffered(Operation::Write, segment, limits)))
        }
        Operation::Zero if limits.zero_blocks_max != 0 => {
            plan(Operation::Zero, most(left, limits.zero_blocks_max, limits))
        }
        Operation::Zero => {
            let page = Segment { address: bounce.zeros(), len: PAGE };
            let part = part.insert(Cut::repeat(page, left, limits));
            plan(Operation::Write, part.bytes)
        }
        operation if slot.bounced.is_some() || needs_bounce(slot, limits, part) => {
            let segment = bounced(bounce, slot, left)?;
            Ok(Some(Plan::buffered(operation, segment, limits)))
        }
        operation => match part {
            None => Ok(Some(Plan { operation, bytes: left, memory: Memory::Request })),
            Some(part) => plan(operation, part.bytes),
        },
    }
}

/// The bytes of the next command of a request that has no memory.
fn most(left: u64, blocks_max: u32, limits: &Limits) -> u64 {
    left.min(u64::from(blocks_max).saturating_mul(u64::from(limits.block_size)))
}

/// Whether the next part of a request has to go through a buffer. If not, `part` is that part,
/// unless the request can be given to the disk as it is.
fn needs_bounce<T>(slot: &Slot<T>, limits: &Limits, part: &mut Option<Cut>) -> bool {
    if slot.request.is_private {
        return true;
    }
    if slot.next == 0 && fits(slot.request.segments(), slot.request.len, limits) {
        return false;
    }
    part.insert(cut(slot.request.segments(), slot.next, limits)).bytes == 0
}

/// The buffer for the next part of a request, filled if it is to be written. Nothing else of the
/// request is with the disk meanwhile. A request whose memory cannot be read has failed.
fn bounced<T, B: Bounce>(bounce: &mut B, slot: &mut Slot<T>, left: u64) -> Result<Segment, Busy> {
    if slot.outstanding != 0 {
        return Err(Busy);
    }
    if let Some(Bounced { address, len, .. }) = slot.bounced {
        // The disk was busy when it was filled.
        return Ok(Segment { address, len });
    }
    let (buffer, whole) = bounce.take(left).ok_or(Busy)?;
    let (at, len) = (slot.next, whole.len.min(left));
    if slot.request.operation != Operation::Read
        && !bounce.fill(buffer, slot.place.client, &slot.request, at, len)
    {
        bounce.release(buffer);
        slot.failed = true;
        return Ok(Segment::default());
    }
    slot.bounced = Some(Bounced { buffer, address: whole.address, at, len });
    Ok(Segment { address: whole.address, len })
}
