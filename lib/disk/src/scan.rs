//! What is read before anybody is served: the disk's [`partitions`], an encrypted volume's
//! [`header`].

use cloister_block::{Bounce, Command, Operation, Outcome, Tag};
use cloister_rt::{Deadline, Duration, Instant, grants, wait};
use cloister_volume::{Broken, Scan};

use crate::keys::HEADER;
use crate::serve::{Hardware, Pulse, TICK};

/// How long a block may take. The controller is reset meanwhile, if it has to be.
const PATIENCE: Duration = Duration::from_secs(120);
/// The largest block.
const BLOCK_MAX: usize = 4096;

/// Scans the disk for its table, and says in the log what is wrong with it.
pub(crate) fn partitions<H: Hardware, B: Bounce + ReadBuffer>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
) -> Scan {
    let limits = *hardware.limits();
    let mut scan = Scan::new(limits.block_size, limits.blocks);
    let mut bytes = [0; BLOCK_MAX];
    let size = usize::try_from(limits.block_size).unwrap_or(BLOCK_MAX).min(BLOCK_MAX);
    while let Some(block) = scan.wanted() {
        let bytes = bytes.get_mut(..size).unwrap_or_default();
        let is_read = read(hardware, bounce, pulse, (block, 1), bytes).is_some();
        scan.give(is_read.then_some(bytes));
    }
    match scan.table() {
        Some(Ok((table, None))) => defmt::info!("the disk has {=usize} partitions", table.len()),
        Some(Ok((table, Some(broken)))) => defmt::warn!(
            "the disk's first partition table is broken ({=str}); the copy at its end has \
            {=usize} partitions",
            text(broken),
            table.len()
        ),
        Some(Err(broken)) => {
            defmt::error!("the disk has no partition table that can be used: {=str}", text(broken));
        }
        None => {}
    }
    scan
}

/// A buffer whose bytes can be read.
pub(crate) trait ReadBuffer {
    /// Copies the first bytes of a buffer.
    fn copy(&self, buffer: u8, bytes: &mut [u8]) -> Option<()>;
}

/// Reads the header of the encrypted volume that begins at this byte.
pub(crate) fn header<H: Hardware, B: Bounce + ReadBuffer>(
    hardware: &mut H,
    bounce: &mut B,
    first: u64,
) -> Option<[u8; HEADER]> {
    let block_size = u64::from(hardware.limits().block_size);
    let blocks = u64::try_from(HEADER).ok()?.checked_div(block_size)?;
    let place = (first.checked_div(block_size)?, u32::try_from(blocks).ok()?);
    let mut bytes = [0; HEADER];
    read(hardware, bounce, &Pulse::find(grants()), place, &mut bytes)?;
    Some(bytes)
}

/// Reads a few blocks, and sleeps until they are there.
fn read<H: Hardware, B: Bounce + ReadBuffer>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
    (block, blocks): (u64, u32),
    bytes: &mut [u8],
) -> Option<()> {
    let len = u64::try_from(bytes.len()).ok()?;
    let (buffer, mut segment) = bounce.take(len)?;
    segment.len = len;
    let segments = &[segment];
    let tag = Tag { slot: u8::MAX, generation: 0, client: 0 };
    let command = Command { operation: Operation::Read, block, blocks, segments };
    let end = Instant::now() + PATIENCE;
    let mut taken = hardware.submit(tag, &command).is_ok();
    let mut next_tick = Instant::now() + TICK;
    loop {
        pulse.beat();
        hardware.ring();
        if let Some((found, outcome)) = hardware.poll()
            && found == tag
        {
            let is_read = outcome == Outcome::Done;
            let copied = is_read.then(|| bounce.copy(buffer, bytes)).flatten();
            bounce.release(buffer);
            return copied;
        }
        if Instant::now() >= end {
            // The buffer stays taken: the disk may still write to it.
            return None;
        }
        let woken = wait(hardware.bits() | pulse.bits(), Deadline::At(next_tick)).bits();
        hardware.acknowledge(woken & hardware.bits());
        if Instant::now() >= next_tick {
            hardware.tick();
            next_tick = Instant::now() + TICK;
            taken = taken || hardware.submit(tag, &command).is_ok();
        }
    }
}

/// What is wrong, for a log.
pub(crate) fn text(broken: Broken) -> &'static str {
    match broken {
        Broken::Disk => "the disk is too small for one",
        Broken::Unreadable => "a block of it cannot be read",
        Broken::NoSignature => "it has no signature",
        Broken::HeaderSize => "its header has an impossible length",
        Broken::HeaderChecksum => "its header's checksum is wrong",
        Broken::WrongPlace => "its header belongs to another block",
        Broken::Bounds => "its bounds are impossible",
        Broken::Entries => "its entries are of an impossible size or number",
        Broken::EntriesChecksum => "the checksum of its entries is wrong",
        Broken::Outside => "a partition lies outside of the usable blocks",
        Broken::Overlap => "two partitions overlap",
        Broken::TooMany => "it has too many partitions",
    }
}
