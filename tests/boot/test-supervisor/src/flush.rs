//! Has the console ship everything that was logged, before the machine goes down.

use cloister_ring::orders::{FLUSH, FLUSHED};
use cloister_ring::{Link, Message, Side};
use cloister_rt::{Deadline, Duration, Instant, generation, grants, wait};

/// How long the console may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the console says that it is done, or for as long as it may take.
pub fn flush() {
    let Ok(mailbox) = grants().served("flush") else {
        return;
    };
    let Ok(mut link) = Link::new(mailbox.memory.words(), Side::Server, generation()) else {
        return;
    };
    let wake = || mailbox.peer.wake();
    let end = Instant::now() + PATIENCE;
    let mut is_asked = false;
    while Instant::now() < end {
        link.meet(wake);
        if !is_asked {
            is_asked = link.send(&Message([FLUSH, 0, 0, 0, 0, 0, 0, 0]), wake).is_ok();
        }
        if let Ok(Some(message)) = link.receive(wake)
            && is_asked
            && message.0[0] == FLUSHED
        {
            return;
        }
        wait(mailbox.bits, Deadline::At(end.min(Instant::now() + Duration::from_millis(5))));
    }
}
