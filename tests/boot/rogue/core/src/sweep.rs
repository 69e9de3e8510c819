//! The sweep of a list of pages by a device that copies one page at a time.
//!
//! The judge writes the list into the rogue's region, the rogue leaves there what its device has
//! brought it of each page. Neighbours: `tests/boot/rogue-edu`, `xtask/src/testing/rogue/edu.rs`.
//! Invariant: the pages of the region have one use each.

use crate::PAGE;

/// Pages of the region.
pub const PAGES: u64 = 512;
/// Page: the attack.
pub const SOURCE: u64 = 0;
/// Page: what the device holds is brought here.
pub const BROUGHT: u64 = 1;
/// Page: the list begins.
pub const LIST: u64 = 2;
/// Page: what was brought of each page of the list begins, two words each.
pub const LOOT: u64 = 162;
/// Most pages of a list.
pub const MOST: u64 = (LOOT - LIST) * PAGE / 8;
/// In an entry of the list, beside the number of a page: the attack is written to it too.
pub const IS_WRITTEN: u64 = 1 << 63;
/// Pages of a batch; after each the rogue rests until its supervisor tells of refusals again.
pub const BATCH: u64 = 32;

/// The byte of the region where an entry of the list is.
pub fn entry_at(index: u64) -> u64 {
    LIST * PAGE + index * 8
}

/// The byte of the region where the two words of an entry's loot are: zeros if nothing was brought;
/// else the first two of the page, or its first one that is not zero: [`u64::MAX`] and which.
pub fn loot_at(index: u64) -> u64 {
    LOOT * PAGE + index * 16
}

const _: () = assert!(LOOT * PAGE + MOST * 16 < (PAGES - 1) * PAGE);
