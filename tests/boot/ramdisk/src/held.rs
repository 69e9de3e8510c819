//! Requests that were fetched and are not carried out yet: [`Held`].

use cloister_virtio::{Chain, Head};

/// A request's buffers: as many as a guest may have.
pub type Buffers = Chain<{ cloister_guest_abi::disk::QUEUE_SIZE as usize }>;

/// How many are held back.
const MOST: usize = 8;

/// The requests, the newest last.
#[derive(Default)]
pub struct Held {
    all: [Option<(usize, Head, Buffers)>; MOST],
    len: usize,
    last: Buffers,
}

impl Held {
    /// No more fits.
    pub fn is_full(&self) -> bool {
        self.len == MOST
    }

    /// Holds a request of a queue.
    pub fn push(&mut self, queue: usize, head: Head, chain: Buffers) {
        if let Some(place) = self.all.get_mut(self.len) {
            *place = Some((queue, head, chain));
            self.len += 1;
        }
    }

    /// The newest.
    pub fn pop(&mut self) -> Option<(usize, Head, Buffers)> {
        self.len = self.len.checked_sub(1)?;
        self.all.get_mut(self.len)?.take()
    }

    /// The last request that was carried out.
    pub fn last(&self) -> &Buffers {
        &self.last
    }

    /// This is the last one.
    pub fn remember(&mut self, chain: &Buffers) {
        self.last.clone_from(chain);
    }

    /// There are none any more.
    pub fn forget(&mut self) {
        while self.pop().is_some() {}
    }
}
