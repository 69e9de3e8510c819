//! The broker: [`Broker`], from the guest's rings to the window's and back.
//!
//! Requests are taken while the window has room, in the order of their queues; one that finds no
//! room stops those behind it, so that none waits for ever. A reset of the guest's device is
//! answered when nothing is in flight in the window, or when the server has answered a reset of
//! the window. What a dead instance left is made again, in its order, after the window was reset.
//! Invariant: a request ends once, when its last part has, with the worst status of its parts.

use cloister_guest_abi::disk::{self, BLOCK, SECTOR, request};
use cloister_guestmem::{GuestPhys, Ram, Range};
use cloister_virtio::block::{Kind, Parsed, Request, Shape, Status};
use cloister_virtio::{Change, Device, Head};

use crate::link::{Geometry, Link, State};
use crate::ring::Body;
use crate::table::{Entry, Part, Table};
use crate::units::{Run, Units};

/// Queues of the guest's disk.
pub const QUEUES: usize = 4;
const _: () = assert!(disk::QUEUES == 4);
/// Most requests that are begun before completions are looked at again.
const TURN: u32 = 64;
/// A range may be given up, if it reads as zeroes then (virtio 1.3, "Block Device").
const UNMAP: u32 = 1;

const ALL_QUEUES: u8 = (1 << QUEUES) - 1;

/// What the guest sees of a disk: the same as without a broker.
pub fn shape(geometry: Geometry) -> Shape {
    Shape {
        blocks: geometry.blocks,
        block_size: u32::try_from(BLOCK).unwrap_or(u32::MAX),
        size_max: 0,
        seg_max: disk::SEGMENTS,
        has_topology: false,
        queues: disk::QUEUES,
        is_read_only: geometry.is_read_only,
        discard_blocks_max: disk::RANGE_BLOCKS,
        zeroes_blocks_max: disk::RANGE_BLOCKS,
    }
}

/// A disk between its guest and its driver.
#[derive(Debug)]
pub struct Broker<'a, M> {
    device: Device<'a, M, QUEUES>,
    link: Link<'a, M>,
    units: Units,
    table: &'a mut Table,
    shape: Shape,
    /// The entry that has parts to be made.
    sending: Option<usize>,
    /// One bit for each queue that may have something that was not looked at.
    due: u8,
    /// One bit for each queue whose driver may want to be interrupted.
    told: u8,
    /// One bit for each queue whose driver was asked to ring, with nothing fetched since.
    asked: u8,
    /// The queue that is looked at first.
    first: usize,
    /// What an earlier instance left is not all begun yet.
    is_adopting: bool,
    /// A reset waits until nothing is in flight.
    is_leaving: bool,
}

impl<'a, M: Ram> Broker<'a, M> {
    /// A broker between a device, whose worker was made with what `shape` says, and a link that has
    /// told its geometry.
    pub fn new(
        device: Device<'a, M, QUEUES>,
        (link, units): (Link<'a, M>, Units),
        shape: Shape,
        table: &'a mut Table,
    ) -> Self {
        table.clear();
        Broker {
            device,
            link,
            units,
            table,
            shape,
            sending: None,
            due: 0,
            told: 0,
            asked: 0,
            first: 0,
            is_adopting: false,
            is_leaving: false,
        }
    }

    /// The guest's device, for what is to be told to monitor and log.
    pub fn device(&mut self) -> &mut Device<'a, M, QUEUES> {
        &mut self.device
    }

