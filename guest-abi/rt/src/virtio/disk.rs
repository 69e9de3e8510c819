//! A disk: several queues of a virtio block device, with as many requests in flight as they hold.
//!
//! [`Disk::submit`] takes a buffer away and [`Disk::poll`] gives it back, so nothing touches what
//! the device may be using. A doorbell rings when the device wants it ([`Disk::ring`]); who polls
//! says [`Disk::hush`], who sleeps calls [`Disk::wait`]. Rings and requests are
//! `cloister-guest-disk`'s; here are registers, vectors and memory.
//!
//! Invariant: a lent buffer comes back once, from a completion or after a reset.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use cloister_guest_abi::disk::{CONFIG_BYTES, QUEUE_SIZE, QUEUES, features};
use cloister_guest_disk::{Area, Data, Queue, RING_BYTES, SLOT_BYTES};
use virtio_drivers::transport::Transport;

use crate::virtio::transport::{Doorbell, IoTransport};
use crate::virtio::{Device, Failure};
use crate::{interrupts, memory, timer};

pub use cloister_guest_disk::{Fault, Geometry, Options, Refused, Request, Token};

/// Memory for one request's data.
pub type Buffer = &'static mut [u8];
/// A completed request.
pub type Done = cloister_guest_disk::Done<Buffer>;

/// Most queues.
const MOST: usize = QUEUES as usize;
/// Tries to read a configuration that changes while it is read.
const TRIES: usize = 100;

/// What a driver would like, as far as the device offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Features of rings: packed, indirect, event index.
    pub rings: u64,
    /// Queues.
    pub queues: usize,
    /// Most bytes of each buffer that data is cut into.
    pub cut: u32,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { rings: features::INDIRECT | features::EVENT_IDX, queues: MOST, cut: u32::MAX }
    }
}

/// A buffer that a device may use.
#[derive(Debug)]
struct Lent {
    at: NonNull<u8>,
    len: usize,
}

impl Lent {
    fn new(buffer: Buffer) -> Self {
        let len = buffer.len();
        Self { at: NonNull::from(buffer).cast(), len }
    }

