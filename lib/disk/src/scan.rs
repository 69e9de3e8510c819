//! What is read before anybody is served: the disk's [`partitions`], an encrypted volume's
//! [`header`].

use cloister_rt::grants;
use cloister_volume::{Broken, Scan};

use crate::keys::HEADER;
use crate::own::{Accessible, Blocks, read};
use crate::serve::{Hardware, Pulse};

/// The largest block.
const BLOCK_MAX: usize = 4096;

/// Scans the disk for its table, and says in the log what is wrong with it.
#[inline(never)] // its block is not for the caller's frame
pub(crate) fn partitions<H: Hardware, B: Accessible>(
    hardware: &mut H,
    bounce: &mut B,
    pulse: &Pulse,
    scan: &mut Scan,
) {
    let mut bytes = [0; BLOCK_MAX];
    let size = usize::try_from(hardware.limits().block_size).unwrap_or(BLOCK_MAX).min(BLOCK_MAX);
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
}

/// Reads the header of the encrypted volume that begins at this byte.
pub(crate) fn header<H: Hardware, B: Accessible>(
    hardware: &mut H,
    bounce: &mut B,
    first: u64,
) -> Option<[u8; HEADER]> {
    let mut bytes = [0; HEADER];
    let place = place(hardware, first)?;
    read(hardware, bounce, &Pulse::find(grants()), place, &mut bytes)?;
    Some(bytes)
}

/// Where on the disk the header is that begins at this byte.
pub(crate) fn place<H: Hardware>(hardware: &H, first: u64) -> Option<Blocks> {
    let block_size = u64::from(hardware.limits().block_size);
    let blocks = u64::try_from(HEADER).ok()?.checked_div(block_size)?;
    Some((first.checked_div(block_size)?, u32::try_from(blocks).ok()?))
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