    /// The window, for what is to be told to the server and log.
    pub fn link(&mut self) -> &mut Link<'a, M> {
        &mut self.link
    }

    /// Does what there is to do. Whether there may be more; if not, the caller sleeps until the
    /// monitor, the guest or the server signals.
    pub fn work(&mut self) -> bool {
        self.link.look();
        if self.device.has_order() && !self.is_leaving {
            // From here on the guest's memory is left alone.
            (self.is_leaving, self.is_adopting, self.sending) = (true, false, None);
        }
        self.collect();
        self.check();
        self.follow();
        let more = !self.is_leaving && self.send();
        self.link.ring();
        self.check();
        self.interrupt();
        more || self.listen()
    }

    /// Tells the guest of a window that was lost, and of a disk that has another size.
    fn check(&mut self) {
        if self.link.state() == State::Broken && self.has_queues() {
            self.device.refuse();
            self.forget();
        }
        if let Some(geometry) = self.link.geometry()
            && geometry.blocks != self.shape.blocks
        {
            self.shape.blocks = geometry.blocks;
            self.device.configure(&self.shape.config());
        }
    }

    /// Follows the monitor, when nothing of the old life can reach the disk any more.
    fn follow(&mut self) {
        if self.device.has_order() {
            if self.link.state() == State::Broken {
                self.link.reset();
            }
            if !self.link.is_quiet() {
                return;
            }
            self.is_leaving = false;
            self.forget();
        }
        let change = self.device.follow();
        if matches!(change, Change::Live | Change::Adopted) {
            (self.due, self.asked) = (ALL_QUEUES, 0);
            self.is_adopting = change == Change::Adopted;
            if self.link.state() != State::Live {
                self.device.refuse();
                self.forget();
            }
        }
        self.due |= self.device.rings();
    }

    /// Lets go of all requests. None is in flight, or none that is will ever be told.
    fn forget(&mut self) {
        self.table.clear();
        self.units.clear();
        (self.sending, self.is_adopting) = (None, false);
        (self.due, self.told) = (0, 0);
    }

    fn has_queues(&self) -> bool {
        (0..QUEUES).any(|queue| self.device.is_live(queue))
    }

    /// Takes what the server completed.
    fn collect(&mut self) {
        while let Some((slot, status)) = self.link.take() {
            let Some(part) = self.table.parts.get(slot).copied() else { return };
            self.units.give(part.run);
            let Some(entry) = self.table.entries.get_mut(part.entry) else { return };
            entry.parts = entry.parts.saturating_sub(1);
            let is_own = !self.is_leaving && self.device.is_live(entry.queue);
            match status {
                0 if is_own && entry.wanted.data.is_written => {
                    if copy_out(self.link.ram(), entry, &part, self.device.ram()).is_none() {
                        entry.outcome = Status::Error;
                    }
                }
                0 => {}
                2 if entry.outcome == Status::Ok => entry.outcome = Status::Unsupported,
                _ => entry.outcome = Status::Error,
            }
            if entry.parts == 0 && entry.is_sent() {
                if self.sending == Some(part.entry) {
                    self.sending = None;
                }
                self.end(part.entry, is_own);
            }
        }
    }

    /// Ends a request in its ring, if that is still there.
    fn end(&mut self, index: usize, is_own: bool) {
        self.table.release(index);
        let Some(entry) = self.table.entries.get_mut(index) else { return };
        let Some(head) = entry.head.take().filter(|_| is_own) else { return };
        match Request::finish(self.device.ram(), &entry.chain, entry.outcome) {
            Ok(written) => {
                self.told |= bit(entry.queue);
                self.device.complete(entry.queue, head, written);
            }
            Err(rule) => self.device.fail(rule),
        }
    }

    /// Takes requests of the guest while the window has room. Whether there may be more.
    fn send(&mut self) -> bool {
        for _ in 0..TURN {
            if let Some(index) = self.sending {
                if !self.send_parts(index) {
                    return false;
                }
                self.sending = None;
            }
            let Some(index) = self.table.vacant().filter(|_| self.link.vacant().is_some()) else {
                return false;
            };
            let Some((queue, head)) = self.fetch(index) else {
                return false;
            };
            self.begin(index, queue, head);
        }
        true
    }

    /// The next request, with its chain in the entry: what an earlier instance left, then what the
    /// queues have, one after the other.
    fn fetch(&mut self, index: usize) -> Option<(usize, Head)> {
        let entry = self.table.entries.get_mut(index)?;
        if self.is_adopting {
            let found = self.device.readopt(&mut entry.chain);
            self.is_adopting = found.is_some();
            if found.is_some() {
                return found;
            }
        }
        for _ in 0..QUEUES {
            let queue = self.first;
            if self.due & bit(queue) != 0 {
                if let Some(head) = self.device.fetch(queue, &mut entry.chain) {
                    self.asked &= !bit(queue);
                    return Some((queue, head));
                }
                self.due &= !bit(queue);
            }
            self.first = queue.saturating_add(1);
            if self.first >= QUEUES {
                self.first = 0;
            }
        }
        None
    }

    /// Begins the request whose chain is in the entry.
    fn begin(&mut self, index: usize, queue: usize, head: Head) {
        let features = self.device.features();
        let Some(entry) = self.table.entries.get_mut(index) else { return };
        match Request::parse(self.device.ram(), &entry.chain, &self.shape, features) {
            Ok(Parsed::Work(wanted)) => {
                (entry.queue, entry.head, entry.wanted) = (queue, Some(head), wanted);
                (entry.sent, entry.parts, entry.outcome) = (0, 0, Status::Ok);
                self.table.claim(index);
                self.sending = Some(index);
            }
            Ok(Parsed::Done(status)) => {
                (entry.queue, entry.head, entry.outcome) = (queue, Some(head), status);
                self.end(index, true);
            }
            Err(rule) => self.device.fail(rule),
        }
    }

    /// Makes parts of a request while there is room. Whether none is left to be made.
    fn send_parts(&mut self, index: usize) -> bool {
        let Some(entry) = self.table.entries.get_mut(index) else { return true };
        loop {
            let Some(slot) = self.link.vacant() else { return false };
            let left = entry.wanted.data.len.saturating_sub(entry.sent);
            let len = left.min(self.units.run_max());
            let run = match len {
                0 => Run::NONE,
                len => match self.units.take(len) {
                    Some(run) => run,
                    None => return false,
                },
            };
            let part = Part { entry: index, run, offset: entry.sent, len };
            if let Some(place) = self.table.parts.get_mut(slot) {
                *place = part;
            }
            let is_sent = !entry.wanted.data.is_written && len != 0;
            if is_sent && copy_in(self.device.ram(), entry, &part, self.link.ram()).is_none() {
                // Its buffers were found in RAM, so this does not happen; it is no data either.
                self.units.give(run);
                self.device.fail(cloister_virtio::Rule::BufferOutside);
                return true;
            }
            let (header, body) = wire_request(&entry.wanted, &part);
            entry.parts = entry.parts.saturating_add(1);
            entry.sent = entry.sent.saturating_add(len);
            self.link.put(slot, header, body);
            if entry.is_sent() {
                return true;
            }
        }
    }

    /// Interrupts the drivers of queues that had requests end.
    fn interrupt(&mut self) {
        let told = core::mem::take(&mut self.told);
        if told != 0 {
            for queue in (0..QUEUES).filter(|queue| told & bit(*queue) != 0) {
                self.device.interrupt(queue);
            }
        }
    }

    /// Prepares for sleep: asks for signals of guest and server. Whether there is something to do
    /// already.
    fn listen(&mut self) -> bool {
        let mut again = self.link.listen();
        // What waits for room, or leaves, waits for the server and not for the guest.
        let is_waiting = self.is_leaving || self.is_adopting || self.sending.is_some();
        let silent = !(self.due | self.asked) & ALL_QUEUES;
        if silent != 0 && !is_waiting {
            for queue in (0..QUEUES).filter(|queue| silent & bit(*queue) != 0) {
                if self.device.listen(queue) {
                    self.due |= bit(queue);
                    again = true;
                } else {
                    self.asked |= bit(queue);
                }
            }
        }
        again
    }
}

