//! The loop of a disk's driver: [`serve`].

use cloister_block::{
    Bounce, Buffers, Client, Disk, Engine, Next, Request, Seal, Segment, Server, Ticket,
};
use cloister_dma::{Memory as Accesses, Region};
use cloister_guestmem::GuestMemory;
use cloister_ring::pulse::Heart;
use cloister_rt::{Bits, Deadline, Duration, Grants, Instant, grants, wait};
use static_cell::ConstStaticCell;

use crate::erase::erase;
use crate::keys::{Answer, DATA_OFFSET, Keys, Refused};
use crate::open::{Opened, Owner, Spans, find, open};
use crate::own::Accessible;

/// Exit status: the manifest gives this task no client that it can serve.
pub const STATUS_NO_CLIENT: u32 = 1;
/// All requests in flight.
static ENGINE: ConstStaticCell<Engine<Ticket>> = ConstStaticCell::new(Engine::new());

/// The sign of life that the manifest's watchdog asks for.
#[derive(Clone, Copy)]
pub struct Pulse {
    heart: Option<Heart<'static>>,
    bits: Bits,
}

impl Pulse {
    /// Of this task; of one that is not watched, it does nothing.
    pub fn find(grants: Grants) -> Pulse {
        let found = grants.watchdog();
        let heart = found.and_then(|(page, bits)| Some((Heart::new(page.words())?, bits)));
        let (heart, bits) = heart.unzip();
        Pulse { heart, bits: bits.unwrap_or(Bits::NONE) }
    }

    /// What asks for a sign.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Gives one. Whoever waits for hardware does it each time that it looks.
    pub fn beat(&self) {
        if let Some(heart) = &self.heart {
            heart.beat();
        }
    }
}

/// How often the hardware is looked after while commands are in flight.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// A disk with its interrupts.
pub(crate) trait Hardware: Disk {
    /// What its interrupts set in the task's signal word.
    fn bits(&self) -> Bits;

    /// These interrupts came, and are masked until they are acknowledged.
    fn heard(&mut self, _: Bits) {}

    /// Unmasks the interrupts that came.
    fn acknowledge(&mut self, bits: Bits);

    /// Looks after the hardware: called once a second while commands are in flight, and at once
    /// when [`Hardware::is_sick`]. Resets it if that is needed.
    fn tick(&mut self);

    /// Whether it does not go on without [`Hardware::tick`].
    fn is_sick(&self) -> bool;
}

/// The driver's buffers; `S` is what seals volumes.
pub(crate) struct Memory<'m, S> {
    buffers: Buffers<&'m Region, GuestMemory, S>,
    region: &'m Region,
}

impl<'m, S: Seal> Memory<'m, S> {
    /// Buffers in the region from the offset `first` on, with a page of zeros at `zeros`.
    pub(crate) fn new(region: &'m Region, zeros: u64, first: u64) -> Memory<'m, S> {
        Memory { buffers: Buffers::new(region, zeros, first), region }
    }

    pub(crate) fn introduce(&mut self, client: u8, ram: GuestMemory, base: u64) {
        self.buffers.introduce(client, ram, base);
    }

    /// Forgets a client's cipher.
    pub(crate) fn unseal(&mut self, client: u8) {
        self.buffers.unseal(client);
    }
}

impl<S: Seal> Accessible for Memory<'_, S> {
    fn copy(&self, buffer: u8, bytes: &mut [u8]) -> Option<()> {
        self.region.read(self.buffers.place(buffer), bytes)
    }

    fn paste(&self, buffer: u8, bytes: &[u8]) -> Option<()> {
        self.region.write(self.buffers.place(buffer), bytes)
    }
}

impl<S: Seal> Bounce for Memory<'_, S> {
    fn zeros(&self) -> u64 {
        self.buffers.zeros()
    }

    fn take(&mut self, len: u64) -> Option<(u8, Segment)> {
        self.buffers.take(len)
    }

    fn fill(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        self.buffers.fill(buffer, client, request, at, len)
    }

    fn drain(&mut self, buffer: u8, client: u8, request: &Request, at: u64, len: u64) -> bool {
        self.buffers.drain(buffer, client, request, at, len)
    }

    fn release(&mut self, buffer: u8) {
        self.buffers.release(buffer);
    }
}

/// Nanoseconds since some moment, for what counts in them.
pub(crate) struct Nanoseconds;

impl Nanoseconds {
    /// Now.
    pub(crate) fn now() -> u64 {
        (Instant::now() - Instant::from_tsc(0)).as_nanos()
    }
}

/// Serves all clients of a disk, for ever. Returns only if there is none.
pub(crate) fn serve<H: Hardware, K: Keys>(
    hardware: &mut H,
    memory: &mut Memory<'_, K::Seal>,
    keys: &mut K,
) -> u32 {
    let pulse = Pulse::find(grants());
    // Before the loop's frame is there: both are large.
    let spans = find(grants(), hardware, memory, &pulse);
    serve_all(hardware, memory, keys, &spans, &pulse)
}

