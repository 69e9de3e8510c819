//! Memory as a controller wants it named: physical region pages ("Physical Region Page Entry and
//! List").
//!
//! The first entry may begin anywhere in a page, all others are whole pages, the last as far as
//! the command goes. Two entries fit into the command; of more than two, all but the first stand
//! in a list. The block server gives memory in pieces that meet at page boundaries.

use cloister_block::Segment;
use cloister_dma::Memory;

use crate::plan::LIST_BYTES;

const PAGE: u64 = 4096;
/// Entries of a list.
const LIST_MAX: u64 = LIST_BYTES / 8;
/// Most bytes of a command's memory: with the first entry in the middle of a page there is one
/// more entry than there are pages.
pub(crate) const BYTES_MAX: u64 = LIST_MAX * PAGE;

/// The two entries of a command for some memory; the list, if it needs one, is written at `list`.
/// `None` if the memory has more pages than a list.
pub(crate) fn entries(memory: &impl Memory, list: u64, segments: &[Segment]) -> Option<[u64; 2]> {
    let (mut first, mut second, mut count) = (0, 0, 0u64);
    for segment in segments {
        let mut page = segment.address;
        let end = page.checked_add(segment.len)?;
        while page < end {
            match count {
                0 => first = page,
                1 => second = page,
                more => {
                    if more == 2 {
                        memory.store_u64(list, second)?;
                    }
                    if more > LIST_MAX {
                        return None;
                    }
                    // The first of all is not in the list.
                    let place = list.checked_add(more.wrapping_sub(1).wrapping_mul(8))?;
                    memory.store_u64(place, page)?;
                }
            }
            count = count.wrapping_add(1);
            page = (page | PAGE.wrapping_sub(1)).checked_add(1)?;
        }
    }
    Some([first, if count > 2 { memory.address(list) } else { second }])
}
