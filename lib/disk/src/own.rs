//! Commands of the driver's own, while nothing of any client is with the disk: [`read`] and
//! [`replace`].
//!
//! Each goes through a buffer of the driver, and is waited for. Neighbours: `scan` and `open` read
//! the partition table and headers before anybody is served, `erase` writes a header afterwards.
//! Invariant: a buffer that the disk may still write to is not given back.

use cloister_block::{Bounce, Command, Operation, Outcome, Segment, Tag};
use cloister_rt::{Deadline, Duration, Instant, wait};

use crate::serve::{Hardware, Pulse, TICK};

/// How long a command may take. The controller is reset meanwhile, if it has to be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A driver's buffers, whose bytes can be read and written.
pub(crate) trait Accessible: Bounce {
    /// Copies the first bytes of a buffer.
    fn copy(&self, buffer: u8, bytes: &mut [u8]) -> Option<()>;

    /// Writes the first bytes of a buffer.
    fn paste(&self, buffer: u8, bytes: &[u8]) -> Option<()>;
}

/// Blocks of the disk: the first, and how many.
pub(crate) type Blocks = (u64, u32);

/// Reads a few blocks, and sleeps until they are there.
pub(crate) fn read<H: Hardware, B: Accessible>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
    place: Blocks,
    bytes: &mut [u8],
) -> Option<()> {
    through(hardware, bounce, pulse, (Operation::Read, place), bytes)
}

/// Writes a few blocks, and has the disk keep them.
pub(crate) fn replace<H: Hardware, B: Accessible>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
    place: Blocks,
    bytes: &mut [u8],
) -> Option<()> {
    through(hardware, bounce, pulse, (Operation::Write, place), bytes)?;
    if hardware.limits().write_cache {
        let flush = Command { operation: Operation::Flush, block: 0, blocks: 0, segments: &[] };
        if command(hardware, pulse, &flush)? != Outcome::Done {
            return None;
        }
    }
    Some(())
}

/// Carries out a command whose bytes go through a buffer.
fn through<H: Hardware, B: Accessible>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
    (operation, (block, blocks)): (Operation, Blocks),
    bytes: &mut [u8],
) -> Option<()> {
    let len = u64::try_from(bytes.len()).ok()?;
    let (buffer, Segment { address, .. }) = bounce.take(len)?;
    if operation == Operation::Write && bounce.paste(buffer, bytes).is_none() {
        bounce.release(buffer);
        return None;
    }
    let segments = &[Segment { address, len }];
    let outcome = command(hardware, pulse, &Command { operation, block, blocks, segments })?;
    let mut done = (outcome == Outcome::Done).then_some(());
    if operation == Operation::Read && done.is_some() {
        done = bounce.copy(buffer, bytes);
    }
    bounce.release(buffer);
    done
}

/// Submits a command, and sleeps until it ended. `None`: it may still be under way.
fn command<H: Hardware>(hardware: &mut H, pulse: &Pulse, command: &Command<'_>) -> Option<Outcome> {
    let tag = Tag { slot: u8::MAX, generation: 0, client: 0 };
    let end = Instant::now() + PATIENCE;
    let mut taken = hardware.submit(tag, command).is_ok();
    let mut next_tick = Instant::now() + TICK;
    loop {
        pulse.beat();
        hardware.ring();
        if let Some((found, outcome)) = hardware.poll()
            && found == tag
        {
            return Some(outcome);
        }
        if Instant::now() >= end {
            return None;
        }
        rest(hardware, pulse, &mut next_tick);
        taken = taken || hardware.submit(tag, command).is_ok();
    }
}

/// Sleeps until the hardware has something to say, and looks after it once a second.
pub(crate) fn rest<H: Hardware>(hardware: &mut H, pulse: &Pulse, next_tick: &mut Instant) {
    let woken = wait(hardware.bits() | pulse.bits(), Deadline::At(*next_tick)).bits();
    let interrupts = woken & hardware.bits();
    hardware.heard(interrupts);
    hardware.acknowledge(interrupts);
    if Instant::now() >= *next_tick {
        hardware.tick();
        *next_tick = Instant::now() + TICK;
    }
}