#[inline(never)]
fn serve_all<H: Hardware, K: Keys>(
    hardware: &mut H,
    memory: &mut Memory<'_, K::Seal>,
    keys: &mut K,
    spans: &Spans,
    pulse: &Pulse,
) -> u32 {
    let mut server = Server::new(ENGINE.take());
    let mut opened = open(grants(), hardware, spans, (memory, keys), &mut server);
    if !opened.is_any_served {
        defmt::error!("no client has a volume of this task; grant one an export");
        return STATUS_NO_CLIENT;
    }
    let mask = opened.bits | opened.news | hardware.bits() | pulse.bits();
    let mut next_tick = Instant::now() + TICK;
    let mut owed = Bits::NONE;
    loop {
        pulse.beat();
        if opened.is_waiting {
            // What an interrupt tells may have to be waited for.
            hardware.acknowledge(core::mem::replace(&mut owed, Bits::NONE));
            unlock(hardware, (memory, keys), &mut server, &mut opened, pulse);
        }
        let now = if server.is_bounded() { Nanoseconds::now() } else { 0 };
        let next = server.round(hardware, memory, now);
        if server.has_news() {
            tell(&mut server, &mut opened);
        }
        if next == Next::Round {
            continue;
        }
        // While others keep the disk busy there may be no quiet second: the clock decides.
        let is_idle = server.is_idle() && !opened.is_waiting;
        if hardware.is_sick() || (!is_idle && Instant::now() >= next_tick) {
            hardware.tick();
            next_tick = Instant::now() + TICK;
            continue;
        }
        let tick = if is_idle { Deadline::Never } else { Deadline::At(next_tick) };
        let deadline = match next {
            Next::WaitUntil(ns) => {
                let opens = Instant::now() + Duration::from_nanos(ns.saturating_sub(now));
                Deadline::At(if is_idle { opens } else { opens.min(next_tick) })
            }
            Next::Round | Next::Wait => tick,
        };
        // Interrupts stay masked while there is work: what ends meanwhile needs none, and what ended
        // since the last look sends one as soon as it may.
        if !owed.is_empty() {
            hardware.acknowledge(owed);
        }
        let woken = wait(mask, deadline).bits();
        opened.is_waiting |= woken.intersects(opened.news);
        owed = woken & hardware.bits();
        if !owed.is_empty() {
            hardware.heard(owed);
        }
    }
}

/// Opens the volumes whose keys have come, closes those that have none, and erases those that are to
/// be.
fn unlock<H: Hardware, K: Keys>(
    hardware: &mut H,
    (memory, keys): (&mut Memory<'_, K::Seal>, &mut K),
    server: &mut Server<'static, GuestMemory>,
    opened: &mut Opened,
    pulse: &Pulse,
) {
    opened.is_waiting = false;
    for volume in opened.sealed.iter().flatten() {
        let number = volume.number;
        match keys.step(number) {
            Answer::Known => {}
            Answer::Wait => opened.is_waiting = true,
            Answer::Open(seal) => {
                memory.buffers.seal(number, seal, volume.first.saturating_add(DATA_OFFSET));
                if let Some(client) = server.client(number) {
                    client.open();
                }
            }
            Answer::Closed(Refused) => {
                server.close(number, hardware, memory);
                // One more look: a header without slots needs no vault, but the vault may have an
                // order for who reads it, and learns of this life by that look alone.
                opened.is_waiting = true;
            }
            Answer::Erase => {
                let is_erased = erase(hardware, (memory, keys), server, volume, pulse).is_some();
                keys.erased(number, is_erased);
            }
        }
    }
}

/// Tells monitors and log what is new.
fn tell(server: &mut Server<'static, GuestMemory>, opened: &mut Opened) {
    for (number, owner) in (0u8..).zip(opened.owners.iter_mut().take(server.numbers())) {
        let Some(device) = server.client(number).map(Client::device) else { continue };
        let Some(owner) = owner.as_mut().filter(|_| device.has_news()) else { continue };
        if let Some(rule) = device.take_broken() {
            report(owner, rule.text());
        }
        if let Some((stage, chains)) = device.take_legacy() {
            defmt::info!(
                "{=str}: the life before died {=str}; it left {=u32} requests",
                owner.name,
                stage.text(),
                chains
            );
        }
        if device.take_wake() {
            owner.mailbox.peer.wake();
        }
    }
}

fn report(owner: &mut Owner, rule: &str) {
    owner.broken = owner.broken.saturating_add(1);
    // A guest that does this on purpose does it again and again.
    if owner.broken.is_power_of_two() {
        defmt::warn!(
            "{=str}: {=str} ({=u32} so far); the device needs a reset",
            owner.name,
            rule,
            owner.broken
        );
    }
}
