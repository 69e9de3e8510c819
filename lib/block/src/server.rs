//! All clients of a disk: [`Server`].
//!
//! A round ends what the disk has done, looks for orders and doorbells, and gives each client a turn
//! of bounded size; the one that first got something of the disk in a round is last in the next. A
//! driver's `main` calls [`Server::round`] until there is nothing to do and then waits for signals.
//! Invariant: between two turns of a client every other one had one, so however much one asks for,
//! the others wait for one such turn each and for their share of the disk.

use cloister_guestmem::Ram;
use cloister_virtio::Chain;

use crate::bounce::Bounce;
use crate::client::{CHAIN_MAX, Client, Common, Ticket};
use crate::disk::Disk;
use crate::engine::{CLIENTS_MAX, Engine};
use crate::share::Sharing;

/// What a driver does after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round: there is something to do.
    Round,
    /// Wait for a signal, but no longer than until that moment.
    WaitUntil(u64),
    /// Wait for a signal.
    Wait,
}

/// The server of a disk.
pub struct Server<'a, M> {
    engine: &'a mut Engine<Ticket>,
    clients: [Option<Client<'a, M>>; CLIENTS_MAX],
    chain: Chain<CHAIN_MAX>,
    /// All clients have numbers below this.
    count: usize,
    first: usize,
    is_bounded: bool,
}

impl<'a, M: Ram> Server<'a, M> {
    /// A server without clients. The engine is large: tasks have a static one.
    pub fn new(engine: &'a mut Engine<Ticket>) -> Server<'a, M> {
        let clients = [const { None }; CLIENTS_MAX];
        Server { engine, clients, chain: Chain::default(), count: 0, first: 0, is_bounded: false }
    }

    /// Adds a client under the number that it was made with; `None` if there is no such number.
    pub fn add(&mut self, number: u8, client: Client<'a, M>) -> Option<()> {
        let place = self.clients.get_mut(usize::from(number))?;
        self.is_bounded |= client.is_bounded();
        self.count = self.count.max(usize::from(number).saturating_add(1));
        *place = Some(client);
        Some(())
    }

    /// A client, for what is to be told to monitor and log.
    pub fn client(&mut self, number: u8) -> Option<&mut Client<'a, M>> {
        self.clients.get_mut(usize::from(number))?.as_mut()
    }

    /// Gives up on a client's volume, of which there is no key (any more): its device needs a reset.
    pub fn close<D: Disk, B: Bounce>(&mut self, number: u8, disk: &mut D, bounce: &mut B) {
        let Server { engine, clients, chain, .. } = self;
        let sharing = Sharing::among(1);
        let mut common = Common { engine, disk, bounce, chain, sharing, now: 0 };
        if let Some(Some(client)) = clients.get_mut(usize::from(number)) {
            client.close(&mut common);
        }
    }

    /// Whether a client's device has something for monitor or log.
    pub fn has_news(&self) -> bool {
        self.clients.iter().take(self.count).flatten().any(Client::has_news)
    }

    /// The numbers of all clients are below this.
    pub fn numbers(&self) -> usize {
        self.count
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.engine.is_empty()
    }

    /// Ends what the disk has done, and begins nothing. Whether the disk has nothing of anybody.
    pub fn settle<D: Disk, B: Bounce>(&mut self, disk: &mut D, bounce: &mut B) -> bool {
        self.collect(disk, bounce);
        self.engine.is_settled()
    }

    /// Whether any client has a rate, so that rounds need the time.
    pub fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    /// Does what there is to do. `now` is in nanoseconds; without rates it may be any number.
    pub fn round<D: Disk, B: Bounce>(&mut self, disk: &mut D, bounce: &mut B, now: u64) -> Next {
        let ended = self.collect(disk, bounce);
        // One client has the disk to itself, whether it wants something or not.
        let sharing = if self.count > 1 { Sharing::among(self.active()) } else { Sharing::ALONE };
        let Server { engine, clients, chain, .. } = self;
        let mut common = Common { engine, disk, bounce, chain, sharing, now };
        let mut again = false;
        let (mut first, mut next) = (None, self.first);
        for _ in 0..self.count {
            let number = next;
            next = after(number, self.count);
            let Some(Some(client)) = clients.get_mut(number) else { continue };
            client.look(&mut common);
            let before = common.engine.submitted();
            again |= client.turn(&mut common);
            client.interrupt();
            if first.is_none() && common.engine.submitted() != before {
                first = Some(number);
            }
        }
        disk.ring();
        let clients = self.clients.iter().take(self.count).flatten();
        clients.for_each(|client| client.submitted(self.engine));
        // Who got something of the disk first is last in the next round.
        if let Some(first) = first {
            self.first = after(first, self.count);
        }
        // A disk that is ending requests may have ended more of them: each of those would be an
        // interrupt.
        again |= (ended && !self.engine.is_empty() || self.engine.has_ready())
            && self.collect(disk, bounce);
        if again || self.listen() {
            return Next::Round;
        }
        if !self.is_bounded {
            return Next::Wait;
        }
        let opens = self.clients.iter().flatten().filter_map(|client| client.opens(now));
        opens.min().map_or(Next::Wait, Next::WaitUntil)
    }

    /// How many clients want something of the disk, or have it.
    fn active(&self) -> usize {
        let clients = self.clients.iter().take(self.count).flatten();
        clients.filter(|client| client.is_active(self.engine)).count()
    }

    /// Ends what the disk has done. Whether there was something.
    fn collect<D: Disk, B: Bounce>(&mut self, disk: &mut D, bounce: &mut B) -> bool {
        let mut any = false;
        while let Some(finished) = self.engine.poll(disk, bounce) {
            any = true;
            let number = usize::from(finished.place.client);
            if let Some(Some(client)) = self.clients.get_mut(number) {
                client.finished(finished);
            }
        }
        if any {
            self.clients.iter_mut().take(self.count).flatten().for_each(Client::interrupt);
        }
        any
    }

    fn listen(&mut self) -> bool {
        let mut any = false;
        for client in self.clients.iter_mut().take(self.count).flatten() {
            any |= client.listen();
        }
        any
    }
}

/// The number behind one of so many, in a circle.
fn after(number: usize, count: usize) -> usize {
    let next = number.saturating_add(1);
    if next < count { next } else { 0 }
}