/// Copies a part's data from the guest into the window.
fn copy_in<M: Ram>(guest: &M, entry: &Entry, part: &Part, window: &M) -> Option<()> {
    let mut at = part.run.at;
    for piece in entry.wanted.data.pieces(&entry.chain, part.offset, part.len) {
        guest.copy_to(piece, window, GuestPhys::new(at)).ok()?;
        at = at.checked_add(piece.len())?;
    }
    Some(())
}

/// Copies a part's data from the window to the guest.
fn copy_out<M: Ram>(window: &M, entry: &Entry, part: &Part, guest: &M) -> Option<()> {
    let mut at = part.run.at;
    for piece in entry.wanted.data.pieces(&entry.chain, part.offset, part.len) {
        let from = Range::new(GuestPhys::new(at), piece.len())?;
        window.copy_to(from, guest, piece.start()).ok()?;
        at = from.end().get();
    }
    Some(())
}

/// A part as the window's ring has it: type and sector, and what stands behind them.
fn wire_request(wanted: &Request, part: &Part) -> ((u32, u64), Body) {
    let sectors = |blocks: u64| blocks.saturating_mul(BLOCK / SECTOR);
    let sector = sectors(wanted.block).saturating_add(part.offset / SECTOR);
    let count = u32::try_from(sectors(wanted.count.into())).unwrap_or(u32::MAX);
    let len = u32::try_from(part.len).unwrap_or(u32::MAX);
    let data = Body::Data { at: part.run.at, len, is_written: wanted.data.is_written };
    let range = |flags| Body::Range(sectors(wanted.block), count, flags);
    match wanted.kind {
        Kind::Read => ((request::READ, sector), data),
        Kind::Write => ((request::WRITE, sector), data),
        Kind::Identity => ((request::ID, 0), data),
        Kind::Flush => ((request::FLUSH, 0), Body::None),
        Kind::Discard => ((request::DISCARD, 0), range(0)),
        Kind::WriteZeroes { may_unmap } => {
            ((request::WRITE_ZEROES, 0), range(if may_unmap { UNMAP } else { 0 }))
        }
    }
}

fn bit(queue: usize) -> u8 {
    u32::try_from(queue).ok().and_then(|queue| 1u8.checked_shl(queue)).unwrap_or(0)
}
