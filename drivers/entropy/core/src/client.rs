//! One guest's entropy device (virtio 1.3, "Entropy Device"): [`Client`].
//!
//! Guests take turns. In one turn a guest gets at most [`TURN_BYTES`] bytes and has at most
//! [`TURN_REQUESTS`] requests answered, so however much one asks for, the others wait for one such
//! turn each. A request for more than what is left of a turn gets less, as the device may.

use cloister_guestmem::Ram;
use cloister_virtio::{Chain, Change, Device, Offer, Rule, features};

use crate::pool::Pool;

/// Most bytes in a turn.
pub const TURN_BYTES: usize = 4096;
/// Most requests in a turn.
pub const TURN_REQUESTS: usize = 16;
/// Descriptors of the queue.
pub const QUEUE_SIZE: u16 = 64;
const QUEUE_LEN: usize = 64;

/// What the device offers: no features and no configuration of its own.
pub const OFFER: Offer<'static> =
    Offer { features: features::RINGS, queue_size: QUEUE_SIZE, config: &[] };

/// `requestq`.
const REQUESTS: usize = 0;
/// Bytes that are made at a time.
const BLOCK: usize = 256;

/// A guest's entropy device.
pub struct Client<'a, M> {
    device: Device<'a, M, 1>,
    /// Whether the queue may have something that was not looked at.
    is_due: bool,
}

impl<'a, M: Ram> Client<'a, M> {
    /// Serves a device; its worker was made with [`OFFER`].
    pub fn new(device: Device<'a, M, 1>) -> Self {
        Client { device, is_due: false }
    }

    /// Looks for orders of the monitor and for the guest's doorbell. Without a seeded pool the
    /// device refuses to go live: a guest without it is better off than one that is given zeros.
    pub fn look(&mut self, pool: &Pool) -> Change {
        let change = self.device.follow();
        if change == Change::Live && !pool.is_seeded() {
            self.device.refuse();
        }
        self.is_due |= change == Change::Live;
        self.is_due |= self.device.rung(REQUESTS);
        change
    }

    /// The guest's turn. Whether it may want another one.
    pub fn turn(&mut self, pool: &mut Pool, chain: &mut Chain<QUEUE_LEN>) -> bool {
        if !self.is_due {
            return false;
        }
        let mut left = TURN_BYTES;
        let mut requests = TURN_REQUESTS;
        self.is_due = loop {
            if left == 0 || requests == 0 {
                break true;
            }
            let Some(head) = self.device.fetch(REQUESTS, chain) else {
                break false;
            };
            if chain.readable_len() != 0 {
                self.device.fail(Rule::Direction);
                break false;
            }
            match fill(chain, self.device.ram(), pool, left) {
                Ok(given) => {
                    self.device.complete(REQUESTS, head, u32::try_from(given).unwrap_or(0));
                    left = left.saturating_sub(given);
                }
                Err(rule) => self.device.fail(rule),
            }
            requests = requests.saturating_sub(1);
        };
        self.device.interrupt(REQUESTS);
        self.is_due
    }

    /// Prepares for sleep: asks for the doorbell. Whether there is something to do already.
    pub fn listen(&mut self) -> bool {
        self.is_due |= self.device.listen(REQUESTS);
        self.is_due
    }

    /// The device, for what is to be told to monitor and log.
    pub fn device(&mut self) -> &mut Device<'a, M, 1> {
        &mut self.device
    }
}

/// Fills the buffers of a request with at most `most` bytes. How many.
fn fill<M: Ram>(
    chain: &Chain<QUEUE_LEN>,
    ram: &M,
    pool: &mut Pool,
    most: usize,
) -> Result<usize, Rule> {
    let wanted = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX).min(most);
    let mut block = [0; BLOCK];
    let mut given = 0usize;
    while given < wanted {
        let now = block.get_mut(..wanted.saturating_sub(given).min(BLOCK)).unwrap_or_default();
        pool.fill(now);
        let offset = u64::try_from(given).unwrap_or(u64::MAX);
        match chain.write(ram, offset, now)? {
            0 => break,
            written => given = given.saturating_add(written),
        }
    }
    Ok(given)
}