    /// The buffer again, which the device has let go of.
    fn back(self) -> Buffer {
        // SAFETY: (1) pointer and length are those of the exclusive reference that `new` took,
        // whose memory lives for ever; (2) the value is consumed, so there is one reference again;
        // (3) the device, which alone used the memory since, has completed the request or was
        // reset: only then does a queue give the value out.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

/// One queue and its place in memory.
struct Place {
    queue: Queue<'static, Lent>,
    ring: &'static [AtomicU64],
    slots: &'static [AtomicU64],
    bell: Option<Doorbell>,
}

/// A disk.
pub struct Disk {
    transport: IoTransport,
    wanted: Wanted,
    accepted: u64,
    geometry: Geometry,
    places: [Option<&'static mut Place>; MOST],
}

impl Disk {
    /// Takes the device over; its queues interrupt vCPU 0 when they are asked to.
    pub fn open(device: Device, wanted: Wanted) -> Result<Self, Failure> {
        let mut transport = IoTransport::open(device)?;
        let accepted = negotiate(&mut transport, wanted)?;
        let geometry = geometry(&transport, accepted)?;
        let places = [const { None }; MOST];
        let mut disk = Self { transport, wanted, accepted, geometry, places };
        disk.start()?;
        Ok(disk)
    }

    /// What the disk says of itself.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How its queues are worked.
    pub fn options(&self) -> Options {
        Options::of(self.accepted, self.wanted.cut)
    }

    /// Number of queues in use.
    pub fn queues(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// The registers, for who looks behind the driver.
    pub fn transport(&mut self) -> &mut IoTransport {
        &mut self.transport
    }

    /// Where a queue has descriptors, driver area and device area.
    pub fn areas(&self, queue: usize) -> Option<[u64; 3]> {
        self.places.get(queue)?.as_deref().map(|place| place.queue.areas())
    }

    /// Makes a request, whose data are so many bytes of the buffer; [`Disk::ring`] tells the device
    /// of it. A queue that is not there is full.
    pub fn submit(
        &mut self,
        queue: usize,
        request: Request,
        data: Option<(Buffer, usize)>,
    ) -> Result<Token, (Refused, Option<Buffer>)> {
        let Some(place) = self.places.get_mut(queue).and_then(Option::as_deref_mut) else {
            return Err((Refused::Full, data.map(|(buffer, _)| buffer)));
        };
        let data = data.map(|(buffer, len)| {
            // More than there is cannot be lent: no request has this length.
            let len = u32::try_from(len).ok().filter(|_| len <= buffer.len()).unwrap_or(u32::MAX);
            let lent = Lent::new(buffer);
            Data { at: lent.at.as_ptr() as u64, len, buffer: lent }
        });
        let made = place.queue.submit(request, data);
        made.map_err(|(refused, lent)| (refused, lent.map(Lent::back)))
    }

    /// Rings a queue's doorbell if the device wants that.
    pub fn ring(&mut self, queue: usize) {
        if let Some(place) = self.places.get_mut(queue).and_then(Option::as_deref_mut)
            && place.queue.must_ring()
            && let Some(bell) = place.bell
        {
            bell.ring();
        }
    }

    /// The next completion of a queue.
    pub fn poll(&mut self, queue: usize) -> Result<Option<Done>, Failure> {
        let Some(place) = self.places.get_mut(queue).and_then(Option::as_deref_mut) else {
            return Ok(None);
        };
        let done = place.queue.poll()?;
        Ok(done.map(|done| Done {
            token: done.token,
            buffer: done.buffer.map(Lent::back),
            outcome: done.outcome,
        }))
    }

    /// Whether a completion waits in any queue.
    pub fn has_done(&self) -> bool {
        self.places.iter().flatten().any(|place| place.queue.has_done())
    }

    /// Asks for no interrupts: the caller polls.
    pub fn hush(&mut self) {
        self.places.iter_mut().flatten().for_each(|place| place.queue.hush());
    }

    /// Waits, asleep, until a completion waits in any queue. Interrupts are on afterwards.
    pub fn wait(&mut self) {
        if !self.listen() {
            interrupts::wait_until(|| self.has_done());
        }
        self.hush();
    }

    /// The same, but no longer than until the TSC has reached `end`; false if that came first.
    pub fn wait_until(&mut self, end: u64) -> bool {
        let is_done = self.listen() || timer::wait_until(end, || self.has_done());
        self.hush();
        is_done
    }

    fn listen(&mut self) -> bool {
        // Every queue is asked, also behind one that has something.
        self.places.iter_mut().flatten().fold(false, |any, place| place.queue.listen() | any)
    }

    /// Nothing, or why the device cannot go on.
    pub fn check(&self) -> Result<(), Failure> {
        self.transport.check()
    }

    /// Resets the device, which then uses no buffer any more, and gives those back that it had.
    pub fn reset(&mut self, mut back: impl FnMut(Buffer)) {
        self.transport.reset();
        for place in self.places.iter_mut().flatten() {
            while let Some(lent) = place.queue.abandon() {
                back(lent.back());
            }
        }
    }

    /// After a reset: takes the device over again, with the same wishes and the same memory.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.accepted = negotiate(&mut self.transport, self.wanted)?;
        self.start()
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.transport.interrupt_first_vcpu()?;
        let most = usize::from(self.geometry.queues).min(self.wanted.queues).min(MOST);
        for number in 0..most {
            let options = self.options();
            let place = self.places.get_mut(number).ok_or(Failure::NoMemory)?;
            match place {
                Some(place) => place.queue = queue(place.ring, place.slots, options)?,
                None => *place = Some(new_place(options)?),
            }
            let place = place.as_deref_mut().ok_or(Failure::NoMemory)?;
            set(&mut self.transport, number as u16, place)?;
        }
        self.transport.finish_init();
        self.transport.check()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The memory is never given back, but the device is to be at rest.
        self.transport.reset();
    }
}

/// Agrees on features; a disk with packed rings only where they were wanted.
fn negotiate(transport: &mut IoTransport, wanted: Wanted) -> Result<u64, Failure> {
    transport.negotiate(features::DISK | features::RO | wanted.rings & features::RINGS)
}

/// Reads the configuration as a whole.
fn geometry(transport: &IoTransport, accepted: u64) -> Result<Geometry, Failure> {
    for _ in 0..TRIES {
        let before = transport.read_config_generation();
        let config = transport.read_config_space::<[u8; CONFIG_BYTES]>(0)?;
        if transport.read_config_generation() == before {
            return Ok(Geometry::read(&config, accepted));
        }
    }
    Err(Failure::Layout("configuration that stays"))
}

/// A queue in memory that no device uses.
fn queue(
    ring: &'static [AtomicU64],
    slots: &'static [AtomicU64],
    options: Options,
) -> Result<Queue<'static, Lent>, Failure> {
    let [ring, slots] = [ring, slots].map(|words| Area::new(words.as_ptr() as u64, words));
    ring.clear();
    slots.clear();
    Queue::new(ring, slots, options).ok_or(Failure::NoMemory)
}

fn new_place(options: Options) -> Result<&'static mut Place, Failure> {
    let ring = memory::leak_words(RING_BYTES.div_ceil(memory::PAGE)).ok_or(Failure::NoMemory)?;
    let slots = memory::leak_words(SLOT_BYTES.div_ceil(memory::PAGE)).ok_or(Failure::NoMemory)?;
    let queue = queue(ring, slots, options)?;
    memory::leak(Place { queue, ring, slots, bell: None }).ok_or(Failure::NoMemory)
}

/// Tells the device of a queue, which interrupts through an entry of its own.
fn set(transport: &mut IoTransport, number: u16, place: &mut Place) -> Result<(), Failure> {
    if transport.max_queue_size(number) != u32::from(QUEUE_SIZE) {
        return Err(Failure::Layout("queue of the platform's size"));
    }
    let entry = number + 1;
    transport.table().route(entry, 0, transport.vector());
    transport.set_vector(Some(entry));
    let [descriptors, driver, device] = place.queue.areas();
    transport.queue_set(number, QUEUE_SIZE.into(), descriptors, driver, device);
    place.bell = transport.doorbell(number);
    Ok(())
}
