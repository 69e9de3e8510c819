//! Two ends that are joined: [`Pipe`].
//!
//! Bytes go from a chain that one guest sends to a chain that the other wants filled, through a
//! small buffer. A sent chain is a message: it never shares a received buffer with another one, and
//! arrives in one buffer if that is large enough. While the receiver is not there, or has given no
//! buffer, the sender's chains stay where they are: that is the back-pressure, and why nothing is
//! lost between two that live. When an end is reset or dies, the message that was on its way from
//! or to it, and only that one, is dropped.

use cloister_guestmem::{Guest, Ram};
use cloister_virtio::{Change, Device};

use crate::end::{End, RECEIVE, TRANSMIT};

/// Most bytes in one direction in a turn.
pub const TURN_BYTES: usize = 16 << 10;
/// Most received buffers in one direction in a turn.
pub const TURN_MESSAGES: usize = 8;
/// Bytes that are copied at a time.
const BLOCK: usize = 1024;

/// A pipe between two guests.
pub struct Pipe<'a, M> {
    ends: [End<'a, M>; 2],
    /// Whether there may be something to do that was not looked at.
    is_due: bool,
}

impl<'a, M: Ram> Pipe<'a, M> {
    /// Joins two devices; their workers were made with [`crate::OFFER`].
    pub fn new(a: Device<'a, M, 2>, b: Device<'a, M, 2>) -> Self {
        Pipe { ends: [End::new(a), End::new(b)], is_due: false }
    }

    /// Looks for orders of the monitors and for doorbells.
    pub fn look(&mut self) {
        let [a, b] = &mut self.ends;
        let changes = [a.follow(), b.follow()];
        if changes[0] != Change::None {
            drop_begun(b);
        }
        if changes[1] != Change::None {
            drop_begun(a);
        }
        self.is_due |= changes.contains(&Change::Live);
        for end in &mut self.ends {
            // Both are asked, so that neither doorbell is taken for news a second time.
            self.is_due |= end.device.rung(RECEIVE) | end.device.rung(TRANSMIT);
        }
    }

    /// The pipe's turn: a bounded amount in each direction. Whether it may want another one.
    pub fn turn(&mut self) -> bool {
        if !self.is_due {
            return false;
        }
        let [a, b] = &mut self.ends;
        // Both directions have their turn, whatever the first one says.
        self.is_due = carry(a, b) | carry(b, a);
        self.is_due
    }

    /// Prepares for sleep: asks for doorbells. Whether there is something to do already.
    pub fn listen(&mut self) -> bool {
        let [a, b] = &mut self.ends;
        self.is_due |= is_ready(a, b) | is_ready(b, a);
        self.is_due
    }

    /// The devices of both ends, for what is to be told to monitors and log.
    pub fn devices(&mut self) -> [&mut Device<'a, M, 2>; 2] {
        self.ends.each_mut().map(|end| &mut end.device)
    }
}

/// Gives a message back that has begun to leave for an end that is gone.
fn drop_begun<M: Ram>(from: &mut End<'_, M>) {
    if !from.is_at_start() {
        from.sent();
        from.device.interrupt(TRANSMIT);
    }
}

/// Whether a message could go one way now.
fn is_ready<M: Ram>(from: &mut End<'_, M>, to: &mut End<'_, M>) -> bool {
    from.waits_to_send() & to.has_room()
}

/// Carries messages one way. Whether more may be there.
fn carry<M: Ram>(from: &mut End<'_, M>, to: &mut End<'_, M>) -> bool {
    let mut block = Guest::new([0; BLOCK]);
    let (mut bytes, mut messages) = (TURN_BYTES, TURN_MESSAGES);
    let more = loop {
        if bytes == 0 || messages == 0 {
            break true;
        }
        if !to.device.is_live(RECEIVE) {
            drop_begun(from);
            break false;
        }
        let Some(left) = from.outgoing() else {
            break false;
        };
        let Some(room) = to.room() else {
            // A device that has just failed is seen as gone in the next round of this loop.
            if to.device.is_live(RECEIVE) {
                break false;
            }
            continue;
        };
        if from.is_at_start() {
            // What an end left behind that went away in the middle of a message.
            to.empty();
        }
        let Some(copied) = copy(from, to, &mut block, bytes.min(least(left, room))) else {
            continue;
        };
        bytes = bytes.saturating_sub(copied);
        let copied = u64::try_from(copied).unwrap_or(u64::MAX);
        if copied >= left || copied >= room {
            to.filled();
            messages = messages.saturating_sub(1);
        }
        if copied >= left {
            from.sent();
        }
    };
    from.device.interrupt(TRANSMIT);
    to.device.interrupt(RECEIVE);
    more
}

fn least(left: u64, room: u64) -> usize {
    usize::try_from(left.min(room)).unwrap_or(usize::MAX)
}

/// Copies at most `most` bytes. How many; `None` if an end failed.
fn copy<M: Ram>(
    from: &mut End<'_, M>,
    to: &mut End<'_, M>,
    block: &mut Guest<[u8; BLOCK]>,
    most: usize,
) -> Option<usize> {
    let bytes = block.expose_mut().get_mut(..most.min(BLOCK))?;
    let read = from.send(bytes)?;
    to.fill(bytes.get(..read)?)
}
