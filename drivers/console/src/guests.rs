//! The guests' consoles: one stream of bytes each way for every export with a client.
//!
//! The client is a virtual machine's monitor, and its name the virtual machine's. Guests are looked
//! at in turn and never waited for: what one does not read is lost once its stream is full.
//! Invariant: guest and lane of the terminal have the same index.

use cloister_console_core::Mux;
use cloister_ring::{Side, Stream};
use cloister_rt::abi::layout::MAX_VMS;
use cloister_rt::{Bits, Grants, Mailbox, generation};

use crate::uart::RECEIVE_MAX;

/// Bytes that are looked at in one go.
const CHUNK: usize = 64;

struct Guest {
    name: &'static str,
    mailbox: Mailbox,
    stream: Stream<'static>,
}

/// All guests.
#[derive(Default)]
pub struct Guests {
    all: [Option<Guest>; MAX_VMS],
}

impl Guests {
    /// Finds every guest, and gives each a lane of the terminal.
    pub fn find(&mut self, grants: Grants, mux: &mut Mux<'static>) {
        for (export, name, mailbox) in grants.clients() {
            let stream = match Stream::new(mailbox.memory.words(), Side::Server, generation()) {
                Ok(stream) => stream,
                Err(small) => {
                    defmt::error!("export {=str} has {=usize} words, too few", export, small.words);
                    continue;
                }
            };
            let Some(place) = mux.add(name).and_then(|index| self.all.get_mut(index)) else {
                defmt::error!("{=str} is one guest too many for this console", name);
                return;
            };
            // A monitor that waits for an earlier life of this task goes on.
            mailbox.peer.wake();
            *place = Some(Guest { name, mailbox, stream });
        }
    }

    fn guest(&mut self, vm: usize) -> Option<&mut Guest> {
        self.all.get_mut(vm).and_then(Option::as_mut)
    }

    /// Offers the terminal what the guests have written.
    pub fn feed(&mut self, mux: &mut Mux<'_>, now: u64) {
        for (vm, guest) in self.all.iter_mut().enumerate() {
            if let Some(guest) = guest {
                guest.feed(vm, mux, now);
            }
        }
    }

    /// Whether no guest has written anything that the terminal has not taken.
    pub fn is_empty(&self) -> bool {
        self.all.iter().flatten().all(|guest| guest.stream.pending() == 0)
    }

    /// Whether a guest has no room for all that the keyboard may bring at once.
    pub fn is_full(&self, vm: usize) -> bool {
        let guest = self.all.get(vm).and_then(Option::as_ref);
        guest.is_some_and(|guest| guest.stream.room() < RECEIVE_MAX)
    }

    /// Gives a guest a typed byte. `false`: it has no room, and the byte is lost.
    pub fn type_to(&mut self, vm: usize, byte: u8) -> bool {
        self.guest(vm).is_some_and(|guest| {
            let is_taken = guest.stream.write(&[byte]) == 1;
            guest.mailbox.peer.wake();
            is_taken
        })
    }

    /// The name of a guest.
    pub fn name(&self, vm: usize) -> Option<&'static str> {
        self.all.get(vm).and_then(Option::as_ref).map(|guest| guest.name)
    }

    /// What a guest's signal sets.
    pub fn bits(&self, vm: usize) -> Bits {
        self.all.get(vm).and_then(Option::as_ref).map_or(Bits::NONE, |guest| guest.mailbox.bits)
    }
}

impl Guest {
    fn feed(&mut self, vm: usize, mux: &mut Mux<'_>, now: u64) {
        if self.stream.is_peer_new() {
            mux.restarted(vm);
        }
        let mut total = 0;
        let mut chunk = [0; CHUNK];
        // The terminal takes a line at most, so this ends soon.
        loop {
            let count = self.stream.peek(&mut chunk);
            let taken = mux.feed(vm, chunk.get(..count).unwrap_or_default(), now);
            self.stream.take(taken);
            total += taken;
            if taken < CHUNK {
                break;
            }
        }
        if total > 0 {
            // It may wait for room.
            self.mailbox.peer.wake();
        }
    }
}
