//! One queue of a disk: [`Queue`], requests in flight by [`Token`].
//!
//! A request's number in the ring is its slot; the token has the slot's generation besides, so no
//! completion is taken for one of an earlier request. Buffers are the caller's own values `B`: a
//! queue keeps one while the device may use it and gives it back with the completion.

use core::fmt;

use cloister_guest_abi::disk::{QUEUE_SIZE, status};

use crate::area::Area;
use crate::request::{self, Request, SLOT_WORDS};
use crate::ring::{Options, Ring, SIZE_MAX};

/// Bytes of memory for a ring, aligned to 16.
pub const RING_BYTES: usize = 4096;
/// Bytes of memory for the requests of a queue, aligned to 16.
pub const SLOT_BYTES: usize = SIZE_MAX * SLOT_WORDS * 8;
const _: () = assert!(QUEUE_SIZE as usize == SIZE_MAX);

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    slot: u16,
    generation: u32,
}

impl Token {
    /// A number below the queue's size that no other request in flight has.
    pub fn slot(&self) -> usize {
        self.slot.into()
    }
}

/// A buffer, and where the device finds how many bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Data<B> {
    /// The buffer.
    pub buffer: B,
    /// Its address.
    pub at: u64,
    /// Its length.
    pub len: u32,
}

/// Why a request was not made. Its buffer comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Slots or descriptors are all in use; some come back with the next completion.
    Full,
    /// The data or the range does not fit the request.
    Malformed,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk could not do it.
    Io,
    /// The disk does not do such things.
    Unsupported,
}

/// A device that does not keep the rules; nothing it says counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More requests are completed than are in flight.
    TooMany(u16),
    /// A request is completed that is not in flight.
    NotInFlight(u32),
    /// More bytes are said to be written than there was room for.
    Length(u32),
    /// A status that there is not, or none was written.
    Status(u8),
}

/// A request that was completed.
#[derive(Debug, PartialEq, Eq)]
pub struct Done<B> {
    /// Which one.
    pub token: Token,
    /// Its buffer, if it had one.
    pub buffer: Option<B>,
    /// Whether it was done.
    pub outcome: Result<(), Fault>,
}

#[derive(Debug)]
struct Slot<B> {
    generation: u32,
    is_used: bool,
    buffer: Option<B>,
    /// Bytes that the device may write.
    writable: u32,
}

/// A queue.
#[derive(Debug)]
pub struct Queue<'m, B> {
    ring: Ring<'m>,
    memory: Area<'m>,
    options: Options,
    size: u16,
    slots: [Slot<B>; SIZE_MAX],
    free: [u16; SIZE_MAX],
    free_len: usize,
}

impl<'m, B> Queue<'m, B> {
    /// A queue of the platform's size in this memory, which is zero: [`RING_BYTES`] for the ring
    /// and [`SLOT_BYTES`] for requests. Nothing if that is too little.
    pub fn new(ring: Area<'m>, memory: Area<'m>, options: Options) -> Option<Self> {
        Self::with_size(QUEUE_SIZE, ring, memory, options)
    }

    /// The same with a smaller size, a power of two.
    pub fn with_size(
        size: u16,
        ring: Area<'m>,
        memory: Area<'m>,
        options: Options,
    ) -> Option<Self> {
        let is_size = size.is_power_of_two() && size <= QUEUE_SIZE;
        if !is_size || ring.bytes() < RING_BYTES || memory.bytes() < SLOT_BYTES {
            return None;
        }
        let mut free = [0; SIZE_MAX];
        for (place, slot) in free.iter_mut().zip((0..size).rev()) {
            *place = slot;
        }
        let ring = Ring::new(ring, size, &options);
        let slots =
            [const { Slot { generation: 0, is_used: false, buffer: None, writable: 0 } }; SIZE_MAX];
        Some(Self { ring, memory, options, size, slots, free, free_len: size.into() })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where descriptors, driver area and device area are.
    pub fn areas(&self) -> [u64; 3] {
        self.ring.areas()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        usize::from(self.size) - self.free_len
    }

    /// Makes a request. The device looks at it when the doorbell is rung, or before.
    pub fn submit(
        &mut self,
        request: Request,
        data: Option<Data<B>>,
    ) -> Result<Token, (Refused, Option<B>)> {
        let place = data.as_ref().map_or((0, 0), |data| (data.at, data.len));
        let buffer = data.map(|data| data.buffer);
        if !request.fits(place.1) {
            return Err((Refused::Malformed, buffer));
        }
        let Some(last) = self.free_len.checked_sub(1) else {
            return Err((Refused::Full, buffer));
        };
        let slot = self.free[last];
        let memory = self.slot(slot);
        let Some(pieces) = request.write(&memory, place, self.options.cut) else {
            return Err((Refused::Malformed, buffer));
        };
        let table = self.options.is_indirect.then(|| request::table(&memory));
        if !self.ring.put(slot, pieces.as_slice(), table) {
            return Err((Refused::Full, buffer));
        }
        self.free_len = last;
        let place = &mut self.slots[usize::from(slot)];
        place.is_used = true;
        place.buffer = buffer;
        place.writable = pieces.written();
        Ok(Token { slot, generation: place.generation })
    }

    /// Whether the doorbell is to be rung for the requests made since the last call.
    pub fn must_ring(&mut self) -> bool {
        self.ring.must_ring()
    }

    /// The next request that was completed.
    pub fn poll(&mut self) -> Result<Option<Done<B>>, Broken> {
        let Some((number, written)) = self.ring.take()? else {
            return Ok(None);
        };
        let outcome = match request::status(&self.slot(number)) {
            status::OK => Ok(()),
            status::IO_ERROR => Err(Fault::Io),
            status::UNSUPPORTED => Err(Fault::Unsupported),
            other => return Err(Broken::Status(other)),
        };
        let slot = &mut self.slots[usize::from(number)];
        // The rings know which numbers are in flight, so this is one.
        if !slot.is_used {
            return Err(Broken::NotInFlight(number.into()));
        }
        if written > slot.writable {
            return Err(Broken::Length(written));
        }
        let token = Token { slot: number, generation: slot.generation };
        slot.is_used = false;
        slot.generation = slot.generation.wrapping_add(1);
        let buffer = slot.buffer.take();
        self.free[self.free_len] = number;
        self.free_len += 1;
        Ok(Some(Done { token, buffer, outcome }))
    }

    /// Whether a request was completed that [`Queue::poll`] has not returned.
    pub fn has_done(&self) -> bool {
        self.ring.has_used()
    }

    /// Asks for an interrupt for the next completion; whether there is one already: then none may
    /// come for it.
    pub fn listen(&mut self) -> bool {
        self.ring.listen()
    }

    /// Asks for no interrupts; who polls needs none.
    pub fn hush(&mut self) {
        self.ring.hush();
    }

    /// The next buffer of a request in flight. The device has been reset: it uses them no more,
    /// and the queue is made anew before it is used again.
    pub fn abandon(&mut self) -> Option<B> {
        self.slots.iter_mut().find_map(|slot| slot.buffer.take())
    }

    fn slot(&self, number: u16) -> Area<'m> {
        self.memory.part(usize::from(number) * SLOT_WORDS * 8, SLOT_WORDS * 8)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TooMany(count) => {
                write!(f, "{count} requests are completed, more than in flight")
            }
            Self::NotInFlight(number) => {
                write!(f, "request {number} is completed and not in flight")
            }
            Self::Length(bytes) => write!(f, "{bytes} bytes are written, more than there is room"),
            Self::Status(status) => write!(f, "a request has the status {status:#x}"),
        }
    }
}
