//! Erasing an encrypted volume while it is in use: [`erase`].
//!
//! First its client loses the volume and the driver its cipher; then what is with the disk ends, for
//! the other clients as well, which wait for so long; then one write replaces the header. The time
//! does not depend on the volume's size. Invariant: whatever fails, the volume is closed and its
//! cipher gone; it counts as erased only if the disk has said that it keeps the new header.

use cloister_block::Server;
use cloister_guestmem::GuestMemory;
use cloister_rt::Instant;

use crate::keys::Keys;
use crate::open::Sealed;
use crate::own::{PATIENCE, replace, rest};
use crate::scan::place;
use crate::serve::{Hardware, Memory, Pulse, TICK};

/// Erases a volume; `None` if that failed. Not inlined, for the frame of the loop that calls it.
#[inline(never)]
pub(crate) fn erase<H: Hardware, K: Keys>(
    hardware: &mut H,
    (memory, keys): (&mut Memory<'_, K::Seal>, &K),
    server: &mut Server<'static, GuestMemory>,
    volume: &Sealed,
    pulse: &Pulse,
) -> Option<()> {
    server.close(volume.number, hardware, memory);
    memory.unseal(volume.number);
    let end = Instant::now() + PATIENCE;
    let mut next_tick = Instant::now() + TICK;
    while !server.settle(hardware, memory) {
        pulse.beat();
        if Instant::now() >= end {
            return None;
        }
        hardware.ring();
        rest(hardware, pulse, &mut next_tick);
    }
    let mut blank = keys.blank(volume.number)?;
    let place = place(hardware, volume.first)?;
    replace(hardware, memory, pulse, place, &mut blank)
}
